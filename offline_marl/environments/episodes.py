"""The acting loop: episodes of a controller in many copies of an environment, stepped side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline_marl.core.acting.history import begin_memory
from offline_marl.core.acting.inputs import unchecked
from offline_marl.core.seeding import derive
from offline_marl.core.types import DataError, Policy, Spec
from offline_marl.environments.base import AgentFlags, Flags, Floats, JointEnv, Seen, State, TeamActions
from offline_marl.environments.checks import refuse_bad_rewards, refuse_bad_sight, refuse_no_choice


class Steppable(Protocol):
    """The part of a `JointEnv` that the acting loop needs; a whole body offers it too."""

    def reset(self, seeds: Sequence[int]) -> Seen:
        """Start one episode per seed."""
        ...

    def step(self, actions: TeamActions) -> tuple[Seen, Floats, Flags, Flags]:
        """What is seen next, rewards, terminations and truncations."""
        ...


class Controller(Protocol):
    """The source of actions in episodes side by side, with a memory of these episodes alone."""

    def act(self, seen: Seen, step: int) -> TeamActions:
        """Joint actions on a body, actions of all agents in a team."""
        ...

    def remember(self, rewards: Floats) -> None:
        """Take in what the step earned that `act` was last asked for."""
        ...


@dataclass(frozen=True, slots=True)
class Memoryless:
    """A controller without memory: a function of the observations and of the step."""

    function: Callable[[Seen, int], TeamActions]

    def act(self, seen: Seen, step: int) -> TeamActions:
        """What the function says."""
        return self.function(seen, step)

    def remember(self, rewards: Floats) -> None:
        """Nothing."""


class PolicyController:
    """A controller that asks a policy, with the policy's memory of these episodes.

    Args:
        policy: Acts for the team.
        spec: The team.
        copies: Episodes side by side.
        device: Where the policy is.
        explore: Whether actions are drawn, instead of the likeliest taken.
    """

    def __init__(
        self, policy: Policy, spec: Spec, copies: int, device: torch.device | str = "cpu", explore: bool = False
    ) -> None:
        self.policy, self.spec, self.device, self.explore = policy, spec, device, explore
        self.memory = begin_memory(policy, spec, copies, device)
        self.read: Mapping[str, Any] = {}
        """What `act` last read of the memory."""

    @torch.no_grad()
    def act(self, seen: Seen, step: int) -> TeamActions:
        """The policy's actions.

        Raises:
            DataError: They are of another shape than the team's.
        """
        obs, avail = seen_tensors(seen, self.device)
        self.read = self.memory.read()
        actions = unchecked(self.policy)(obs, **self.read, avail_actions=avail, explore=self.explore)
        shape = obs.shape[:-1] if self.spec.discrete else (*obs.shape[:-1], self.spec.act_dim)
        if actions.shape != shape:
            name = type(self.policy).__name__
            raise DataError(
                f"{name}.act answered actions of shape {tuple(actions.shape)}; those of the team are {tuple(shape)}."
            )
        if seen.present is not None:  # who is away does nothing, and remembers that
            away = torch.from_numpy(~seen.present).to(actions.device)
            actions = actions.masked_fill(away.view(*away.shape, *[1] * (actions.dim() - 2)), 0)
        self._last = obs, actions
        chosen: TeamActions = actions.cpu().numpy()
        return chosen

    @torch.no_grad()
    def remember(self, rewards: Floats) -> None:
        """Add the step to the memory, with the policy's own choice."""
        self.memory.remember(*self._last, torch.from_numpy(rewards).to(self.device))


@dataclass(frozen=True, slots=True)
class Step:
    """One transition of every episode side by side."""

    seen: Seen
    """Before the step."""
    actions: TeamActions
    rewards: Floats
    terminations: Flags
    truncations: Flags
    running: Flags
    """Copies whose episode had not ended before the step; the others stay as they are."""
    next_seen: Seen

    @property
    def ended(self) -> Flags:
        """Copies whose episode is over after the step."""
        over: Flags = self.terminations | self.truncations | ~self.running
        return over

    def agent_flags(self, n_agents: int) -> tuple[AgentFlags, AgentFlags]:
        """Terminations and truncations of each agent, true in its own last step."""
        there, after = self.seen.present, self.next_seen
        if there is None or after.present is None:
            over, cut = (np.repeat(flag[:, None], n_agents, axis=1) for flag in (self.terminations, self.truncations))
            return over, cut
        gone = there & (~after.present | (self.terminations | self.truncations)[:, None])
        told = self.terminations[:, None] if after.terminated is None else after.terminated
        return gone & told, gone & ~told


def run_episodes(env: Steppable, seeds: Sequence[int], controller: Controller) -> Iterator[Step]:
    """One episode per seed, side by side until the last one has ended.

    The episodes begin with the call; each step is taken when it is asked for.

    Raises:
        BadNumbersError: What the environment shows or pays is not finite, or it allows an agent nothing.
    """
    return _steps(env, env.reset(seeds), seeds, controller)


def _steps(env: Steppable, seen: Seen, seeds: Sequence[int], controller: Controller) -> Iterator[Step]:
    running = np.ones(len(seeds), dtype=np.bool_)
    number = 0
    refuse_bad_sight(seen, running, number, seeds)
    while running.any():
        refuse_no_choice(seen, running, number, seeds)
        actions = controller.act(seen, number)
        next_seen, rewards, terminations, truncations = env.step(actions)
        refuse_bad_sight(next_seen, running, number + 1, seeds)
        refuse_bad_rewards(rewards, running, number + 1, seeds)
        controller.remember(rewards)
        step = Step(seen, actions, rewards, terminations, truncations, running, next_seen)
        yield step
        seen, running, number = next_seen, ~step.ended, number + 1


@dataclass(frozen=True, slots=True)
class Episodes:
    """Returns and last states of finished episodes."""

    returns: npt.NDArray[np.float64]
    """One per episode, averaged over agents."""
    ends: State | None
    """Last states, where the environment tells them."""


Watch = Callable[[JointEnv, Sequence[int], Step], None]
"""Told the environment, the seeds of the episodes side by side, and each step that was taken in them."""


def play(
    policy: Policy,
    env: JointEnv,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    explore: bool = False,
    watch: Watch | None = None,
) -> Episodes:
    """One episode per seed; deterministic actions unless `explore`."""
    parts = []
    for first in range(0, len(seeds), env.copies):
        chunk = seeds[first : first + env.copies]
        totals, ends = np.zeros(len(chunk)), None
        for step in run_episodes(env, chunk, PolicyController(policy, env.spec, len(chunk), device, explore)):
            totals += step.rewards.mean(1, dtype=np.float64)
            ends = step.next_seen.state
            if watch is not None:
                watch(env, chunk, step)
        parts.append(Episodes(totals, ends))
    known = [part.ends for part in parts if part.ends is not None]
    return Episodes(np.concatenate([part.returns for part in parts]), np.concatenate(known) if known else None)


def episode_seeds(seed: int, count: int) -> list[int]:
    """Distinct seeds for simulators, below 2**31."""
    seeds: dict[int, None] = {}
    number = 0
    while len(seeds) < count:
        seeds[derive(seed, "evaluation", number) % 2**31] = None
        number += 1
    return list(seeds)


def seen_tensors(seen: Seen, device: torch.device | str) -> tuple[Tensor, Tensor | None]:
    """Observations and available actions as tensors."""
    avail = None if seen.avail_actions is None else torch.from_numpy(seen.avail_actions).to(device)
    return torch.from_numpy(seen.obs).to(device), avail
