"""Gymnasium's MuJoCo bodies that move about, shared among agents by our own partitions: data and simulator agree.

Observations hide where a body is (x, and y on ant and swimmer), since nothing depends on it; restored copies stand at
the origin, and what they go on to show and earn is the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from offline_marl.core.partition import Partition
from offline_marl.core.types import DataError
from offline_marl.environments.base import Environment, environments
from offline_marl.environments.split import GymnasiumSimulator, SplitEnv, ToPhysics


def unhide(hidden: int, positions: int) -> ToPhysics:
    """Positions and velocities from a state that shows all but the first positions, which become 0.

    Args:
        hidden: Positions that states leave out.
        positions: Numbers of position (MuJoCo's nq), the hidden ones included.
    """

    def to_physics(state: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        exact = state.astype(np.float64)
        shown = positions - hidden
        return np.concatenate([np.zeros(hidden), exact[:shown]]), exact[shown:]

    return to_physics


class Body(Environment):
    """One body of Gymnasium's, as a whole and shared among agents."""

    name: ClassVar[str]
    """Its name among environments and among partitions."""
    env_id: ClassVar[str]
    """Its name in Gymnasium."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Further arguments of `gymnasium.make`."""
    hidden: ClassVar[int]
    """First positions that its states leave out."""
    positions: ClassVar[int]
    """All positions, MuJoCo's nq."""

    @classmethod
    def simulator(cls, copies: int) -> GymnasiumSimulator:
        """The whole body in many copies."""
        return GymnasiumSimulator(cls.env_id, copies, unhide(cls.hidden, cls.positions), **cls.options)

    @classmethod
    def make(cls, partition: Partition | None, copies: int) -> SplitEnv:
        """The body shared among agents.

        Raises:
            DataError: The partition is of another body, or there is none.
        """
        if partition is None:
            raise DataError(f"{cls.name} is one body: name the partition that shares it among agents.")
        if partition.scenario != cls.name:
            raise DataError(f"Partition {partition.key} shares out {partition.scenario}, but this is {cls.name}.")
        return SplitEnv(cls.simulator(copies), partition)


@environments.register("ant")
class Ant(Body):
    """Four-legged ant that runs, Gymnasium's Ant-v5 without contact forces: 4x2, t4x2, 2x4, 2x4d.

    Contact forces are left out of the state, so that it is what partitions know; they still cost reward.

    The simulator measures progress from where the torso stood within its last step of integration, which no state
    tells: the first reward of a restored copy was up to 0.04 off, either way.
    """

    name, env_id, hidden, positions = "ant", "Ant-v5", 2, 15
    options: ClassVar[Mapping[str, Any]] = {"include_cfrc_ext_in_observation": False}


@environments.register("halfcheetah")
class HalfCheetah(Body):
    """Two-legged cheetah in a plane that runs, Gymnasium's HalfCheetah-v5: 2x3, 6x1.

    It never falls: its episodes end by the clock alone.
    """

    name, env_id, hidden, positions = "halfcheetah", "HalfCheetah-v5", 1, 9


@environments.register("hopper")
class Hopper(Body):
    """One-legged hopper in a plane, Gymnasium's Hopper-v5: 3x1.

    States cut velocities at 10, so that copies restored from faster ones are slowed to it.
    """

    name, env_id, hidden, positions = "hopper", "Hopper-v5", 1, 6


@environments.register("swimmer")
class Swimmer(Body):
    """Three links that swim in a plane, Gymnasium's Swimmer-v5: 2x1.

    Its episodes end by the clock alone.
    """

    name, env_id, hidden, positions = "swimmer", "Swimmer-v5", 2, 5


@environments.register("walker2d")
class Walker2d(Body):
    """Two-legged walker in a plane, Gymnasium's Walker2d-v5: 2x3, 6x1.

    States cut velocities at 10, as hopper's do.
    """

    name, env_id, hidden, positions = "walker2d", "Walker2d-v5", 1, 9
