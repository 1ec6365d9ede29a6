"""Iterated coordination game: a reward for all agents making the same choice, whichever it is.

Each of 6 steps pays 1 if all 3 agents made the same of 3 choices, else 0; who keeps to one choice earns 6, the
most there is. Agents see the step and their own last choice, so that nothing says at first which choice it will
be: they must have agreed before. Uniform play earns 6 / 3^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt

from offline_marl.core.partition import Partition
from offline_marl.core.types import Spec
from offline_marl.environments.base import (
    NOTHING,
    Conventions,
    Environment,
    Flags,
    Floats,
    PerCopy,
    ScriptedExpert,
    Seen,
    State,
    TeamActions,
    environments,
)
from offline_marl.environments.clocked import ClockedTeam, refuse_partition

CONVENTIONS = ("red", "green", "blue")
AGENTS, STEPS = 3, 6


class CoordinationGame(ClockedTeam):
    """The game in many copies. It has no chance of its own: every seed gives the same episode.

    An agent sees its last choice (one-hot, zeros at first) and the step (one-hot, zeros after the last).

    Args:
        copies: How many episodes can run side by side.
        agents: How many must agree.
        choices: How many conventions there are.
        steps: Length of an episode, and its best return.
    """

    def __init__(self, copies: int, agents: int = AGENTS, choices: int = len(CONVENTIONS), steps: int = STEPS) -> None:
        spec = Spec(
            obs_dims=(choices + steps,) * agents,
            act_dims=(choices,) * agents,
            state_dim=agents * choices + steps,
            action_kind="discrete",
        )
        super().__init__("coordination", spec, copies, steps)
        self._last: Annotated[Floats, "copy agent choice"] = np.zeros((0, agents, choices), np.float32)
        # One row more than there are steps: after the last one the clock shows zeros.
        self._clocks = np.eye(steps + 1, steps, dtype=np.float32)
        self._one_hot = np.eye(choices, dtype=np.float32)

    def begin(self, seeds: Sequence[int]) -> None:
        """Nobody has chosen yet."""
        self._last = np.zeros((len(seeds), *self._last.shape[1:]), np.float32)

    def place(self, state: State) -> Annotated[npt.NDArray[np.int64], "copy"]:
        """Last choices and clock are the state."""
        last = self._last.shape[1:]
        self._last = state[:, : last[0] * last[1]].reshape(len(state), *last).astype(np.float32)
        clocks = state[:, last[0] * last[1] :]
        return np.where(clocks.any(axis=1), clocks.argmax(axis=1), self.max_steps)

    def move(self, actions: TeamActions, going: Flags) -> PerCopy:
        """1 where all agree."""
        self._last = np.where(going[:, None, None], self._one_hot[actions], self._last)
        agree: Flags = (actions == actions[:, :1]).all(axis=1)
        return agree.astype(np.float32)

    def see(self) -> Seen:
        """Own last choices and the clock; all choices can be made. The state is what everybody did."""
        copies, agents, choices = self._last.shape
        obs = np.empty((copies, agents, self.spec.obs_dim), np.float32)
        obs[..., :choices], obs[..., choices:] = self._last, self._clocks[self.clock][:, None]
        state = np.empty((copies, self.spec.state_dim), np.float32)
        state[:, : agents * choices] = self._last.reshape(copies, -1)
        state[:, agents * choices :] = self._clocks[self.clock]
        return Seen(obs, state, np.ones((copies, agents, choices), np.bool_))


@dataclass(frozen=True, slots=True)
class Keeper:
    """Keeps to one convention, whatever it sees."""

    name: str
    choice: int

    def act(self, seen: Floats) -> npt.NDArray[np.int64]:
        """The convention's choice, for every agent."""
        return np.full(seen.shape[:2], self.choice)


@environments.register("coordination")
class Coordination(Environment):
    """Three agents, three conventions, six steps."""

    experts: ClassVar[tuple[str, ...]] = CONVENTIONS

    @classmethod
    def make(cls, partition: Partition | None, copies: int) -> CoordinationGame:
        """The game in many copies.

        Raises:
            DataError: There is a partition, though there is no body to share out.
        """
        refuse_partition("coordination", partition)
        return CoordinationGame(copies)

    @classmethod
    def scripted(cls, name: str) -> ScriptedExpert:
        """The expert that keeps to the convention of this name.

        Raises:
            RegistryError: There is none of that name; the answer lists all.
        """
        if name not in CONVENTIONS:
            return super().scripted(name)
        return Keeper(name, CONVENTIONS.index(name))

    @classmethod
    def conventions(cls, ends: State, partition: Partition | None) -> Conventions:
        """Each agent's last choice."""
        last = ends[:, : AGENTS * len(CONVENTIONS)].reshape(len(ends), AGENTS, len(CONVENTIONS))
        return Conventions(CONVENTIONS, np.where(last.any(axis=2), last.argmax(axis=2), NOTHING))
