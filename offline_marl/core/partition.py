"""Partitions of a simulated body among agents: the joints that each moves and the columns that each sees.

Data and environments both ask here, so that a column of the data and a column of the simulator mean the same thing.
The bodies themselves are in `bodies.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, TypeVar

import numpy as np
import numpy.typing as npt

from offline_marl.core.bodies import BODIES
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


SCENARIOS: tuple[str, ...] = tuple(BODIES)
_CONF_WORDS = {
    "9|8": "2 agents, 9 joints the upper body and 8 the legs",
    "3p": "3 agents, 3 joints the upper arm, 1 the elbow and 3 the forearm and wrist",
}
_CONF_ENDS = {
    "notip": "which see the target, but not how far the tip is from it",
    "first": "which see the whole arm, the first one the target",
    "second": "which see the whole arm, the second one the target",
    "t-": "of which the first also sees the torso",
    "-d": "the legs of one side together, which its publication calls diagonal",
}
_VIEW_WORDS = {
    "full": "everything",
    "0": "nothing beside its own joints",
    "0t": "the torso, all of it (of pendulums the poles)",
    "0tnv": "the torso's pose, not its velocity",
    "0tv": "the torso's velocity",
    "0txv": "the torso's forward velocity",
    "0tyv": "the torso's sideways velocity",
    "0txyv": "the torso's forward and sideways velocity",
}


def confs(scenario: str) -> tuple[str, ...]:
    """Ways to share the scenario's joints among agents."""
    return tuple(_known("scenario", scenario, BODIES).confs)


def views(scenario: str, conf: str) -> tuple[str, ...]:
    """What agents of this conf may see beside their own joints; "full" shows everything to all."""
    body = _known("scenario", scenario, BODIES)
    _known(f"{scenario} conf", conf, body.confs)
    return ("full", *body.views)


def explain_conf(conf: str) -> str:
    """Say in words who moves what by a conf of some body."""
    sizes = re.search(r"(\d+)x(\d+)", conf)
    if sizes is None:
        return _CONF_WORDS.get(conf, conf)
    joints = f"{sizes[2]} joint{'' if sizes[2] == '1' else 's'}"
    if sizes[1] == "1":
        return f"1 agent, {joints}: the whole body"
    more = next((words for name, words in _CONF_ENDS.items() if name in conf.replace(sizes[0], "-")), "")
    return f"{sizes[1]} agents, {joints} each{more and ', '}{more}"


def explain_view(view: str) -> str:
    """Say in words what agents see beside their own joints."""
    return _VIEW_WORDS.get(view, view)


def partition(scenario: str, conf: str, view: str) -> Partition:
    """Columns that each agent sees and moves.

    Raises:
        PartitionError: If the scenario, the conf or the view does not exist; the sentence lists those that do.
    """
    body = _known("scenario", scenario, BODIES)
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
        shares = [known for known in table if not known.startswith("1x")]  # the whole body is explained, not meant
        raise PartitionError(f"Unknown {kind} '{name}': {suggest(name, shares or table)}.{words and f' {words}.'}")
    return table[name]
