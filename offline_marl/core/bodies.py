"""Simulated bodies: joints with their columns, other columns, and the ways to share the joints among agents.

Columns are those of Gymnasium's MuJoCo models (v5), measured by the tests: published tables misplace the ant's actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Joint(NamedTuple):
    """Columns of one joint; reacher shows an angle as its cosine and sine."""

    angle: tuple[int, ...]
    velocity: int
    action: int


class Conf(NamedTuple):
    """Joints that each agent moves, and parts or others' joints that it sees whatever the view."""

    moves: tuple[tuple[str, ...], ...]
    sees: tuple[tuple[str, ...], ...] = ()


class Body(NamedTuple):
    """A simulated body: `parts` are named columns that are no joint's, `views` the parts shown to every agent."""

    obs_dim: int
    joints: Mapping[str, Joint]
    parts: Mapping[str, tuple[int, ...]]
    confs: Mapping[str, Conf]
    views: Mapping[str, tuple[str, ...]]

    def columns(self, names: Iterable[str]) -> set[int]:
        """Observation columns of the joints and parts named."""
        columns: set[int] = set()
        for name in names:
            joint = self.joints.get(name)
            columns.update(self.parts[name] if joint is None else (*joint.angle, joint.velocity))
        return columns


def _planar(confs: Mapping[str, Conf]) -> Body:
    """A body in the vertical plane: z, pitch, joint angles, vx, vz, pitch velocity, joint velocities; actions likewise.

    The joints are read from the first conf, in the model's order.
    """
    names = [name for joints in next(iter(confs.values())).moves for name in joints]
    vx = 2 + len(names)
    joints = {name: Joint((2 + i,), vx + 3 + i, i) for i, name in enumerate(names)}
    parts = {"still": (0, 1, vx + 2), "vx": (vx,), "vz": (vx + 1,)}
    views = {"0": (), "0t": ("still", "vx", "vz"), "0tv": ("vx", "vz"), "0txv": ("vx",), "0tnv": ("still",)}
    return Body(vx + 3 + len(names), joints, parts, confs, views)


def _one_each(joints: Iterable[str]) -> Conf:
    return Conf(tuple((joint,) for joint in joints))


def _whole(body: Body) -> Body:
    """The body with one conf more, 1xN: a single agent that moves all N joints, with the parts that all are shown."""
    shown = dict.fromkeys(name for parts in next(iter(body.confs.values()), Conf(())).sees for name in parts)
    parts = tuple(name for name in shown if name in body.parts)
    everything = Conf((tuple(body.joints),), (parts,) if parts else ())
    return body._replace(confs={**body.confs, f"1x{len(body.joints)}": everything})


_ARM = ("joint0",), ("joint1",)
_BOTH = ("joint0", "joint1")
_REACHER = Body(
    obs_dim=10,
    joints={"joint0": Joint((0, 2), 6, 0), "joint1": Joint((1, 3), 7, 1)},
    # v4 had an eleventh number, the tip's height over the target (always 0): it is in no part, so both layouts fit.
    parts={"target": (4, 5), "tip_diff": (8, 9)},
    confs={
        "2x1": Conf(_ARM, (("target", "tip_diff"), ("target", "tip_diff"))),
        "2x1notip": Conf(_ARM, (("target",), ("target",))),
        "2x1first": Conf(_ARM, ((*_BOTH, "target"), _BOTH)),
        "2x1second": Conf(_ARM, (_BOTH, (*_BOTH, "target"))),
    },
    views={"0": ()},
)

# The model calls these legs front left, front right, back left and back right; its "front" is +y, and it runs along +x.
_LEG_1, _LEG_2, _LEG_3, _LEG_4 = ((f"hip_{i}", f"ankle_{i}") for i in (1, 2, 3, 4))
_LEGS = _LEG_1, _LEG_2, _LEG_3, _LEG_4
_TORSO = ("still", "vx", "vy", "vz")
_ANT = Body(
    obs_dim=27,
    # The actuators start at leg 4: actions are not in joint order.
    joints={
        "hip_1": Joint((5,), 19, 2),
        "ankle_1": Joint((6,), 20, 3),
        "hip_2": Joint((7,), 21, 4),
        "ankle_2": Joint((8,), 22, 5),
        "hip_3": Joint((9,), 23, 6),
        "ankle_3": Joint((10,), 24, 7),
        "hip_4": Joint((11,), 25, 0),
        "ankle_4": Joint((12,), 26, 1),
    },
    parts={"still": (0, 1, 2, 3, 4, 16, 17, 18), "vx": (13,), "vy": (14,), "vz": (15,)},
    confs={
        "4x2": Conf(_LEGS),
        "t4x2": Conf(_LEGS, (_TORSO, (), (), ())),
        "2x4": Conf((_LEG_1 + _LEG_2, _LEG_3 + _LEG_4)),
        # Diagonals by the model's names, as published; by where they hang, the legs of +x and those of -x.
        "2x4d": Conf((_LEG_1 + _LEG_4, _LEG_2 + _LEG_3)),
    },
    views={
        "0": (),
        "0t": _TORSO,
        "0tnv": ("still",),
        "0tv": ("vx", "vy", "vz"),
        "0txv": ("vx",),
        "0tyv": ("vy",),
        "0txyv": ("vx", "vy"),
    },
)

# Free joint without x and y, then hinges; actuators follow the hinges, but that abdomen_y comes before abdomen_z.
# Behind them Gymnasium shows inertia and velocities of the limbs, forces of the actuators and contact forces.
_HUMANOID_HINGES = (
    *("abdomen_z", "abdomen_y", "abdomen_x"),
    *("right_hip_x", "right_hip_z", "right_hip_y", "right_knee"),
    *("left_hip_x", "left_hip_z", "left_hip_y", "left_knee"),
    *("right_shoulder1", "right_shoulder2", "right_elbow"),
    *("left_shoulder1", "left_shoulder2", "left_elbow"),
)
_HUMANOID_LEGS = tuple(name for name in _HUMANOID_HINGES if "hip" in name or "knee" in name)
_HUMANOID = Body(
    obs_dim=348,
    joints={
        name: Joint((5 + i,), 28 + i, {"abdomen_z": 1, "abdomen_y": 0}.get(name, i))
        for i, name in enumerate(_HUMANOID_HINGES)
    },
    parts={
        "still": (0, 1, 2, 3, 4, 25, 26, 27),
        "vx": (22,),
        "vy": (23,),
        "vz": (24,),
        "limbs": tuple(range(45, 253)),
        "forces": tuple(range(253, 348)),
    },
    confs={
        "9|8": Conf((tuple(name for name in _HUMANOID_HINGES if name not in _HUMANOID_LEGS), _HUMANOID_LEGS)),
        "17x1": _one_each(_HUMANOID_HINGES),
    },
    views=_ANT.views,
)

_PUSHER_JOINTS = (
    *("r_shoulder_pan_joint", "r_shoulder_lift_joint", "r_upper_arm_roll_joint"),
    "r_elbow_flex_joint",
    *("r_forearm_roll_joint", "r_wrist_flex_joint", "r_wrist_roll_joint"),
)
_PUSHER_TASK = ("tip", "object", "goal")
_PUSHER = Body(
    obs_dim=23,
    joints={name: Joint((i,), 7 + i, i) for i, name in enumerate(_PUSHER_JOINTS)},
    parts={"tip": (14, 15, 16), "object": (17, 18, 19), "goal": (20, 21, 22)},
    confs={
        "3p": Conf((_PUSHER_JOINTS[:3], _PUSHER_JOINTS[3:4], _PUSHER_JOINTS[4:]), (_PUSHER_TASK,) * 3),
        "7x1": Conf(_one_each(_PUSHER_JOINTS).moves, (_PUSHER_TASK,) * 7),
    },
    views={"0": ()},
)

# Only the cart is driven; an angle of the double pendulum is shown as its sine and cosine.
_PENDULUM = Body(
    obs_dim=4,
    joints={"slider": Joint((0,), 2, 0)},
    parts={"pole": (1, 3)},
    confs={},
    views={"0": (), "0t": ("pole",)},
)
_DOUBLE_PENDULUM = Body(
    obs_dim=9,
    joints={"slider": Joint((0,), 5, 0)},
    parts={"poles": (1, 2, 3, 4, 6, 7), "force": (8,)},
    confs={},
    views={"0": (), "0t": ("poles", "force")},
)

_SWIMMER = Body(
    obs_dim=8,
    joints={"motor1_rot": Joint((1,), 6, 0), "motor2_rot": Joint((2,), 7, 1)},
    parts={"still": (0, 5), "vx": (3,), "vy": (4,)},
    confs={"2x1": _one_each(("motor1_rot", "motor2_rot"))},
    views={"0": (), "0t": ("still", "vx", "vy"), "0tv": ("vx", "vy"), "0txv": ("vx",), "0tnv": ("still",)},
)
_CHEETAH_BACK, _CHEETAH_FRONT = ("bthigh", "bshin", "bfoot"), ("fthigh", "fshin", "ffoot")
_WALKER_RIGHT = _HOPPER_LEG = ("thigh_joint", "leg_joint", "foot_joint")
_WALKER_LEFT = ("thigh_left_joint", "leg_left_joint", "foot_left_joint")
_SHARED: Mapping[str, Body] = {
    "reacher": _REACHER,
    "ant": _ANT,
    "halfcheetah": _planar(
        {"2x3": Conf((_CHEETAH_BACK, _CHEETAH_FRONT)), "6x1": _one_each(_CHEETAH_BACK + _CHEETAH_FRONT)}
    ),
    "hopper": _planar({"3x1": _one_each(_HOPPER_LEG)}),
    "swimmer": _SWIMMER,
    "walker2d": _planar({"2x3": Conf((_WALKER_RIGHT, _WALKER_LEFT)), "6x1": _one_each(_WALKER_RIGHT + _WALKER_LEFT)}),
    "humanoid": _HUMANOID,
    "humanoidstandup": _HUMANOID,
    "pusher": _PUSHER,
    "invertedpendulum": _PENDULUM,
    "inverteddoublependulum": _DOUBLE_PENDULUM,
}
BODIES: Mapping[str, Body] = {name: _whole(body) for name, body in _SHARED.items()}
