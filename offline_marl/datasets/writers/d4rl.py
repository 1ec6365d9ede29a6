"""D4RL's HDF5 files: flat steps of one body, with what followed each and who ended it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch

from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.episode_index import episode_numbers
from offline_marl.datasets.readers.embedded_metadata import OURS, packed


def write(path: Path, data: Recording | Dataset) -> None:
    """Write a recording, whole or not at all.

    Raises:
        DataError: h5py is missing, or the data is of a team, which D4RL has no place for.
    """
    if isinstance(data, Dataset):
        raise DataError(f"{path.name}: D4RL's files hold what one body did; a team's data go into Minari's.")
    try:
        import h5py
    except ImportError:
        raise DataError(f"Writing {path.name} needs h5py: pip install 'offline-marl[data]'.") from None
    before = torch.arange(len(data.rewards)) + episode_numbers(data.lengths)
    arrays = {"observations": data.state[before], "next_observations": data.state[before + 1], "actions": data.actions}
    arrays |= {"rewards": data.rewards, "terminals": data.terminations, "timeouts": data.truncations}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        with h5py.File(beside, "w") as file:
            for name, value in arrays.items():
                file.create_dataset(name, data=value.numpy(), compression="gzip")
            file[OURS] = packed(data.metadata, data.ends_seen)
            if "scenario" in data.metadata:
                file.attrs["scenario"] = data.metadata["scenario"]
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)
