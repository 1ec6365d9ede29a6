"""Recordable tasks: a whole body and a task made for a team behind one interface of the acting loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from offline_marl.core.partition import SCENARIOS, Partition
from offline_marl.core.seeding import derive
from offline_marl.core.types import Spec
from offline_marl.datasets.arrays.presence import Ends, with_presence
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.environments.base import (
    Environment,
    Flags,
    Floats,
    JointEnv,
    Seen,
    Simulator,
    TeamActions,
    refuse_scores_only,
)
from offline_marl.environments.episodes import Controller, Step, run_episodes
from offline_marl.environments.guarded import Guarded, GuardedBody, build_in_time

Noise = Callable[[TeamActions, Seen, int], TeamActions]
"""Actions, what was seen and the step -> the actions with noise."""


class Recordable:
    """Many copies of a task whose episodes become a recording or a data set.

    A body is moved as a whole, so that its recording can be shared among agents in every way; a team acts as such.

    Args:
        task: The whole body, or the task as its team sees it.
        spec: The team; None for a body.
        name: The environment's.
        kind: Its entry in the registry.
    """

    def __init__(
        self, task: Any, spec: Spec | None, name: str = "a task", kind: type[Environment] = Environment
    ) -> None:
        self._task, self.spec, self.name, self.kind = task, spec, name, kind
        self.body = spec is None
        self.copies: int = task.copies
        """How many episodes can run side by side."""
        self.max_steps: int = task.max_steps
        """Of the longest episode."""
        self.action_shape: tuple[int, ...] = (task.action_dim,) if spec is None else (spec.n_agents, spec.act_dim)
        """Axes of one joint action as numbers; where actions are choices, of a number for each choice."""
        # True where an agent owns an entry of the joint action; a choice is one entry, so it has no last axis.
        self._owned: npt.NDArray[np.bool_] = np.zeros((0, *self.action_shape), np.bool_)
        if spec is not None:
            diagonal = np.eye(spec.n_agents, dtype=np.bool_)
            self._owned = diagonal if spec.discrete else diagonal[..., None]

    @classmethod
    def of_body(cls, simulator: Simulator) -> Recordable:
        """A whole body."""
        return cls(simulator, None)

    @classmethod
    def of_team(cls, env: JointEnv) -> Recordable:
        """A task as its team sees it."""
        return cls(env, env.spec)

    @classmethod
    def built(cls, name: str, kind: type[Environment], copies: int) -> Recordable:
        """An environment of the registry, or one by its import path."""
        refuse_scores_only(name, kind)
        if name in SCENARIOS:
            return cls(GuardedBody(build_in_time(lambda: kind.simulator(copies), name), name), None, name, kind)
        env = Guarded(build_in_time(lambda: kind.make(None, copies), name), name)
        return cls(env, env.spec, name, kind)

    @property
    def versions(self) -> dict[str, str]:
        """The task's id and the versions of what its episodes depend on, as far as it tells."""
        return self._task.versions() if hasattr(self._task, "versions") else {}

    @property
    def agents(self) -> int:
        """How many there are; 0 on a body that nobody has shared out."""
        return len(self._owned)

    def share(self, partition: Partition) -> None:
        """Say who the agents of a body are."""
        self._owned = np.zeros((len(partition.agents), *self.action_shape), np.bool_)
        for agent, columns in enumerate(partition.act_index):
            self._owned[agent, list(columns)] = True

    def exchanged(self, actions: TeamActions, others: TeamActions, agents: Sequence[int]) -> TeamActions:
        """The actions, those of one agent of each episode taken from `others`."""
        taken: TeamActions = np.where(self._owned[list(agents)], others, actions).astype(actions.dtype, copy=False)
        return taken

    def reset(self, seeds: Sequence[int]) -> Seen:
        """Start one episode per seed."""
        return self._seen(self._task.reset(seeds))

    def step(self, actions: TeamActions) -> tuple[Seen, Floats, Flags, Flags]:
        """What is seen next, rewards ([copy] on a body, [copy, agent] in a team), terminations and truncations."""
        outcome: Any = self._task.step(actions)
        if self.spec is None:
            return self._seen(outcome.state), outcome.rewards, outcome.terminations, outcome.truncations
        seen, rewards, terminations, truncations = outcome
        return seen, rewards, terminations, truncations

    def record(self, seeds: Sequence[int], controller: Controller) -> Any:
        """Run one episode per seed, side by side, into a recording (of a body) or a data set (of a team)."""
        if self.spec is None or not self.spec.discrete:
            controller = _Single(controller)
        tensors = self._flat_tensors(run_episodes(self, seeds, controller))
        return Recording(**tensors) if self.spec is None else Dataset(**{**tensors, "spec": self.spec})

    def _flat_tensors(self, steps: Iterable[Step]) -> dict[str, Any]:
        """Episodes side by side unwound into one after another, `lengths` among the tensors."""
        states: list[dict[str, Any]] = []
        transitions: list[dict[str, Any]] = []
        running = []
        for step in steps:
            if not states:
                states.append(self._visible(step.seen))
            states.append(self._visible(step.next_seen))
            transitions.append(self._transition(step))
            running.append(step.running)
        self._fill_choices(states)
        acted = np.stack(running, axis=1)
        # An episode has one row of what is seen more than steps: its first row stands before all of them.
        seen = np.concatenate([np.ones((len(acted), 1), dtype=bool), acted], axis=1)
        tensors: dict[str, Any] = {"lengths": torch.from_numpy(acted.sum(1))}
        for frames, rows in ((states, seen), (transitions, acted)):
            for name, first in frames[0].items():
                if first is not None:
                    tensors[name] = torch.from_numpy(np.stack([frame[name] for frame in frames], axis=1)[rows])
        if self.spec is None or "mask" not in tensors:
            return tensors
        over, cut, mask = (tensors.pop(name) for name in ("terminations", "truncations", "mask"))
        ends = Ends(over, cut, tensors["lengths"], None if bool(mask.all()) else mask)
        return with_presence({**tensors, "spec": self.spec}, ends)

    def _visible(self, seen: Seen) -> dict[str, Any]:
        if self.spec is None:
            return {"state": seen.state}
        return {"obs": seen.obs, "state": seen.state, "avail_actions": seen.avail_actions}

    def _fill_choices(self, states: Sequence[dict[str, Any]]) -> None:
        """Allow all choices where none are told, if some are told elsewhere."""
        if self.spec is None or all(state["avail_actions"] is None for state in states):
            return
        every = self.spec.present("act").numpy()
        for state in states:
            if state["avail_actions"] is None:
                state["avail_actions"] = np.broadcast_to(every, (len(state["obs"]), *every.shape))

    def _transition(self, step: Step) -> dict[str, Any]:
        flags: dict[str, Any] = {"terminations": step.terminations, "truncations": step.truncations}
        if self.spec is not None:
            flags = dict(zip(flags, step.agent_flags(self.spec.n_agents), strict=True))
            flags["mask"] = step.seen.present
        return {"actions": step.actions, "rewards": step.rewards, **flags}

    def uniform(self, lots: npt.NDArray[np.floating[Any]], seen: Seen) -> TeamActions:
        """Uniform actions from uniform lots in [0, 1)."""
        if self.spec is None:
            return 2 * lots - 1
        return uniform_actions(self.spec, lots, seen)

    def noise(self, seeds: Sequence[int], levels: Sequence[float]) -> Noise:
        """Each episode's own noise on its actions.

        Gaussian of deviation `level`; where actions are choices, any choice with the chance `level`.
        """
        draws = [np.random.default_rng(derive(seed, "noise")) for seed in seeds]
        if self.spec is not None and self.spec.discrete:
            scale = np.array(levels)[:, None, None]
            slips = np.stack([draw.random((self.max_steps, self.spec.n_agents)) for draw in draws]) < scale
            lots = np.stack([draw.random((self.max_steps, *self.action_shape), np.float32) for draw in draws])
            return lambda actions, seen, step: np.where(slips[:, step], self.uniform(lots[:, step], seen), actions)
        present = 1 if self.spec is None else self.spec.present("act").numpy()
        shape, pairs = (self.max_steps, *self.action_shape), zip(draws, levels, strict=True)
        gaussian = np.stack([level * draw.standard_normal(shape) * present for draw, level in pairs])
        gaussian = gaussian.astype(np.float32)
        return lambda actions, seen, step: np.clip(actions + gaussian[:, step], -1, 1)

    def close(self) -> None:
        """Let go of the simulator's memory."""
        self._task.close()

    def _seen(self, shown: Any) -> Seen:
        return Seen(shown[:, None], shown) if self.spec is None else shown


@dataclass(frozen=True, slots=True)
class _Single:
    """A controller whose actions are float32, the precision of data: numpy's own is twice that."""

    controller: Controller

    def act(self, seen: Seen, step: int) -> TeamActions:
        return np.asarray(self.controller.act(seen, step), np.float32)

    def remember(self, rewards: Floats) -> None:
        self.controller.remember(rewards)


def uniform_actions(spec: Spec, lots: npt.NDArray[np.floating[Any]], seen: Seen) -> TeamActions:
    """Uniform actions, or uniform choices among those that can be made, from lots in [0, 1)."""
    present = spec.present("act").numpy()
    if not spec.discrete:
        spread: TeamActions = (2 * lots - 1) * present
        return spread
    # The largest of uniform draws over the choices that can be made is any of them with the same chance.
    chosen: TeamActions = np.where(present if seen.avail_actions is None else seen.avail_actions, lots, -1.0).argmax(-1)
    return chosen
