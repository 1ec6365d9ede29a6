"""Which published format a file or folder is in, told by what it holds; endings only tell files apart."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from offline_marl.core.types import DataError
from offline_marl.datasets.readers import hdf5

FILES = {
    ".hdf5": "hdf5",
    ".h5": "hdf5",
    ".pkl": "moma_ppo",
    ".pickle": "moma_ppo",
    ".pt": "moma_ppo",
    ".zip": "zipped",
}
"""Files by their endings; `hdf5` is told apart by its keys."""
OMIGA_KEYS = frozenset({"s", "o", "a", "r", "d"})
KNOWN = (
    "there are .safetensors (ours), .hdf5 (D4RL, OMIGA), .pkl (MOMA-PPO), Minari's folders, OG-MARL's Vaults (.vlt), "
    "OMAR's folders of .npy, and .zip archives of one of these"
)


def kind_of(path: Path) -> str | None:
    """The reader's name: `d4rl`, `omiga`, `moma_ppo`, `minari`, `vault`, `omar` or `zipped`; None of no known format.

    Raises:
        DataError: It should be HDF5 and cannot be read as such.
    """
    if path.is_dir():
        return _kind_of_folder(path)
    kind = FILES.get(path.suffix)
    return kind_of_hdf5(path) if kind == "hdf5" else kind


def kind_of_hdf5(path: Path) -> str:
    """`omiga` where the file holds OMIGA's one-letter keys, else `d4rl`, whose reader says what is missing.

    Raises:
        DataError: The file is missing or no HDF5.
    """
    with hdf5.opened(path) as file:
        held = set(hdf5.names(file))
    return "omiga" if len(held & OMIGA_KEYS) >= 3 and "observations" not in held else "d4rl"


def reader_of(path: Path) -> Any:
    """The module whose `opened` reads it.

    Raises:
        DataError: It is of no known format; the sentence lists them.
    """
    kind = kind_of(path)
    if kind is None:
        raise DataError(f"{path} is of no known format: {KNOWN}.")
    return importlib.import_module(f"{__package__}.{kind}")


def _kind_of_folder(folder: Path) -> str | None:
    if (folder / "data" / "metadata.json").is_file():
        return "minari"
    if folder.suffix == ".vlt" or (folder / "manifest.ocdbt").is_file():
        return "vault"
    if (folder / "obs_0.npy").is_file() or any(folder.glob("*/obs_0.npy")):
        return "omar"
    return None
