"""One agent against frozen others: a team's environment in which all agents but one act by a given policy.

What the one learns here is a best response to the others: how much more it earns than by its own part of the policy is
what the policy can be exploited by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from offline_marl.core.acting.history import begin_memory
from offline_marl.core.acting.inputs import unchecked
from offline_marl.core.partition import Partition
from offline_marl.core.types import DataError, Policy, Spec
from offline_marl.environments.base import Environment, Flags, Floats, Frame, JointEnv, Seen, TeamActions
from offline_marl.environments.episodes import Step, seen_tensors


class OneAgainstFrozen:
    """A `JointEnv` of a single agent; the others act in it, without exploration, each from what it sees itself.

    An episode ends when the agent leaves, whatever the others still do.

    Args:
        env: The team's environment.
        policy: Acts for the others, and remembers what the whole team did.
        agent: Index of the agent that is free.

    Raises:
        DataError: There is no such agent, or nobody beside it.
    """

    def __init__(self, env: JointEnv, policy: Policy, agent: int) -> None:
        team = env.spec
        if team.n_agents < 2 or not 0 <= agent < team.n_agents:
            raise DataError(f"There is no agent {agent} with others beside it: the team has {team.n_agents} agents.")
        self.env, self.policy, self.agent = env, policy, agent
        self.copies, self.max_steps = env.copies, env.max_steps
        self.spec = Spec(
            obs_dims=(team.obs_dims[agent],),
            act_dims=(team.act_dims[agent],),
            state_dim=team.state_dim,
            action_kind=team.action_kind,
        )

    def reset(self, seeds: Sequence[int]) -> Seen:
        """See `JointEnv.reset`."""
        self._seen = self.env.reset(seeds)
        self._memory = begin_memory(self.policy, self.env.spec, len(seeds))
        self._terminations, self._truncations = (np.zeros(len(seeds), np.bool_) for _ in range(2))
        self._shown = self._own(self._seen)
        return self._shown

    @torch.no_grad()
    def step(self, actions: TeamActions) -> tuple[Seen, Floats, Flags, Flags]:
        """See `JointEnv.step`; the rewards and the flags are the one agent's own."""
        obs, avail = seen_tensors(self._seen, "cpu")
        chosen = unchecked(self.policy)(obs, **self._memory.read(), avail_actions=avail)
        team: Any = chosen.numpy().copy()
        if self.spec.discrete:
            team[:, self.agent] = actions[:, 0]
        else:
            team[:, self.agent, : self.spec.act_dim] = actions[:, 0]
        if self._seen.present is not None:  # who is away does nothing, and remembers that
            team[~self._seen.present] = 0
        before, going = self._seen, ~(self._terminations | self._truncations)
        self._seen, rewards, terminations, truncations = self.env.step(team)
        self._memory.remember(obs, torch.from_numpy(team), torch.from_numpy(rewards))
        step = Step(before, team, rewards, terminations, truncations, going, self._seen)
        over, cut = (flags[:, self.agent] for flags in step.agent_flags(self.env.spec.n_agents))
        # Of an agent that never came there are no flags: its episode is as long as the others'.
        without = ~(over | cut)
        self._terminations |= going & (over | (without & terminations))
        self._truncations |= going & (cut | (without & truncations))
        self._shown = _kept(self._shown, self._own(self._seen), going)
        paid: Floats = np.where(going, earned(step, self.agent), 0)[:, None]
        return self._shown, paid, self._terminations.copy(), self._truncations.copy()

    def versions(self) -> dict[str, str]:
        """Those of the team's environment."""
        return self.env.versions() if hasattr(self.env, "versions") else {}

    def render(self, copy: int = 0) -> Frame:
        """The whole team."""
        return self.env.render(copy)

    def close(self) -> None:
        """Let go of the simulator's memory."""
        self.env.close()

    def _own(self, seen: Seen) -> Seen:
        """What the one agent sees."""
        one, avail = [self.agent], seen.avail_actions
        return Seen(
            np.ascontiguousarray(seen.obs[:, one, : self.spec.obs_dim]),
            seen.state,
            None if avail is None else np.ascontiguousarray(avail[:, one, : self.spec.act_dim]),
            None if seen.present is None else seen.present[:, one],
            None if seen.terminated is None else seen.terminated[:, one],
        )


def earned(step: Step, agent: int) -> Floats:
    """Rewards [copy] of one agent of a team, of the steps that it was there alone."""
    own: Floats = step.rewards[:, agent]
    return own if step.seen.present is None else np.where(step.seen.present[:, agent], own, 0)


def _kept(then: Seen, now: Seen, going: Flags) -> Seen:
    """What is seen now, but in copies that had ended what they showed then."""
    if going.all():
        return now

    def chosen(name: str) -> Any:
        old, new = getattr(then, name), getattr(now, name)
        if old is None or new is None:
            return new
        return np.where(going.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return Seen(*(chosen(name) for name in ("obs", "state", "avail_actions", "present", "terminated")))


def against(kind: type[Environment], partition: Partition | None, policy: Policy, agent: int) -> type[Environment]:
    """The environment of one agent whose team-mates are frozen.

    Args:
        kind: The team's environment.
        partition: How it shares a body among the team.
        policy: See `OneAgainstFrozen`.
        agent: See there.
    """

    class BestResponse(Environment):
        """One agent against frozen others."""

        @classmethod
        def make(cls, _: Partition | None, copies: int) -> OneAgainstFrozen:
            """The agent's task in many copies."""
            return OneAgainstFrozen(kind.make(partition, copies), policy, agent)

    return BestResponse
