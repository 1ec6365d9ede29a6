"""Rendezvous: two agents on a line earn by being at the same of two posts, left or right, and pay for motion.

Agents start at s and -s, s uniform in [-0.5, 0.5], and see their own position and the clock. Each of 10 steps moves
them by 0.25 a and pays 1 if both are within 0.25 of -1, or both of +1, minus 0.05 mean_i a_i^2. Mirrored starts make
both posts equally good: nothing but a convention says which. With K steps to arrive and distances d_i = 0.75 ± s to
the edge of the post, even pace is cheapest (Jensen), so the best return is
max over K >= 4 max d of 11 - K - 0.4 (d_0^2 + d_1^2) / K; K is the least it can be, and the mean over s is 6.385.
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

POSTS = {"left": -1.0, "right": 1.0}
RADIUS = 0.25
"""How near counts as being at a post."""
START = 0.5
"""Farthest start from the middle."""
SPEED = 0.25
"""Way of one step at full action."""
COST = 0.05
STEPS = 10
SLACK = 1e-6
"""Whoever stands on the edge of a post is at it, whatever the rounding."""


class RendezvousGame(ClockedTeam):
    """The task in many copies; an agent sees its position and the share of the episode that has passed.

    Args:
        copies: How many episodes can run side by side.
    """

    def __init__(self, copies: int) -> None:
        super().__init__("rendezvous", Spec(obs_dims=(2, 2), act_dims=(1, 1), state_dim=3), copies, STEPS)
        self._places: Annotated[Floats, "copy agent"] = np.zeros((0, 2), np.float32)
        self._posts = np.array(list(POSTS.values()), np.float32)

    def begin(self, seeds: Sequence[int]) -> None:
        """Mirrored starts, drawn from the seeds."""
        starts = [np.random.default_rng(seed).uniform(-START, START) for seed in seeds]
        self._places = np.array([(start, -start) for start in starts], np.float32)

    def place(self, state: State) -> Annotated[npt.NDArray[np.int64], "copy"]:
        """Positions and the share of the episode that has passed are the state."""
        self._places = state[:, :2].astype(np.float32)
        return np.rint(state[:, 2] * self.max_steps).astype(np.int64)

    def move(self, actions: TeamActions, going: Flags) -> PerCopy:
        """1 where both are at one post, less the cost of motion; actions are clipped to [-1, 1]."""
        speeds = np.clip(actions[..., 0], -1, 1).astype(np.float32, copy=False) * going[:, None]
        self._places = self._places + np.float32(SPEED) * speeds
        at = np.abs(self._places[..., None] - self._posts) <= RADIUS + SLACK
        together: PerCopy = at.all(axis=1).any(axis=1).astype(np.float32)
        costs: PerCopy = np.float32(COST) * np.square(speeds).mean(axis=1)
        return together - costs

    def see(self) -> Seen:
        """Own position and clock; the state is both positions and the clock."""
        passed = (self.clock[:, None] / self.max_steps).astype(np.float32)
        obs = np.stack([self._places, passed.repeat(2, axis=1)], axis=-1)
        return Seen(obs, np.concatenate([self._places, passed], axis=1))


@dataclass(frozen=True, slots=True)
class Walker:
    """Walks to the middle of its post at full speed and stays there."""

    name: str
    post: float

    def act(self, seen: Floats) -> Floats:
        """Actions [copy, agent, act], from each agent's own position."""
        steps: Floats = (np.float32(self.post) - seen[..., :1]) / np.float32(SPEED)
        return np.clip(steps, -1, 1)


@environments.register("rendezvous")
class Rendezvous(Environment):
    """Two agents, two posts, ten steps."""

    experts: ClassVar[tuple[str, ...]] = tuple(POSTS)

    @classmethod
    def make(cls, partition: Partition | None, copies: int) -> RendezvousGame:
        """The task in many copies.

        Raises:
            DataError: There is a partition, though there is no body to share out.
        """
        refuse_partition("rendezvous", partition)
        return RendezvousGame(copies)

    @classmethod
    def scripted(cls, name: str) -> ScriptedExpert:
        """The expert that meets at the post of this name.

        Raises:
            RegistryError: There is none of that name; the answer lists both.
        """
        if name not in POSTS:
            return super().scripted(name)
        return Walker(name, POSTS[name])

    @classmethod
    def conventions(cls, ends: State, partition: Partition | None) -> Conventions:
        """The post that each agent is at."""
        at = np.abs(ends[:, :2, None] - np.array(list(POSTS.values()))) <= RADIUS + SLACK
        return Conventions(tuple(POSTS), np.where(at.any(axis=2), at.argmax(axis=2), NOTHING))
