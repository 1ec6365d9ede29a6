"""Gymnasium's MuJoCo bodies, shared among agents or as one agent by our own partitions: data and simulator agree.

Observations hide where a body is (x, and y on ant, humanoids and swimmer), since nothing depends on it; restored copies
stand at the origin, and what they go on to show and earn is the same but for rounding.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from offline_marl.core.partition import Partition
from offline_marl.core.types import DataError
from offline_marl.environments.base import Environment, environments
from offline_marl.environments.settings import known_settings, refuse_settings
from offline_marl.environments.split import GymnasiumSimulator, SplitEnv, ToPhysics


def unhide(hidden: int, positions: int, velocities: int | None = None) -> ToPhysics:
    """Positions and velocities from a state that shows all but the first positions, which become 0.

    Args:
        hidden: Positions that states leave out.
        positions: Numbers of position (MuJoCo's nq), the hidden ones included.
        velocities: Numbers of velocity (nv), where others stand behind them.
    """
    shown = positions - hidden

    def to_physics(state: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        exact = state.astype(np.float64)
        last = None if velocities is None else shown + velocities
        return np.concatenate([np.zeros(hidden), exact[:shown]]), exact[shown:last]

    return to_physics


class Body(Environment):
    """One body of Gymnasium's, as a whole and shared among agents."""

    name: ClassVar[str]
    """Its name among environments and among partitions."""
    env_id: ClassVar[str]
    """Its name in Gymnasium."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Further arguments of `gymnasium.make`, settings and the length of episodes among them."""

    @classmethod
    def to_physics(cls) -> ToPhysics | None:
        """How positions and velocities are read from its states; None where these do not tell all."""
        return None

    @classmethod
    def simulator(cls, copies: int) -> GymnasiumSimulator:
        """The whole body in many copies."""
        return GymnasiumSimulator(cls.env_id, copies, cls.to_physics(), **cls.options)

    @classmethod
    def told(cls, settings: Mapping[str, Any], max_steps: int | None = None) -> type[Environment]:
        """The body made with these settings over its own; the same class for the same settings.

        Raises:
            DataError: It takes no such setting, or the setting would change what its agents see.
        """
        if not settings and max_steps is None:
            return cls
        with contextlib.suppress(ImportError):  # told when a copy is built
            refuse_settings(cls.name, known_settings(cls.env_id), settings)
        length = {} if max_steps is None else {"max_episode_steps": max_steps}
        return _variant(cls, json.dumps({**dict(settings), **length}, sort_keys=True))

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


@cache
def _variant(body: type[Body], options: str) -> type[Body]:
    """The body with other options over its own; cached: equal ones are the same environment to all who compare."""
    merged = MappingProxyType({**body.options, **json.loads(options)})
    return type(body.__name__, (body,), {"__doc__": body.__doc__, "__module__": body.__module__, "options": merged})


class Walker(Body):
    """A body whose states show all but where it is, then all velocities."""

    hidden: ClassVar[int]
    """First positions that its states leave out."""
    positions: ClassVar[int]
    """All positions, MuJoCo's nq."""
    velocities: ClassVar[int | None] = None
    """All velocities, nv, where states show more behind them."""

    @classmethod
    def to_physics(cls) -> ToPhysics:
        """Read positions and velocities from a state."""
        return unhide(cls.hidden, cls.positions, cls.velocities)


@environments.register("ant")
class Ant(Walker):
    """Four-legged ant that runs, Gymnasium's Ant-v5 without contact forces: 4x2, t4x2, 2x4, 2x4d, 1x8.

    Contact forces are left out of the state, so that it is what partitions know; they still cost reward.

    The simulator measures progress from where the torso stood within its last step of integration, which no state
    tells: the first reward of a restored copy was up to 0.04 off, either way.
    """

    name, env_id, hidden, positions = "ant", "Ant-v5", 2, 15
    options: ClassVar[Mapping[str, Any]] = {"include_cfrc_ext_in_observation": False}


@environments.register("halfcheetah")
class HalfCheetah(Walker):
    """Two-legged cheetah in a plane that runs, Gymnasium's HalfCheetah-v5: 2x3, 6x1, 1x6.

    It never falls: its episodes end by the clock alone.
    """

    name, env_id, hidden, positions = "halfcheetah", "HalfCheetah-v5", 1, 9


@environments.register("hopper")
class Hopper(Walker):
    """One-legged hopper in a plane, Gymnasium's Hopper-v5: 3x1, 1x3.

    States cut velocities at 10, so that copies restored from faster ones are slowed to it.
    """

    name, env_id, hidden, positions = "hopper", "Hopper-v5", 1, 6


@environments.register("swimmer")
class Swimmer(Walker):
    """Three links that swim in a plane, Gymnasium's Swimmer-v5: 2x1, 1x2.

    Its episodes end by the clock alone.
    """

    name, env_id, hidden, positions = "swimmer", "Swimmer-v5", 2, 5


@environments.register("walker2d")
class Walker2d(Walker):
    """Two-legged walker in a plane, Gymnasium's Walker2d-v5: 2x3, 6x1, 1x6.

    States cut velocities at 10, as hopper's do.
    """

    name, env_id, hidden, positions = "walker2d", "Walker2d-v5", 1, 9


@environments.register("humanoid")
class Humanoid(Walker):
    """Humanoid that runs, Gymnasium's Humanoid-v5, with all 348 numbers of it: 9|8, 17x1, 1x17.

    Only the view `full` shows inertia, velocities and forces of the limbs; a restored copy computes them anew.
    """

    name, env_id, hidden, positions, velocities = "humanoid", "Humanoid-v5", 2, 24, 23


@environments.register("humanoidstandup")
class HumanoidStandup(Walker):
    """Humanoid that stands up from lying, Gymnasium's HumanoidStandup-v5: 9|8, 17x1, 1x17.

    Its episodes end by the clock alone.
    """

    name, env_id, hidden, positions, velocities = "humanoidstandup", "HumanoidStandup-v5", 2, 24, 23


@environments.register("invertedpendulum")
class InvertedPendulum(Walker):
    """Inverted pendulum on a cart, Gymnasium's InvertedPendulum-v5: 1x1."""

    name, env_id, hidden, positions = "invertedpendulum", "InvertedPendulum-v5", 0, 2


@environments.register("inverteddoublependulum")
class InvertedDoublePendulum(Body):
    """Inverted pendulum of two poles on a cart, Gymnasium's InvertedDoublePendulum-v5: 1x1.

    States cut velocities at 10, as hopper's do.
    """

    name, env_id = "inverteddoublependulum", "InvertedDoublePendulum-v5"

    @classmethod
    def to_physics(cls) -> ToPhysics:
        """Read positions and velocities from a state, which shows sines and cosines of the angles."""

        def read(state: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
            exact = state.astype(np.float64)
            return np.concatenate([exact[:1], np.arctan2(exact[1:3], exact[3:5])]), exact[5:8]

        return read


@environments.register("pusher")
class Pusher(Body):
    """Arm that pushes an object to its goal, Gymnasium's Pusher-v5: 3p, 7x1, 1x7.

    Its episodes of 100 steps end by the clock alone. States do not tell how fast the object moves, so that copies
    cannot be restored.
    """

    name, env_id = "pusher", "Pusher-v5"
