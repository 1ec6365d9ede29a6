"""D4RL's HDF5 files: flat steps of one body, with what followed each and who ended it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from offline_marl.core.files import PIECE
from offline_marl.core.parts import part_of
from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.episode_index import episode_numbers
from offline_marl.datasets.readers.embedded_metadata import OURS, packed
from offline_marl.datasets.writers.hdf5_file import GuardedFile, writing_hdf5


def write(path: Path, data: Recording | Dataset) -> None:
    """Write a recording, whole or not at all.

    Raises:
        DataError: h5py is missing, or the data is of a team, which D4RL has no place for.
        OSError: The disk is full.
    """
    if isinstance(data, Dataset):
        raise DataError(f"{path.name}: D4RL's files hold what one body did; a team's data go into Minari's.")
    try:
        import h5py  # noqa: F401 - asked for here, used when writing
    except ImportError:
        raise DataError(f"Writing {path.name} needs h5py: pip install 'offline-marl[data]'.") from None
    before = torch.arange(len(data.rewards)) + episode_numbers(data.lengths)
    arrays = {"observations": data.state[before], "next_observations": data.state[before + 1], "actions": data.actions}
    arrays |= {"rewards": data.rewards, "terminals": data.terminations, "timeouts": data.truncations}
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part_of(path) as (handle, part):
            os.close(handle)
            with writing_hdf5(part) as (file, guard):
                for name, value in arrays.items():
                    _write(file, name, value, guard)
                file[OURS] = packed(data.metadata, data.ends_seen)
                if "scenario" in data.metadata:
                    file.attrs["scenario"] = data.metadata["scenario"]
            os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _write(file: Any, name: str, value: torch.Tensor, guard: GuardedFile) -> None:
    """Write an array piece by piece, so that a full disk is noticed before much is kept in memory."""
    dataset = file.create_dataset(name, shape=tuple(value.shape), dtype=value.numpy().dtype, compression="gzip")
    rows = max(1, PIECE // max(value[:1].numel() * value.dtype.itemsize, 1))
    if dataset.chunks is not None:
        rows = max(1, rows // dataset.chunks[0]) * dataset.chunks[0]  # no chunk is packed twice
    for start in range(0, len(value), rows):
        dataset[start : start + rows] = value[start : start + rows].numpy()
        guard.refuse_failure()
