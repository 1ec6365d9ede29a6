"""OMIGA's HDF5 files: a team's states, observations, actions, rewards and ends under one letter each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.partition import SCENARIOS
from offline_marl.core.types import DataError, Spec
from offline_marl.datasets.arrays.episode_batches import is_one_hot
from offline_marl.datasets.arrays.mistakes import refuse_no_end
from offline_marl.datasets.readers.base import Content, Reader, readers
from offline_marl.datasets.readers.steps import Altered, Flags, Steps, Table, parts
from offline_marl.datasets.readers.storage import hdf5
from offline_marl.datasets.readers.storage.padding import cut_padding

LETTERS = frozenset({"s", "o", "a", "r", "d"})
"""Arrays of states, observations, actions, rewards and ends."""
CLOCK = 1000
"""Steps after which the clock ends an episode of a simulated body."""
_NAME = re.compile(r"(?P<task>[A-Za-z0-9_]+?)(?:-v\d+)?-(?P<conf>\d+x\d+(?:d)?|\d+p|\d+\|\d+)-(?P<quality>[\w-]+)")


@readers.register("omiga")
class OMIGA(Reader):
    """OMIGA's HDF5 files: a team's steps under one letter an array."""

    endings = (".hdf5", ".h5")

    def recognises(self, path: Path) -> bool:
        """Whether an HDF5 file holds OMIGA's one-letter arrays, and no `observations`.

        Raises:
            DataError: The file has an ending of HDF5 and cannot be read as such.
        """
        if not super().recognises(path):
            return False
        with hdf5.open_file(path) as file:
            arrays = set(hdf5.names(file))
        return len(arrays & LETTERS) >= 3 and "observations" not in arrays

    @contextmanager
    def open(self, path: Path) -> Iterator[Content]:
        """Steps and metadata of a file, to be read while it is open.

        The file does not say why an episode ended (`d`): one that is as long as the clock allows was cut, a shorter
        one terminated; the metadata say so (`episodes_end`).

        Raises:
            DataError: Arrays are missing, of odd shapes or not of one length; the sentence names them.
        """
        with hdf5.open_file(path) as file:
            arrays = set(hdf5.names(file))
            missing = sorted({"o", "a", "r", "d"} - arrays)
            if missing:
                raise DataError(
                    f"{path.name}: an OMIGA set needs s, o, a, r and d; this one lacks {', '.join(missing)}."
                )
            tables = {name: hdf5.table(file, name) for name in ("o", "a", "r", "d", *({"s"} & arrays))}
            metadata = _from_name(path.stem)
            try:
                yield _steps(tables, metadata)
            except DataError as error:
                raise DataError(f"{path.name}: {error}") from None


def _from_name(name: str) -> dict[str, Any]:
    """What the file is called after: `HalfCheetah-v2-6x1-expert`."""
    metadata: dict[str, Any] = {"format": "omiga", "name": name}
    parts = _NAME.fullmatch(name)
    if parts is None:
        return metadata
    scenario = parts["task"].lower()
    # Bodies that we know by this name; their views are not ours, so that no environment belongs to it.
    known = {"scenario": scenario} if scenario in SCENARIOS else {"task": parts["task"]}
    return {**metadata, **known, "conf": parts["conf"], "quality": parts["quality"]}


def _steps(tables: dict[str, Table], metadata: dict[str, Any]) -> tuple[Steps, dict[str, Any]]:
    obs, actions = tables["o"], tables["a"]
    if len(obs.shape) != 3 or not obs.shape[0]:
        raise DataError(f"'o' should have axes [step, agent, width], it has shape {obs.shape}.")
    steps, agents = obs.shape[:2]
    obs, obs_dims = cut_padding(obs)
    act, act_dims, kind = _actions(actions, steps, agents)
    state = _state(tables.get("s"), steps, agents)
    clock = CLOCK if "scenario" in metadata else None
    terminations, truncations, rule = _ends(_column(tables["d"], "d", steps, agents), clock)
    rewards = _column(tables["r"], "r", steps, agents)
    spec = Spec(obs_dims, act_dims, 0 if state is None else state.shape[1], kind)
    completed = {**metadata, "episodes_end": rule} | ({} if state is None else {"state": "of agent 0, as that of all"})
    return Steps(obs, act, rewards, terminations, truncations, state=state, spec=spec), completed


def _actions(table: Table, steps: int, agents: int) -> tuple[Table, tuple[int, ...], Any]:
    whole = getattr(table, "dtype", np.dtype("f4")).kind in "iu"
    if table.shape[:2] != (steps, agents) or len(table.shape) not in ({2, 3} if whole else {3}):
        raise DataError(
            f"'a' should have axes [step, agent, width] with the {steps} steps and {agents} agents of 'o', "
            f"it has shape {table.shape}."
        )
    width = 1 if len(table.shape) == 2 else table.shape[2]
    one_hot = width > 1 and all(is_one_hot(table[part]) for part in parts(table))
    if not whole:
        if one_hot:
            raise DataError("'a' holds one-hot rows of floats: it should hold the choices themselves, whole numbers.")
        return table, (width,) * agents, "continuous"
    if one_hot:
        return Altered(table, lambda rows: rows.argmax(-1), (agents,)), (width,) * agents, "discrete"
    if width > 1:
        raise DataError("'a' should hold one choice a step and agent, or one-hot rows of them.")
    chosen = table if len(table.shape) == 2 else Altered(table, lambda rows: rows[..., 0], (agents,))
    count = 1 + max(int(chosen[part].max()) for part in parts(chosen))
    return chosen, (max(count, 1),) * agents, "discrete"


def _state(table: Table | None, steps: int, agents: int) -> Table | None:
    if table is None or (table.shape[:1] == (steps,) and len(table.shape) == 2):
        return table
    if len(table.shape) != 3 or table.shape[:2] != (steps, agents):
        raise DataError(f"'s' should have the {steps} steps and {agents} agents of 'o', it has shape {table.shape}.")
    return Altered(table, lambda rows: rows[:, 0], (table.shape[2],))


def _column(table: Table, name: str, steps: int, agents: int) -> npt.NDArray[np.float32]:
    """One number a step and agent, from any of the shapes that are about."""
    if table.shape not in {(steps,), (steps, 1), (steps, agents), (steps, agents, 1)}:
        raise DataError(f"'{name}' should be one number a step, or a step and agent, it has shape {table.shape}.")
    values = np.asarray(table[0:steps], np.float32).reshape(steps, -1)
    return np.array(np.broadcast_to(values, (steps, agents)))


def _ends(done: npt.NDArray[np.float32], clock: int | None) -> tuple[Flags, Flags, str]:
    """Which ends were the task's and which the clock's, and how that is known."""
    if not np.isin(done, (0.0, 1.0)).all():
        raise DataError("'d' should hold true and false, or 1 and 0.")
    ended = (done == 1).all(axis=1)
    refuse_no_end(ended, ended, "The ends 'd'")
    ended[-1] = True
    last = np.flatnonzero(ended)
    lengths = np.diff(last, prepend=-1)
    longest = clock or int(lengths.max())
    cut = np.zeros_like(ended)
    cut[last[lengths >= longest]] = True
    cut[-1] |= not done[-1].all()
    rule = f"d: after {longest:,} steps the clock's, before that the task's"
    terminations, truncations = (np.repeat(flags[:, None], done.shape[1], axis=1) for flags in (ended & ~cut, cut))
    return terminations, truncations, rule
