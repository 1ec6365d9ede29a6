"""Minari's folders: one body's steps, or a team's in Dict or Tuple spaces with rewards per agent among the infos.

Read without minari itself, which is only asked for sets that are not on this disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.types import DataError, Spec
from offline_marl.datasets.readers import spaces
from offline_marl.datasets.readers.base import Content
from offline_marl.datasets.readers.minari.metadata import env_names, metadata_of, told
from offline_marl.datasets.readers.minari.storages import Episodes, natural, open_storage
from offline_marl.datasets.readers.scenarios import known_columns, scenario_of
from offline_marl.datasets.readers.spaces import Moves
from offline_marl.datasets.readers.steps import Steps, Table
from offline_marl.datasets.readers.storage.tables import Joined, Lazy, padded

SCHEME = "minari://"


def folder_of(place: str) -> Path:
    """The local folder of `minari://ID`, under `MINARI_DATASETS_PATH` or Minari's own default.

    What is not there is fetched by minari, where it is installed, from `MINARI_REMOTE`.

    Raises:
        DataError: It is not there and cannot be fetched, or the id leaves the folder.
    """
    name = place.removeprefix(SCHEME)
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or Path("~/.minari/datasets").expanduser())
    if not name or ".." in name.split("/") or name.startswith("/"):
        raise DataError(f"'{place}' should be {SCHEME}ID, such as {SCHEME}mujoco/hopper/medium-v0.")
    if not is_minari(root / name):
        from offline_marl.datasets.readers.minari.remote import fetch

        fetch(name, root)
    return root / name


def is_minari(folder: Path) -> bool:
    """Whether a folder is one of Minari's."""
    return (folder / "data" / "metadata.json").is_file()


@contextmanager
def open_steps(folder: Path) -> Iterator[Content]:
    """Steps and metadata of a set, read episode by episode while it is open.

    Raises:
        DataError: The folder lacks a part, or its episodes do not fit together.
    """
    metadata = metadata_of(folder)
    with open_storage(folder, str(metadata.get("data_format", "hdf5"))) as episodes:
        try:
            content = _steps(_Set(folder, metadata, episodes))
        except DataError as error:
            raise DataError(f"{folder.name}: {error}") from None
        yield content


@dataclass(frozen=True)
class _Set:
    """A folder, what its metadata say, and its episodes."""

    folder: Path
    metadata: dict[str, Any]
    episodes: Episodes

    def agents(self, what: str) -> list[str]:
        """Names of the agents' arrays of this kind, in order; none where there is one array for all."""
        names = self.episodes.names(0)
        agents = [name.split("/", 1)[1] for name in names if name.startswith(f"{what}/")]
        return [] if what in names else sorted(agents, key=natural)

    def column(self, name: str, lengths: Sequence[int] = ()) -> list[npt.NDArray[Any]]:
        """One number a step, of each episode."""
        columns = [self.episodes.read(number, name) for number in range(len(self.episodes))]
        for number, values in enumerate(columns):
            wanted = lengths[number] if lengths else len(values)
            if values.size != wanted or not values.size or len(values) != wanted:
                raise DataError(f"episode {number}: '{name}' has shape {values.shape}, it should be one number a step.")
        return [values.reshape(-1) for values in columns]

    def table(
        self, name: str, lengths: Sequence[int], cut: slice, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
    ) -> Joined:
        """An array of all episodes with one row more than steps, `cut` to as many, or with as many."""
        more = cut != slice(None)
        width = _rows(self.episodes.read(0, name)).shape[1:]

        def read(number: int) -> npt.NDArray[Any]:
            values, wanted = self.episodes.read(number, name), lengths[number] + more
            rows = _rows(values)
            if len(rows) != wanted or rows.shape[1:] != width or not rows.size:
                raise DataError(
                    f"{self.folder.name}: episode {number}: '{name}' has shape {values.shape}, the {lengths[number]:,} "
                    f"rewards and the first episode make it {(wanted, *width)}."
                )
            return change(rows[cut])

        return Joined(lengths, width, read)


BEFORE, AFTER, ALL = slice(None, -1), slice(1, None), slice(None)


def _rows(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`[row, number]`, whatever the axes of a row are."""
    return values.reshape(len(values), int(np.prod(values.shape[1:])))


def _plain(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values


def _steps(minari_set: _Set) -> tuple[Steps, dict[str, Any]]:
    if spaces.is_picture(minari_set.metadata.get("observation_space")):
        raise DataError("its observations are pictures, which are not read.")
    rewards = minari_set.column("rewards")
    lengths = [len(values) for values in rewards]
    for name, count in (("total_episodes", len(lengths)), ("total_steps", sum(lengths))):
        claim = minari_set.metadata.get(name, count)
        if claim != count:
            raise DataError(
                f"its metadata say {name} is {claim!r:.40}, its files hold {count:,}: it was copied or written in part."
            )
    flags = {name: _flags(minari_set.column(name, lengths), name) for name in ("terminations", "truncations")}
    agents = minari_set.agents("actions")
    moves = spaces.moves_of(minari_set.metadata.get("action_space"), agents)
    known = told(minari_set.metadata, minari_set.folder.name, moves)
    if not agents and not minari_set.agents("observations"):
        return _body(minari_set, np.concatenate(rewards), flags, lengths, moves[0], known)
    return _team(minari_set, np.concatenate(rewards), flags, lengths, moves, known)


def _body(
    minari_set: _Set, rewards: Any, flags: dict[str, Any], lengths: list[int], moves: Moves, known: dict[str, Any]
) -> tuple[Steps, dict[str, Any]]:
    if moves.choices or minari_set.episodes.read(0, "actions").dtype.kind != "f":
        raise DataError("One body's set should hold flat observations and continuous actions.")
    obs, after = (minari_set.table("observations", lengths, cut, _plain) for cut in (BEFORE, AFTER))
    actions = minari_set.table("actions", lengths, ALL, moves.ours)
    names = [*env_names(minari_set.metadata), str(known["name"])]
    # Our own metadata, if there are any, say it and win.
    scenario = scenario_of(names, obs.shape[1], actions.shape[1], guess="scenario" not in known)
    steps = Steps(
        known_columns(scenario, obs),
        actions,
        rewards.astype(np.float32),
        **_cut(flags, lengths),
        next_obs=known_columns(scenario, after),
    )
    return steps, {**({} if scenario is None else {"scenario": scenario}), **known}


def _team(
    minari_set: _Set, rewards: Any, flags: dict[str, Any], lengths: list[int], moves: list[Moves], known: dict[str, Any]
) -> tuple[Steps, dict[str, Any]]:
    agents = minari_set.agents("actions")
    if agents != minari_set.agents("observations"):
        raise DataError(
            f"Its actions are of {_listed(agents)}, its observations of {_listed(minari_set.agents('observations'))}: "
            "a team's need the same names, one body's are one array each."
        )
    per_step, count = {"rewards": rewards, **flags}, len(agents)
    mask = _per_agent(minari_set, "infos/mask", lengths, count)
    for name in ("rewards", "terminations", "truncations"):
        values = _per_agent(minari_set, f"infos/{name}", lengths, count)
        if values is not None:
            per_step[name] = values if name == "rewards" else _flags([values], name)
    obs = [[minari_set.table(f"observations/{a}", lengths, cut, _plain) for a in agents] for cut in (BEFORE, AFTER)]
    actions, act_dims, kind = _actions(minari_set, lengths, agents, moves)
    names = minari_set.episodes.names(0)
    state, after = (
        minari_set.table("infos/state", lengths, cut, _plain) if "infos/state" in names else None
        for cut in (BEFORE, AFTER)
    )
    steps = Steps(
        padded(obs[0]),
        actions,
        per_step.pop("rewards").astype(np.float32),
        **_cut(per_step, lengths),
        next_obs=padded(obs[1]),
        state=state,
        next_state=after,
        **_avail(minari_set, lengths, count, max(act_dims) if kind == "discrete" else 0),
        mask=None if mask is None else _flags([mask], "mask"),
        spec=Spec(tuple(t.shape[1] for t in obs[0]), act_dims, 0 if state is None else state.shape[1], kind),
    )
    return steps, known


def _listed(agents: list[str]) -> str:
    return f"{', '.join(agents[:8])}{' ...' if len(agents) > 8 else ''}" if agents else "one array"


def _actions(
    minari_set: _Set, lengths: list[int], agents: list[str], moves: list[Moves]
) -> tuple[Table, tuple[int, ...], Any]:
    tables = [minari_set.table(f"actions/{a}", lengths, ALL, m.ours) for a, m in zip(agents, moves, strict=True)]
    whole = {minari_set.episodes.read(0, f"actions/{agent}").dtype.kind in "iu" for agent in agents}
    if len(whole) > 1 or any(bool(m.choices) != whole.copy().pop() for m in moves if m.told):
        raise DataError("Its agents' actions should all be continuous, or all be choices, as its action space says.")
    if not whole.pop():
        return padded(tables), tuple(table.shape[1] for table in tables), "continuous"
    if any(table.shape[1] != 1 for table in tables):
        raise DataError("Its agents make several choices at once, which are not read.")
    chosen = padded(tables, np.int64)
    dims = tuple(m.choices or 1 + int(table[ALL].max()) for m, table in zip(moves, tables, strict=True))
    return Lazy(chosen.shape[:2], lambda first, last: chosen.read(first, last)[..., 0]), dims, "discrete"


def _avail(minari_set: _Set, lengths: list[int], agents: int, choices: int) -> dict[str, Any]:
    """Which choices were allowed, as our writer keeps them: `[time+1, agent, choice]` among the infos."""
    if not choices or "infos/avail_actions" not in minari_set.episodes.names(0):
        return {}
    flat = [minari_set.table("infos/avail_actions", lengths, cut, _plain) for cut in (BEFORE, AFTER)]
    if flat[0].shape[1] != agents * choices:
        raise DataError(f"'infos/avail_actions' should be of {agents} agents with {choices} choices.")

    def shaped(table: Joined) -> Table:
        shape = (table.shape[0], agents, choices)
        return Lazy(shape, lambda first, last: table[first:last].reshape(-1, agents, choices) != 0)

    return {"avail_actions": shaped(flat[0]), "next_avail_actions": shaped(flat[1])}


def _per_agent(minari_set: _Set, name: str, lengths: list[int], agents: int) -> npt.NDArray[Any] | None:
    """`[steps, agent]` from one array among the infos or from one for each agent; None where there is none."""
    names, parent = minari_set.episodes.names(0), f"{name}/"
    parts = [name] if name in names else sorted((part for part in names if part.startswith(parent)), key=natural)
    if not parts:
        return None
    whole = []
    for number, length in enumerate(lengths):
        values = [minari_set.episodes.read(number, part) for part in parts]
        if any(len(value) not in {length, length + 1} or len(value) != len(values[0]) for value in values):
            raise DataError(f"episode {number}: '{name}' should have {length + 1} rows, it has {len(values[0])}.")
        columns = np.concatenate([value.reshape(len(value), -1) for value in values], axis=1)
        if columns.shape[1] != agents:
            raise DataError(f"episode {number}: '{name}' is of {columns.shape[1]} agents, the actions of {agents}.")
        # Infos begin with the reset, before any step.
        whole.append(columns[1:] if len(columns) == length + 1 else columns)
    return np.concatenate(whole)


def _flags(parts: list[npt.NDArray[Any]], name: str) -> npt.NDArray[np.bool_]:
    values = np.concatenate(parts)
    if not np.isin(values, (0, 1)).all():
        raise DataError(f"'{name}' should hold true and false, or 1 and 0.")
    return values.astype(np.bool_)


def _cut(flags: dict[str, Any], lengths: list[int]) -> dict[str, Any]:
    """Flags that end each episode where its group does."""
    last = np.cumsum(lengths) - 1
    axes = max(values.ndim for values in flags.values())
    whole = (values[:, None] if values.ndim < axes else values for values in flags.values())
    terminations, truncations = (np.array(values) for values in np.broadcast_arrays(*whole))
    truncations[last] |= ~terminations[last]
    return {"terminations": terminations, "truncations": truncations}
