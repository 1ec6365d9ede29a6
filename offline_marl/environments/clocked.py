"""Base of tasks made for a team whose copies step together and end after a fixed number of steps.

All copies move as one array. The last step terminates: the clock is part of what agents see, so nothing comes after.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt

from offline_marl.core.partition import Partition
from offline_marl.core.types import DataError, Spec
from offline_marl.environments.base import Flags, Floats, Frame, NoPictureError, PerCopy, Seen, State, TeamActions


class ClockedTeam(ABC):
    """Many copies of a task of fixed length; a `JointEnv` once `begin`, `move` and `see` are written.

    Args:
        name: What errors call the task.
        spec: What the team sees and does.
        copies: How many episodes can run side by side.
        max_steps: Every episode lasts so many steps.

    Raises:
        DataError: There is not even one copy, or one step.
    """

    def __init__(self, name: str, spec: Spec, copies: int, max_steps: int) -> None:
        if min(copies, max_steps) < 1:
            raise DataError(f"{name} needs at least 1 copy and 1 step, but was given {copies} and {max_steps}.")
        self.name, self.spec, self.copies, self.max_steps = name, spec, copies, max_steps
        self.clock: Annotated[npt.NDArray[np.int64], "copy"] = np.zeros(0, np.int64)
        """Steps done in each running copy."""
        self._running = 0

    @abstractmethod
    def begin(self, seeds: Sequence[int]) -> None:
        """Set up one episode per seed."""

    @abstractmethod
    def place(self, state: State) -> Annotated[npt.NDArray[np.int64], "copy"]:
        """Set up one episode per state; returns the steps done in each."""

    @abstractmethod
    def move(self, actions: TeamActions, going: Flags) -> PerCopy:
        """Let all agents act in the copies that are going; clocks stand at the steps done before. Returns rewards."""

    @abstractmethod
    def see(self) -> Seen:
        """Observations of the teams at these clocks, in arrays of their own."""

    def reset(self, seeds: Sequence[int]) -> Seen:
        """Start one episode per seed, in the first copies; the others rest.

        Raises:
            DataError: There are no seeds, more seeds than copies, or the same seed twice.
        """
        running = len(seeds)
        if not 1 <= running <= self.copies:
            raise DataError(f"{self.name} has {self.copies} copies, but was reset with {running} seeds.")
        if len(set(seeds)) < running:
            raise DataError(f"Each copy of {self.name} needs its own seed, but one is given twice.")
        self._running, self.clock = running, np.zeros(running, np.int64)
        self.begin(seeds)
        return self.see()

    def restore(self, state: State) -> Seen:
        """Go on from each of these recorded states, clocks included, in the first copies.

        Raises:
            DataError: There are none, or more than copies, or they are of another width.
        """
        if not 1 <= len(state) <= self.copies or state.shape[1] != self.spec.state_dim:
            raise DataError(
                f"{self.name} has {self.copies} copies with {self.spec.state_dim} numbers of state, "
                f"but was given {len(state)} states of {state.shape[1]}."
            )
        self._running = len(state)
        self.clock = self.place(state)
        return self.see()

    def step(self, actions: TeamActions) -> tuple[Seen, Floats, Flags, Flags]:
        """Let all agents act at once; after the last step nothing moves and nothing is earned.

        Returns:
            What they see next, rewards [copy, agent], terminations [copy] and truncations [copy].

        Raises:
            DataError: The actions are not [running copies, agent, act] or, for choices, [running copies, agent];
                one is not finite, or is no choice.
        """
        self._refuse(actions)
        going = self.clock < self.max_steps
        rewards = np.where(going, self.move(actions, going), np.float32(0))
        self.clock = self.clock + going
        over = self.clock == self.max_steps
        return self.see(), np.repeat(rewards[:, None], self.spec.n_agents, axis=1), over, np.zeros_like(over)

    def versions(self) -> dict[str, str]:
        """None: the task is part of this library."""
        return {}

    def render(self, copy: int = 0) -> Frame:
        """Nothing to be seen.

        Raises:
            NoPictureError: Always.
        """
        raise NoPictureError(f"{self.name} has no picture.")

    def close(self) -> None:
        """Let go of the running episodes."""
        self._running = 0

    def _refuse(self, actions: TeamActions) -> None:
        spec = self.spec
        shape = (self._running, spec.n_agents) if spec.discrete else (self._running, spec.n_agents, spec.act_dim)
        if actions.shape != shape:
            raise DataError(f"{self.name} expects actions of shape {shape}, got {actions.shape}.")
        if spec.discrete:
            if not np.issubdtype(actions.dtype, np.integer):
                raise DataError(f"{self.name} expects choices, whole numbers from 0, not {actions.dtype}.")
            if ((actions < 0) | (actions >= np.array(spec.act_dims))).any():
                raise DataError(f"{self.name} has choices 0 to {spec.act_dim - 1}, but another one was made.")
        elif not np.isfinite(actions).all():
            raise DataError(f"Some actions in {self.name} are not finite.")


def refuse_partition(name: str, partition: Partition | None) -> None:
    """A task made for a team is not shared out.

    Raises:
        DataError: There is a partition.
    """
    if partition is not None:
        raise DataError(f"Partition {partition.key} shares out {partition.scenario}, but {name} is made for a team.")
