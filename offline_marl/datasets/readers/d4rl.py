"""D4RL's HDF5 files: flat steps of one body, also old ones that do not say where the clock ended an episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.types import DataError
from offline_marl.datasets.base import Recording
from offline_marl.datasets.readers import hdf5
from offline_marl.datasets.readers.bodies import known_columns, scenario_of
from offline_marl.datasets.readers.steps import Flags, Steps, breaks, every

KEYS = frozenset({"observations", "actions", "rewards", "terminals"})
MAX_STEPS = {"reacher": 50}
"""After so many steps the clock ends an episode; 1,000 for the others."""
NAMING = ("scenario", "env", "env_id", "env_name", "dataset_id", "name")
"""Attributes of a file that may name its body."""


def read(path: Path) -> Recording:
    """The recording in a file.

    Raises:
        DataError: Arrays are missing, of odd shapes or not of one length; the sentence names them.
    """
    with hdf5.opened(path) as file:
        held = hdf5.names(file)
        arrays = {name: hdf5.array(file, name) for name in (*sorted(KEYS), *(_OPTIONAL & set(held)))}
        attrs = hdf5.attributes(file)
        clock = file.attrs.get("max_episode_steps")
    named = [attrs[name] for name in NAMING if name in attrs] + [path.name]
    try:
        return recording(arrays, named, int(clock) if isinstance(clock, int | np.integer) and clock > 0 else None)
    except DataError as error:
        raise DataError(f"{path.name}: {error}") from None


def recording(
    arrays: Mapping[str, npt.NDArray[Any]], names: Sequence[str] = (), max_steps: int | None = None
) -> Recording:
    """The recording of arrays by D4RL's names, such as `env.get_dataset()` returns where d4rl is installed.

    Where `timeouts` is missing, episodes also end where the next observation is not the next row; without
    `next_observations`, after `max_steps`. The metadata say which (`episodes_end`).

    Args:
        arrays: `observations`, `actions`, `rewards`, `terminals`; perhaps `timeouts` and `next_observations`.
        names: What may name the body it was recorded from, such as the file's name.
        max_steps: Of the clock; by default that of the body.

    Raises:
        DataError: See `read`.
    """
    flat = _shaped(arrays)
    obs, actions, after = flat["observations"], flat["actions"], flat.get("next_observations")
    scenario = scenario_of(names, obs.shape[1], actions.shape[1])
    terminations = _flags(flat, "terminals")
    truncations, rule = _truncations(flat, terminations, max_steps or MAX_STEPS.get(scenario or "", 1000))
    about = {"format": "d4rl", "episodes_end": rule}
    if scenario is not None:
        about["scenario"] = scenario
    return Steps(
        known_columns(scenario, obs),
        actions,
        flat["rewards"],
        terminations,
        truncations,
        None if after is None else known_columns(scenario, after),
    ).recording(about)


_OPTIONAL = frozenset({"timeouts", "next_observations"})


def _shaped(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
    missing = sorted(KEYS - set(arrays))
    if missing:
        raise DataError(f"A D4RL set needs {', '.join(sorted(KEYS))}; this one lacks {', '.join(missing)}.")
    rows, flat = len(arrays["observations"]), {}
    for name in (*sorted(KEYS), *sorted(_OPTIONAL & set(arrays))):
        table = name in {"observations", "next_observations", "actions"}
        value = np.ascontiguousarray(arrays[name], dtype=np.float32)
        if not table and value.shape in {(rows,), (rows, 1)}:
            value = value.reshape(rows)
        if value.ndim != (2 if table else 1) or len(value) != rows or not rows:
            raise DataError(f"'{name}' has shape {value.shape}, 'observations' {arrays['observations'].shape}.")
        flat[name] = value
    if flat.get("next_observations", flat["observations"]).shape != flat["observations"].shape:
        raise DataError("'next_observations' and 'observations' are of different widths.")
    return flat


def _flags(flat: Mapping[str, npt.NDArray[np.float32]], name: str) -> Flags:
    if not np.isin(flat[name], (0.0, 1.0)).all():
        raise DataError(f"'{name}' should hold true and false, or 1 and 0.")
    flags: Flags = flat[name] == 1
    return flags


def _truncations(flat: Mapping[str, npt.NDArray[np.float32]], terminations: Flags, max_steps: int) -> tuple[Flags, str]:
    """Where episodes end without termination, and how that is known."""
    if "next_observations" in flat:
        apart = breaks(flat["observations"], flat["next_observations"]) & ~terminations
        if "timeouts" not in flat:
            return apart, "terminals, and where the next observation is not the next row"
        timeouts = _flags(flat, "timeouts")
        unsaid = int((apart & ~timeouts).sum())
        more = f", and {unsaid} breaks that no flag told" if unsaid else ""
        return timeouts | apart, f"terminals, timeouts{more}"
    if "timeouts" in flat:
        return _flags(flat, "timeouts"), "terminals, timeouts"
    return every(max_steps, terminations), f"terminals, and every {max_steps} steps: the file has no timeouts"
