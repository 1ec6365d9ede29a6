"""OMAR's folders of .npy files, one for each agent and array, left on the disk until rows are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from offline_marl.core.types import DataError, Spec
from offline_marl.datasets.readers.base import Content, Reader, readers
from offline_marl.datasets.readers.steps import Flags, Steps, Table, breaks
from offline_marl.datasets.readers.storage import npy
from offline_marl.datasets.readers.storage.tables import padded

TABLES, COLUMNS = ("obs", "acs", "next_obs"), ("rews", "dones")
STATES = ("states", "next_states")


@readers.register("omar")
class OMAR(Reader):
    """OMAR's folders: one .npy file for each agent and array."""

    def recognises(self, path: Path) -> bool:
        """Whether a folder, or a folder in it, holds agent 0's observations."""
        return path.is_dir() and ((path / "obs_0.npy").is_file() or any(path.glob("*/obs_0.npy")))

    @contextmanager
    def open(self, path: Path, dones: Literal["truncations", "terminations"] = "truncations") -> Iterator[Content]:
        """Steps and metadata of a folder that holds `obs_0.npy` and its like.

        Args:
            path: The folder, such as `simple_spread/expert/seed_0_data`; its last three names go into the metadata.
            dones: What `dones` mark. In the published sets it is the clock; the metadata say what was assumed.

        Raises:
            DataError: Files are missing, hold something else than numbers, or do not fit together.
        """
        folder = _one(path)
        origin = dict(zip(("seed", "quality", "task"), reversed(folder.absolute().parts), strict=False))
        try:
            steps, rule = _steps(folder, dones)
        except DataError as error:
            raise DataError(f"{folder}: {error}") from None
        yield steps, {"format": "omar", "name": folder.name, "omar": origin, "episodes_end": rule}


opened = OMAR().open


def _one(path: Path) -> Path:
    if (path / "obs_0.npy").is_file():
        return path
    seeds = sorted(file.parent.name for file in path.glob("*/obs_0.npy"))
    if len(seeds) > 1:
        raise DataError(
            f"{path} holds {len(seeds)} sets ({', '.join(seeds[:20])}): name one, such as {path}/{seeds[0]}."
        )
    if not seeds:
        raise DataError(f"{path} is none of OMAR's folders: obs_0.npy is missing.")
    return path / seeds[0]


def _steps(folder: Path, dones: str) -> tuple[Steps, str]:
    count = 1 + max(
        int(match[1]) for file in folder.iterdir() if (match := re.fullmatch(r"obs_(\d{1,3})\.npy", file.name))
    )
    columns = {name: [_array(folder, name, agent) for agent in range(count)] for name in (*TABLES, *COLUMNS)}
    rows = len(columns["obs"][0])
    for name, arrays in columns.items():
        for agent, array in enumerate(arrays):
            _check(name, agent, array, rows)
    obs_dims, act_dims = (tuple(array.shape[1] for array in columns[name]) for name in ("obs", "acs"))
    after_dims = tuple(array.shape[1] for array in columns["next_obs"])
    if after_dims != obs_dims:
        raise DataError(f"'next_obs' is of widths {after_dims}, 'obs' of {obs_dims}.")
    state, next_state = _states(folder, rows)
    obs, after = padded(columns["obs"]), padded(columns["next_obs"])
    ended, apart = _ends(columns["dones"], obs, after)
    flags = np.repeat(ended[:, None], count, axis=1)
    none = np.zeros_like(flags)
    cut = np.repeat(apart[:, None], count, axis=1)
    whose = "the clock's" if dones == "truncations" else "the task's"
    more = f", and {int(apart.sum())} breaks that no flag told" if apart.any() else ""
    steps = Steps(
        obs,
        padded(columns["acs"]),
        np.stack([np.asarray(array, np.float32).reshape(rows) for array in columns["rews"]], axis=1),
        none if dones == "truncations" else flags,
        (flags if dones == "truncations" else none) | cut,
        after,
        state,
        next_state,
        spec=Spec(obs_dims, act_dims, 0 if state is None else state.shape[1]),
    )
    return steps, f"dones, taken as {whose}{more}"


def _array(folder: Path, name: str, agent: int) -> npt.NDArray[Any]:
    return npy.mapped(folder / f"{name}_{agent}.npy")


def _check(name: str, agent: int, array: npt.NDArray[Any], rows: int) -> None:
    fits = array.ndim == 2 if name in TABLES else array.shape in {(rows,), (rows, 1)}
    if not fits or len(array) != rows or not rows or array.shape[-1] == 0:
        raise DataError(f"{name}_{agent}.npy has shape {array.shape}, obs_0.npy {rows} rows.")
    if name == "acs" and array.dtype.kind != "f":
        raise DataError(f"acs_{agent}.npy holds {array.dtype}; OMAR's actions are floats.")


def _states(folder: Path, rows: int) -> tuple[Table | None, Table | None]:
    """Agent 0's, which in these sets are those of all."""
    if not (folder / "states_0.npy").is_file():
        return None, None
    state, after = (_array(folder, name, 0) for name in STATES)
    if state.ndim != 2 or state.shape != after.shape or len(state) != rows:
        raise DataError(
            f"states_0.npy has shape {state.shape}, next_states_0.npy {after.shape}, obs_0.npy {rows} rows."
        )
    return state, after


def _ends(dones: list[npt.NDArray[Any]], obs: Table, after: Table) -> tuple[Flags, Flags]:
    """Steps that a flag ends, and others after which the next row is not what followed."""
    flags = np.stack([np.asarray(array).reshape(len(array)) for array in dones], axis=1)
    if not np.isin(flags, (0, 1)).all():
        raise DataError("'dones' should hold true and false, or 1 and 0.")
    ended = (flags == 1).all(axis=1)
    return ended, breaks(obs, after) & ~ended
