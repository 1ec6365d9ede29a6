"""Two-link arm that reaches for a target, one agent per joint; two scripted experts bend its elbow opposite ways.

Both experts reach equally well, but half of one and half of the other do not: the coordination problem of mixed data.
Gymnasium's Reacher-v5; its state is cos, sin (both joints each), target x, y, joint velocities, tip minus target x, y.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from offline_marl.core.partition import Partition
from offline_marl.core.types import DataError
from offline_marl.environments.base import (
    NOTHING,
    Conventions,
    JointActions,
    Outcome,
    ScriptedExpert,
    State,
    environments,
)
from offline_marl.environments.mamujoco import Body
from offline_marl.environments.split import GymnasiumSimulator, ToPhysics, make_env

ENV_ID = "Reacher-v5"
COSINES, SINES, TARGET, VELOCITIES = slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)

Joints = Annotated[npt.NDArray[np.float64], "copy joint"]
Points = Annotated[npt.NDArray[np.float64], "copy xy"]


@dataclass(frozen=True, slots=True)
class Arm:
    """Geometry of the arm, in metres and radians."""

    upper: float
    """From the shoulder to the elbow."""
    lower: float
    """From the elbow to the fingertip."""
    elbow_limit: float
    """The elbow turns no further than this, either way."""

    def distance(self, elbow: float) -> float:
        """From the shoulder to the fingertip, by the law of cosines."""
        return float(np.sqrt(self.upper**2 + self.lower**2 + 2 * self.upper * self.lower * np.cos(elbow)))

    def angles(self, points: Points, side: int) -> Joints:
        """Joint angles that put the fingertip on the points; points out of reach are moved to the nearest reach.

        Args:
            points: Where the fingertip should be, the shoulder being at the origin.
            side: Sign of the elbow's angle; each sign gives one of the two solutions.
        """
        x, y = points[..., 0], points[..., 1]
        reach = np.clip(np.hypot(x, y), self.distance(self.elbow_limit), self.distance(0.0))
        cosine = (reach**2 - self.upper**2 - self.lower**2) / (2 * self.upper * self.lower)
        elbow = side * np.arccos(np.clip(cosine, -1, 1))
        aside = np.arctan2(self.lower * np.sin(elbow), self.upper + self.lower * np.cos(elbow))
        return np.stack([np.arctan2(y, x) - aside, elbow], axis=-1)


@lru_cache(maxsize=1)
def read_arm() -> Arm:
    """The arm as the simulator's own model describes it."""
    env = make_env(ENV_ID)
    model = env.unwrapped.model
    arm = Arm(
        upper=float(model.body("body1").pos[0]),
        lower=float(model.body("fingertip").pos[0]),
        elbow_limit=float(model.joint("joint1").range[1]),
    )
    env.close()
    return arm


def wrap(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The same directions, in [-pi, pi)."""
    wrapped: npt.NDArray[np.float64] = (angles + np.pi) % (2 * np.pi) - np.pi
    return wrapped


@dataclass(frozen=True, slots=True)
class ElbowExpert:
    """Inverse kinematics that keep to one side of the elbow, followed by a PD law on the joint errors."""

    name: str
    arm: Arm
    side: int
    """Sign of the elbow's angle in every pose it aims for."""
    kp: float = 0.1
    """Torque per radian of error."""
    kd: float = 0.02
    """Torque against each radian per second."""

    def act(self, state: State) -> JointActions:
        """Torques of both joints, in [-1, 1]."""
        # In float64 and rounded at the end, so that the order of vectorised arithmetic does not show in the data.
        exact = state.astype(np.float64)
        angles = np.arctan2(exact[..., SINES], exact[..., COSINES])
        errors = self.arm.angles(exact[..., TARGET], self.side) - angles
        # The shoulder turns freely and takes the short way; the elbow must not cross its limit.
        errors[..., 0] = wrap(errors[..., 0])
        torques = self.kp * errors - self.kd * exact[..., VELOCITIES]
        return np.clip(torques, -1, 1).astype(np.float32)


SIDES = {"clockwise": -1, "counterclockwise": 1}


def to_physics(state: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Positions and velocities of the joints and of the target, which lies still, from one state."""
    exact = state.astype(np.float64)
    angles = np.arctan2(exact[SINES], exact[COSINES])
    return np.concatenate([angles, exact[TARGET]]), np.concatenate([exact[VELOCITIES], np.zeros(2)])


def sides_of(states: State, arm: Arm) -> Annotated[npt.NDArray[np.int64], "copy joint"]:
    """Which expert's pose for the target each joint is nearer to: the position of its name in `SIDES`."""
    exact = states.astype(np.float64)
    angles = np.arctan2(exact[:, SINES], exact[:, COSINES])
    poses = np.stack([arm.angles(exact[:, TARGET], side) for side in SIDES.values()])
    off = angles - poses
    off[..., 0] = wrap(off[..., 0])  # the shoulder turns freely, the elbow not across its limit
    nearer: npt.NDArray[np.int64] = np.abs(off).argmin(axis=0)
    return nearer


def leave_out_idle_stages(model: Any) -> None:
    """Switch off the stages of MuJoCo's step that find nothing to do in this model: a fifth of the arm's time."""
    bits = importlib.import_module("mujoco").mjtDisableBit
    touching = model.geom_contype[:, None] & model.geom_conaffinity
    idle = {
        bits.mjDSBL_CONTACT: not touching.any() and not model.npair,
        bits.mjDSBL_EQUALITY: not model.neq,
        bits.mjDSBL_FRICTIONLOSS: not model.dof_frictionloss.any() and not model.tendon_frictionloss.any(),
        bits.mjDSBL_SENSOR: not model.nsensor,
    }
    for bit, nothing in idle.items():
        if nothing:
            model.opt.disableflags |= int(bit)


class ArmSimulator(GymnasiumSimulator):
    """Copies of Reacher-v5, stepped without what Gymnasium does around MuJoCo: the same numbers to the bit.

    Left out are the clock's wrapper, since all copies begin at once, `mj_rnePostConstraint`, whose forces neither the
    arm's state nor its reward reads, and the stages of a step that this model has nothing for.
    """

    def make_one(self) -> Any:
        """One copy."""
        env = super().make_one()
        leave_out_idle_stages(env.unwrapped.model)
        return env

    def _start(self, running: int) -> None:
        super()._start(running)
        self._elapsed = 0
        self._arms = [_Views(env.unwrapped) for env in self._envs[:running]]
        # Laid out once: a step then gathers each from all copies by one call.
        self._positions, self._velocities, self._tips, self._targets = (
            [getattr(arm, name) for arm in self._arms] for name in ("positions", "velocities", "tip", "target")
        )

    def step(self, actions: JointActions) -> Outcome:
        """Move every copy until its episode has ended, by the clock alone.

        Raises:
            DataError: The actions are not [running copies, joint_act], or one is not finite.
        """
        scaled = self._scale(actions)
        if self._truncations.all():
            return Outcome(np.array(self._state), np.zeros(len(scaled), np.float32), *self._flags())
        step = importlib.import_module("mujoco").mj_step  # there since the first copy was built
        for arm, torques in zip(self._arms, scaled, strict=True):
            arm.ctrl[:] = torques
            step(arm.model, arm.data, arm.frames)
        positions, velocities = np.stack(self._positions), np.stack(self._velocities)
        offsets = np.stack(self._tips) - np.stack(self._targets)
        angles = positions[:, :2].copy()
        shown = [np.cos(angles), np.sin(angles), positions[:, 2:], velocities[:, :2], offsets[:, :2]]
        self._state = np.concatenate(shown, axis=1, dtype=np.float32, casting="same_kind")
        # One product a row, as `np.linalg.norm` takes it: a sum over all rows at once may round differently.
        self._distances = np.sqrt([offset.dot(offset) for offset in offsets])
        self._efforts = np.square(scaled).sum(axis=1)
        self._elapsed += 1
        self._truncations[:] = self._elapsed >= self.max_steps
        far, hard = self._costs()
        return Outcome(np.array(self._state), (far + hard).astype(np.float32), *self._flags())

    def infos(self) -> list[dict[str, Any]]:
        """Both parts of the reward of each copy's last step."""
        if not self._elapsed:
            return super().infos()
        return [{"reward_dist": far, "reward_ctrl": hard} for far, hard in zip(*self._costs(), strict=True)]

    def _costs(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
        arm = self._arms[0]
        return -self._distances * arm.distance_weight, -self._efforts * arm.effort_weight

    def _flags(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        return np.array(self._terminations), np.array(self._truncations)


class _Views:
    """One copy's numbers where MuJoCo keeps them."""

    def __init__(self, env: Any) -> None:
        self.model, self.data, self.frames = env.model, env.data, env.frame_skip
        self.ctrl, self.positions, self.velocities = env.data.ctrl, env.data.qpos, env.data.qvel
        self.tip, self.target = env.data.body("fingertip").xpos, env.data.body("target").xpos
        self.distance_weight, self.effort_weight = env._reward_dist_weight, env._reward_control_weight


@environments.register("reacher")
class Reacher(Body):
    """Gymnasium's two-link arm; episodes of 50 steps end by the clock alone: 2x1 and its kin, 1x2."""

    name, env_id = "reacher", ENV_ID
    experts: ClassVar[tuple[str, ...]] = tuple(SIDES)

    @classmethod
    def to_physics(cls) -> ToPhysics:
        """Read positions and velocities from a state."""
        return to_physics

    @classmethod
    def simulator(cls, copies: int) -> GymnasiumSimulator:
        """The whole arm in many copies."""
        return ArmSimulator(cls.env_id, copies, cls.to_physics(), **cls.options)

    @classmethod
    def scripted(cls, name: str) -> ScriptedExpert:
        """The expert that bends the elbow clockwise (negative angle) or counterclockwise.

        Raises:
            RegistryError: There is none of that name; the answer lists both.
        """
        if name not in SIDES:
            return super().scripted(name)
        return ElbowExpert(name, read_arm(), SIDES[name])

    @classmethod
    def conventions(cls, ends: State, partition: Partition | None) -> Conventions:
        """The expert to whose pose all joints of an agent are nearer when the episode ends."""
        sides = sides_of(ends, read_arm())
        if partition is None:
            raise DataError("reacher is one body: name the partition that shares it among agents.")
        agent_sides = [sides[:, list(joints)] for joints in partition.act_index]
        followed = [
            np.where((joint_sides == joint_sides[:, :1]).all(axis=1), joint_sides[:, 0], NOTHING)
            for joint_sides in agent_sides
        ]
        return Conventions(tuple(SIDES), np.stack(followed, axis=1), ends[:, TARGET].astype(np.float64))
