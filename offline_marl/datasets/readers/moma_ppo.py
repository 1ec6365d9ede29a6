"""MOMA-PPO's Reacher sets: a pickled dict of float32 arrays, agents' actions side by side, ends as masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.types import DataError
from offline_marl.datasets.readers.base import Content, Reader, readers
from offline_marl.datasets.readers.scenarios import known_columns, scenario_of
from offline_marl.datasets.readers.steps import Steps, breaks
from offline_marl.datasets.readers.storage.pickled import read_pickle

TABLES = ("observations", "next_observations", "actions")
COLUMNS = ("rewards", "masks", "time_out_masks")
"""One number a step; `masks` is 0 where the task ended, `time_out_masks` 0 where the clock did."""


@readers.register("moma-ppo")
class MOMAPPO(Reader):
    """MOMA-PPO's Reacher sets: a pickled dict of arrays of one body."""

    endings = (".pkl", ".pickle", ".pt")

    @contextmanager
    def open(self, path: Path) -> Iterator[Content]:
        """Steps and metadata of a pickle, read without executing anything.

        Raises:
            DataError: The pickle names something else than arrays, or the arrays are not those of this format.
        """
        arrays = read_pickle(path)
        try:
            yield steps(arrays, path.name)
        except DataError as error:
            raise DataError(f"{path.name}: {error}") from None


def steps(arrays: Mapping[str, Any], name: str = "") -> tuple[Steps, dict[str, Any]]:
    """Steps and metadata of arrays by MOMA-PPO's names.

    Raises:
        DataError: See `MOMAPPO.open`.
    """
    tables = _shaped(arrays)
    obs, after, actions = (tables[table] for table in TABLES)
    terminated, timed_out = (_flags(tables[mask], mask) for mask in ("masks", "time_out_masks"))
    apart = breaks(obs, after) & ~terminated & ~timed_out
    scenario = scenario_of([name], obs.shape[1], actions.shape[1], usual="reacher")
    more = f", and {int(apart.sum())} breaks that no mask told" if apart.any() else ""
    metadata = {"format": "moma-ppo", "episodes_end": f"masks, time_out_masks{more}"}
    if scenario is not None:
        metadata["scenario"] = scenario
    seen, followed = known_columns(scenario, obs), known_columns(scenario, after)
    return Steps(seen, actions, tables["rewards"], terminated, timed_out | apart, followed), metadata


def _shaped(arrays: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
    missing = [name for name in (*TABLES, *COLUMNS) if not isinstance(arrays.get(name), np.ndarray)]
    if missing:
        raise DataError(f"A MOMA-PPO set holds the arrays {', '.join((*TABLES, *COLUMNS))}; lacking: {missing[0]}.")
    rows, shaped = len(np.atleast_1d(arrays["observations"])), {}
    for name in (*TABLES, *COLUMNS):
        value = np.ascontiguousarray(arrays[name], dtype=np.float32)
        if name in COLUMNS and value.shape in {(rows,), (rows, 1)}:
            value = value.reshape(rows)
        if value.ndim != (2 if name in TABLES else 1) or len(value) != rows or not rows:
            raise DataError(f"'{name}' has shape {value.shape}, 'observations' {arrays['observations'].shape}.")
        shaped[name] = value if value.flags.writeable else value.copy()
    if shaped["observations"].shape != shaped["next_observations"].shape:
        raise DataError("'next_observations' and 'observations' are of different widths.")
    return shaped


def _flags(mask: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.bool_]:
    if not np.isin(mask, (0.0, 1.0)).all():
        raise DataError(f"'{name}' should hold 0 and 1.")
    ended: npt.NDArray[np.bool_] = mask == 0
    return ended
