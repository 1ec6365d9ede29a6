"""Partitions of a simulated body among agents: the joints that each moves and the columns that each sees.

Data and environments both ask here, so that a column of the data and a column of the simulator mean the same thing.
Columns are those of Gymnasium's MuJoCo models (v5), measured by the tests: published tables misplace the ant's actions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from offline_marl.core.config import suggest
from offline_marl.core.errors import BadInputError

Scalar = TypeVar("Scalar", bound=np.generic)
Entry = TypeVar("Entry")
IndexTable = Annotated[npt.NDArray[np.int64], "agent width"]
PresentTable = Annotated[npt.NDArray[np.bool_], "agent width"]
JointIndex = Annotated[npt.NDArray[np.int64], "joint_act"]


class PartitionError(BadInputError, ValueError):
    """A body, conf or view that is unknown, or a task id of another form; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One way to share a body among agents.

    Columns ascend within an agent: its own joints and whatever the view adds are merged and sorted.

    Attributes:
        agents: Names, "agent_0" onwards.
        obs_index: Columns of the simulator's observation that each agent sees.
        act_index: Columns of the joint action that each agent moves; each column belongs to exactly one agent.
    """

    scenario: str
    conf: str
    view: str
    agents: tuple[str, ...]
    obs_index: tuple[tuple[int, ...], ...]
    act_index: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        # Joining relies on this, so a partition made by hand must hold to it too.
        moved = sorted(column for row in self.act_index for column in row)
        if moved != list(range(len(moved))):
            raise PartitionError(
                f"{self.scenario} {self.key} moves action columns {moved}: each from 0 up must be moved by one agent."
            )

    @property
    def key(self) -> str:
        """The task name without its data, "<conf>_<view>"."""
        return f"{self.conf}_{self.view}"

    @property
    def obs_dims(self) -> tuple[int, ...]:
        """How many numbers each agent truly sees, padding not counted."""
        return tuple(len(row) for row in self.obs_index)

    @property
    def act_dims(self) -> tuple[int, ...]:
        """How many numbers each agent truly moves, padding not counted."""
        return tuple(len(row) for row in self.act_index)

    def padded_obs_index(self) -> tuple[IndexTable, PresentTable]:
        """Table of observation columns, padded with column 0, and which entries are not padding.

        `obs[..., index] * present` is what `split_obs` returns; tensors can use it alike.
        """
        return _pad(self.obs_index)

    def padded_act_index(self) -> tuple[IndexTable, PresentTable]:
        """Table of action columns, as `padded_obs_index`."""
        return _pad(self.act_index)

    def join_index(self) -> tuple[JointIndex, JointIndex]:
        """The agent that moves each joint action column, and the column's place among that agent's own.

        `actions[..., agent, position]` is what `join_actions` returns; tensors can use it alike.
        """
        index, present = self.padded_act_index()
        agent, position = np.nonzero(present)
        order = np.argsort(index[agent, position])
        return agent[order].astype(np.int64), position[order].astype(np.int64)

    def split_obs(self, obs: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """What each agent sees, [..., agent, obs], zero-padded to the widest; the dtype is kept."""
        return _take(obs, *self.padded_obs_index())

    def split_actions(self, joint: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """What each agent does, [..., agent, act], zero-padded to the widest; the dtype is kept."""
        return _take(joint, *self.padded_act_index())

    def join_actions(self, actions: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """The joint action, [..., joint_act], from padded actions per agent; undoes `split_actions`."""
        agent, position = self.join_index()
        return actions[..., agent, position]


def _pad(rows: tuple[tuple[int, ...], ...]) -> tuple[IndexTable, PresentTable]:
    widths = np.array([len(row) for row in rows])
    present = np.arange(widths.max()) < widths[:, None]
    index = np.zeros(present.shape, dtype=np.int64)
    index[present] = [column for row in rows for column in row]
    return index, present


def _take(array: npt.NDArray[Scalar], index: IndexTable, present: PresentTable) -> npt.NDArray[Scalar]:
    # Not a product: padding must be zero even where column 0 is not finite.
    parts: npt.NDArray[Scalar] = np.take(array, index, axis=-1)
    np.copyto(parts, 0, where=~present, casting="unsafe")
    return parts


class _Joint(NamedTuple):
    """Columns of one joint; reacher shows an angle as its cosine and sine."""

    angle: tuple[int, ...]
    velocity: int
    action: int


class _Conf(NamedTuple):
    """Joints that each agent moves, and parts or others' joints that it sees whatever the view."""

    moves: tuple[tuple[str, ...], ...]
    sees: tuple[tuple[str, ...], ...] = ()


class _Body(NamedTuple):
    """A simulated body: `parts` are named columns that are no joint's, `views` the parts shown to every agent."""

    obs_dim: int
    joints: Mapping[str, _Joint]
    parts: Mapping[str, tuple[int, ...]]
    confs: Mapping[str, _Conf]
    views: Mapping[str, tuple[str, ...]]

    def columns(self, names: Iterable[str]) -> set[int]:
        """Observation columns of the joints and parts named."""
        columns: set[int] = set()
        for name in names:
            joint = self.joints.get(name)
            columns.update(self.parts[name] if joint is None else (*joint.angle, joint.velocity))
        return columns


def _planar(confs: Mapping[str, _Conf]) -> _Body:
    """A body in the vertical plane: z, pitch, joint angles, vx, vz, pitch velocity, joint velocities; actions likewise.

    The joints are read from the first conf, in the model's order.
    """
    names = [name for joints in next(iter(confs.values())).moves for name in joints]
    vx = 2 + len(names)
    joints = {name: _Joint((2 + i,), vx + 3 + i, i) for i, name in enumerate(names)}
    parts = {"still": (0, 1, vx + 2), "vx": (vx,), "vz": (vx + 1,)}
    views = {"0": (), "0t": ("still", "vx", "vz"), "0tv": ("vx", "vz"), "0txv": ("vx",), "0tnv": ("still",)}
    return _Body(vx + 3 + len(names), joints, parts, confs, views)


def _one_each(joints: tuple[str, ...]) -> _Conf:
    return _Conf(tuple((joint,) for joint in joints))


_ARM = ("joint0",), ("joint1",)
_BOTH = ("joint0", "joint1")
_REACHER = _Body(
    obs_dim=10,
    joints={"joint0": _Joint((0, 2), 6, 0), "joint1": _Joint((1, 3), 7, 1)},
    # v4 had an eleventh number, the tip's height over the target (always 0): it is in no part, so both layouts fit.
    parts={"target": (4, 5), "tip_diff": (8, 9)},
    confs={
        "2x1": _Conf(_ARM, (("target", "tip_diff"), ("target", "tip_diff"))),
        "2x1notip": _Conf(_ARM, (("target",), ("target",))),
        "2x1first": _Conf(_ARM, ((*_BOTH, "target"), _BOTH)),
        "2x1second": _Conf(_ARM, (_BOTH, (*_BOTH, "target"))),
    },
    views={"0": ()},
)

# The model calls these legs front left, front right, back left and back right; its "front" is +y, and it runs along +x.
_LEG_1, _LEG_2, _LEG_3, _LEG_4 = ((f"hip_{i}", f"ankle_{i}") for i in (1, 2, 3, 4))
_LEGS = _LEG_1, _LEG_2, _LEG_3, _LEG_4
_TORSO = ("still", "vx", "vy", "vz")
_ANT = _Body(
    obs_dim=27,
    # The actuators start at leg 4: actions are not in joint order.
    joints={
        "hip_1": _Joint((5,), 19, 2),
        "ankle_1": _Joint((6,), 20, 3),
        "hip_2": _Joint((7,), 21, 4),
        "ankle_2": _Joint((8,), 22, 5),
        "hip_3": _Joint((9,), 23, 6),
        "ankle_3": _Joint((10,), 24, 7),
        "hip_4": _Joint((11,), 25, 0),
        "ankle_4": _Joint((12,), 26, 1),
    },
    parts={"still": (0, 1, 2, 3, 4, 16, 17, 18), "vx": (13,), "vy": (14,), "vz": (15,)},
    confs={
        "4x2": _Conf(_LEGS),
        "t4x2": _Conf(_LEGS, (_TORSO, (), (), ())),
        "2x4": _Conf((_LEG_1 + _LEG_2, _LEG_3 + _LEG_4)),
        "2x4d": _Conf((_LEG_1 + _LEG_4, _LEG_2 + _LEG_3)),
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

_SWIMMER = _Body(
    obs_dim=8,
    joints={"motor1_rot": _Joint((1,), 6, 0), "motor2_rot": _Joint((2,), 7, 1)},
    parts={"still": (0, 5), "vx": (3,), "vy": (4,)},
    confs={"2x1": _one_each(("motor1_rot", "motor2_rot"))},
    views={"0": (), "0t": ("still", "vx", "vy"), "0tv": ("vx", "vy"), "0txv": ("vx",), "0tnv": ("still",)},
)
_CHEETAH_BACK, _CHEETAH_FRONT = ("bthigh", "bshin", "bfoot"), ("fthigh", "fshin", "ffoot")
_WALKER_RIGHT = _HOPPER_LEG = ("thigh_joint", "leg_joint", "foot_joint")
_WALKER_LEFT = ("thigh_left_joint", "leg_left_joint", "foot_left_joint")
_BODIES: Mapping[str, _Body] = {
    "reacher": _REACHER,
    "ant": _ANT,
    "halfcheetah": _planar(
        {"2x3": _Conf((_CHEETAH_BACK, _CHEETAH_FRONT)), "6x1": _one_each(_CHEETAH_BACK + _CHEETAH_FRONT)}
    ),
    "hopper": _planar({"3x1": _one_each(_HOPPER_LEG)}),
    "swimmer": _SWIMMER,
    "walker2d": _planar({"2x3": _Conf((_WALKER_RIGHT, _WALKER_LEFT)), "6x1": _one_each(_WALKER_RIGHT + _WALKER_LEFT)}),
}

SCENARIOS: tuple[str, ...] = tuple(_BODIES)
_CONF_WORDS = {
    "notip": "which see the target, but not how far the tip is from it",
    "first": "which see the whole arm, the first one the target",
    "second": "which see the whole arm, the second one the target",
    "t-": "of which the first also sees the torso",
    "-d": "diagonal legs together",
}
_VIEW_WORDS = {
    "full": "everything",
    "0": "nothing beside its own joints",
    "0t": "the torso, all of it",
    "0tnv": "the torso's pose, not its velocity",
    "0tv": "the torso's velocity",
    "0txv": "the torso's forward velocity",
    "0tyv": "the torso's sideways velocity",
    "0txyv": "the torso's forward and sideways velocity",
}


def confs(scenario: str) -> tuple[str, ...]:
    """Ways to share the scenario's joints among agents."""
    return tuple(_known("scenario", scenario, _BODIES).confs)


def views(scenario: str, conf: str) -> tuple[str, ...]:
    """What agents of this conf may see beside their own joints; "full" shows everything to all."""
    body = _known("scenario", scenario, _BODIES)
    _known(f"{scenario} conf", conf, body.confs)
    return ("full", *body.views)


def explain_conf(conf: str) -> str:
    """Say in words who moves what by a conf of some body."""
    sizes = re.search(r"(\d+)x(\d+)", conf)
    shared = f"{sizes[1]} agents, {sizes[2]} joint{'' if sizes[2] == '1' else 's'} each" if sizes else conf
    more = next(
        (words for name, words in _CONF_WORDS.items() if name in conf.replace(sizes[0] if sizes else "", "-")), ""
    )
    return f"{shared}{more and ', '}{more}"


def explain_view(view: str) -> str:
    """Say in words what agents see beside their own joints."""
    return _VIEW_WORDS.get(view, view)


def partition(scenario: str, conf: str, view: str) -> Partition:
    """Columns that each agent sees and moves.

    Raises:
        PartitionError: If the scenario, the conf or the view does not exist; the sentence lists those that do.
    """
    body = _known("scenario", scenario, _BODIES)
    moves, sees = _known(f"{scenario} conf", conf, body.confs, explain_conf)
    if view == "full":
        seen: list[Iterable[int]] = [range(body.obs_dim)] * len(moves)
    else:
        shown = _known(f"{scenario} view", view, {"full": (), **body.views}, explain_view)
        extra = sees or ((),) * len(moves)
        seen = [body.columns((*joints, *also, *shown)) for joints, also in zip(moves, extra, strict=True)]
    return Partition(
        scenario=scenario,
        conf=conf,
        view=view,
        agents=tuple(f"agent_{i}" for i in range(len(moves))),
        obs_index=tuple(tuple(sorted(columns)) for columns in seen),
        act_index=tuple(tuple(sorted(body.joints[name].action for name in joints)) for joints in moves),
    )


def split_task(task_id: str) -> tuple[str, str, str]:
    """Data name, conf and view of `<data>_<conf>_<view>`, read from the right: the data name may hold underscores.

    Only the shape is judged here; `partition` knows which confs and views exist.
    """
    pieces = task_id.rsplit("_", 2)
    if len(pieces) != 3 or not all(pieces):
        raise PartitionError(
            f"'{task_id}' does not say who sees what: a task is <data>_<conf>_<view>, such as "
            "reacher-scripted-mix-v0_2x1notip_0 (conf 2x1notip: "
            f"{explain_conf('2x1notip')}; view 0: {explain_view('0')})."
        )
    return pieces[0], pieces[1], pieces[2]


def _known(kind: str, name: str, table: Mapping[str, Entry], explained: Callable[[str], str] | None = None) -> Entry:
    if name not in table:
        words = "" if explained is None else "; ".join(f"{known}: {explained(known)}" for known in table)
        raise PartitionError(f"Unknown {kind} '{name}': {suggest(name, table)}.{words and f' {words}.'}")
    return table[name]
