"""Seesaw: two agents sit at the ends of a board and keep it level, each by pushing its own end up.

Tilt and speed follow w' = w + dt (p_right - p_left) and t' = t + dt w', with pushes p in [-1, 1]. Each of 25 steps
pays -t'^2 - 0.05 mean_i p_i^2. An agent sees the height and the speed of its own end, and the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from offline_marl import Spec
from offline_marl.core.partition import Partition
from offline_marl.environments.base import (
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

STEPS, DT, COST = 25, 0.2, 0.05
SIDES = np.array([-1.0, 1.0], np.float32)
"""Tilt is positive where the right end is up: the left agent sees it negated."""


class SeesawGame(ClockedTeam):
    """The task in many copies, which move as one array.

    `ClockedTeam` numbers the copies, keeps the clock, refuses actions of another shape and ends the episodes.
    """

    def __init__(self, copies: int) -> None:
        super().__init__("seesaw", Spec(obs_dims=(3, 3), act_dims=(1, 1), state_dim=3), copies, STEPS)
        self._board: Floats = np.zeros((0, 2), np.float32)  # tilt and speed of each copy

    def begin(self, seeds: Sequence[int]) -> None:
        """Draw a resting board from each seed: all chance comes from the seeds, so that episodes can be repeated."""
        tilts = [np.random.default_rng(seed).uniform(-0.5, 0.5) for seed in seeds]
        self._board = np.array([(tilt, 0.0) for tilt in tilts], np.float32)

    def place(self, state: State) -> npt.NDArray[np.int64]:
        """Take tilt, speed and clock from recorded states: rollouts of the `oracle` start so."""
        self._board = state[:, :2].astype(np.float32)
        return np.rint(state[:, 2] * self.max_steps).astype(np.int64)

    def move(self, actions: TeamActions, going: Flags) -> PerCopy:
        """Push both ends; where the clock has run out, nothing moves."""
        pushes = np.clip(actions[..., 0], -1, 1).astype(np.float32) * going[:, None]
        speed = self._board[:, 1] + np.float32(DT) * (pushes[:, 1] - pushes[:, 0])
        tilt = self._board[:, 0] + np.float32(DT) * speed * going
        self._board = np.stack([tilt, speed], axis=1)
        rewards: PerCopy = -np.square(tilt) - np.float32(COST) * np.square(pushes).mean(axis=1)
        return rewards

    def see(self) -> Seen:
        """Show each agent its own end and the share of the episode that has passed."""
        passed = (self.clock[:, None] / self.max_steps).astype(np.float32)
        ends = self._board[:, None, :] * SIDES[:, None]
        obs = np.concatenate([ends, passed[:, None, :].repeat(2, axis=1)], axis=2)
        return Seen(obs, np.concatenate([self._board, passed], axis=1))

    def versions(self) -> dict[str, str]:
        """Name the package that the physics are in: data and scores say with which version they were made."""
        return {"marl-example": metadata.version("marl-example")}


@dataclass(frozen=True, slots=True)
class Steady:
    """Pushes against the height and the speed of its own end."""

    name: str = "steady"

    def act(self, seen: Floats) -> Floats:
        """Actions [copy, agent, act] from each agent's own observation."""
        return np.clip(-2 * seen[..., :1] - 2 * seen[..., 1:2], -1, 1)


@environments.register("seesaw")
class Seesaw(Environment):
    """Two agents keep a board level."""

    experts: ClassVar[tuple[str, ...]] = ("steady",)

    @classmethod
    def make(cls, partition: Partition | None, copies: int) -> SeesawGame:
        """Build the copies; a task that is made for a team has no body to share out."""
        refuse_partition("seesaw", partition)
        return SeesawGame(copies)

    @classmethod
    def scripted(cls, name: str) -> ScriptedExpert:
        """Offer the expert that `collect` records."""
        return Steady() if name == "steady" else super().scripted(name)
