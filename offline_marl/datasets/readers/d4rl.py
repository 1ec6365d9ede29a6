"""D4RL's HDF5 files: flat steps of one body, also old ones that do not say where the clock ended an episode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.types import DataError
from offline_marl.datasets.base import Recording
from offline_marl.datasets.readers.base import Content, Reader, readers
from offline_marl.datasets.readers.embedded_metadata import OURS, unpacked
from offline_marl.datasets.readers.scenarios import known_columns, scenario_of
from offline_marl.datasets.readers.steps import Flags, Floats, Steps, Table, breaks, every
from offline_marl.datasets.readers.storage import hdf5

KEYS = frozenset({"observations", "actions", "rewards", "terminals"})
MAX_STEPS = {"reacher": 50}
"""After so many steps the clock ends an episode; 1,000 for the others."""
NAMING = ("scenario", "env", "env_id", "env_name", "dataset_id", "name")
"""Attributes of a file that may name its body."""


@readers.register("d4rl")
class D4RL(Reader):
    """D4RL's HDF5 files: flat steps of one body."""

    endings = (".hdf5", ".h5")

    @contextmanager
    def open(self, path: Path) -> Iterator[Content]:
        """Steps and metadata of a file, to be read while it is open.

        Raises:
            DataError: Arrays are missing, of odd shapes or not of one length; the sentence names them.
        """
        with hdf5.open_file(path) as file:
            tables = {name: hdf5.table(file, name) for name in (*sorted(KEYS), *(_OPTIONAL & set(hdf5.names(file))))}
            attrs = hdf5.attributes(file)
            clock = file.attrs.get("max_episode_steps")
            named = [attrs[name] for name in NAMING if name in attrs] + [path.name]
            max_steps = int(clock) if isinstance(clock, int | np.integer) and clock > 0 else None
            ours = hdf5.text(file, OURS)
            try:
                flat, metadata = steps(tables, named, max_steps)
                # What our own writer left wins, but how this file was read is known only now.
                reading = {name: metadata[name] for name in ("format", "episodes_end")}
                yield flat, {**metadata, **unpacked(ours), **reading}
            except DataError as error:
                raise DataError(f"{path.name}: {error}") from None


def recording(
    arrays: Mapping[str, npt.NDArray[Any]], names: Sequence[str] = (), max_steps: int | None = None
) -> Recording:
    """The recording of arrays by D4RL's names, such as `env.get_dataset()` returns where d4rl is installed; `steps`.

    Raises:
        DataError: See `D4RL.open`.
    """
    flat, metadata = steps(arrays, names, max_steps)
    made = flat.recording(metadata)
    assert isinstance(made, Recording)
    return made


def steps(
    arrays: Mapping[str, Table], names: Sequence[str] = (), max_steps: int | None = None
) -> tuple[Steps, dict[str, Any]]:
    """Steps and metadata of tables by D4RL's names.

    Where `timeouts` is missing, episodes also end where the next observation is not the next row; without
    `next_observations`, after `max_steps`. The metadata say which (`episodes_end`).

    Args:
        arrays: `observations`, `actions`, `rewards`, `terminals`; perhaps `timeouts` and `next_observations`.
        names: What may name the body it was recorded from, such as the file's name.
        max_steps: Of the clock; by default that of the body.

    Raises:
        DataError: See `D4RL.open`.
    """
    missing = sorted(KEYS - set(arrays))
    if missing:
        raise DataError(f"A D4RL set needs {', '.join(sorted(KEYS))}; this one lacks {', '.join(missing)}.")
    tables, flat = _shaped(arrays)
    obs, actions, after = tables["observations"], tables["actions"], tables.get("next_observations")
    scenario = scenario_of(names, obs.shape[1], actions.shape[1])
    flags = {name: _flags(values, name) for name, values in flat.items() if name != "rewards"}
    truncations, rule = _truncations(flags, obs, after, max_steps or MAX_STEPS.get(scenario or "", 1000))
    metadata = {"format": "d4rl", "episodes_end": rule}
    if scenario is not None:
        metadata["scenario"] = scenario
    seen = known_columns(scenario, obs)
    followed = None if after is None else known_columns(scenario, after)
    return Steps(seen, actions, flat["rewards"], flags["terminals"], truncations, followed), metadata


_OPTIONAL = frozenset({"timeouts", "next_observations"})
TABLES = ("observations", "next_observations", "actions")


def _shaped(arrays: Mapping[str, Table]) -> tuple[dict[str, Table], dict[str, Floats]]:
    """Tables, and columns in memory."""
    rows = arrays["observations"].shape[0]
    tables, flat = dict[str, Table](), dict[str, Floats]()
    for name in (*sorted(KEYS), *sorted(_OPTIONAL & set(arrays))):
        values = arrays[name]
        fits = len(values.shape) == 2 if name in TABLES else tuple(values.shape) in {(rows,), (rows, 1)}
        if not fits or values.shape[0] != rows or not rows:
            raise DataError(
                f"'{name}' has shape {tuple(values.shape)}, 'observations' {tuple(arrays['observations'].shape)}."
            )
        if name in TABLES:
            tables[name] = values
        else:
            flat[name] = np.asarray(values[0:rows], np.float32).reshape(rows)
    if tables.get("next_observations", tables["observations"]).shape != tables["observations"].shape:
        raise DataError("'next_observations' and 'observations' are of different widths.")
    return tables, flat


def _flags(values: Floats, name: str) -> Flags:
    if not np.isin(values, (0.0, 1.0)).all():
        raise DataError(f"'{name}' should hold true and false, or 1 and 0.")
    flags: Flags = values == 1
    return flags


def _truncations(flags: Mapping[str, Flags], obs: Table, after: Table | None, max_steps: int) -> tuple[Flags, str]:
    """Where episodes end without termination, and how that is known."""
    terminations, timeouts = flags["terminals"], flags.get("timeouts")
    if after is not None:
        apart = breaks(obs, after) & ~terminations
        if timeouts is None:
            apart[-1] |= not terminations[-1]
            return apart, "terminals, and where the next observation is not the next row"
        unsaid = int((apart & ~timeouts).sum())
        more = f", and {unsaid} breaks that no flag told" if unsaid else ""
        return timeouts | apart, f"terminals, timeouts{more}"
    if timeouts is not None and (timeouts.any() or not terminations.any()):
        return timeouts, "terminals, timeouts"
    reason = "the file has no timeouts" if timeouts is None else "its timeouts are never true"
    cut = every(max_steps, terminations)
    cut[-1] |= not terminations[-1]
    return cut, f"terminals, and every {max_steps} steps: {reason}"
