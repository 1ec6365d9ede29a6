"""Recognition of the format that a file or folder is in, by asking the readers in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from offline_marl.core.registry import RegistryError
from offline_marl.core.types import DataError
from offline_marl.datasets.readers.base import Content, Reader, readers

FIRST = ("minari", "vault", "omar", "omiga", "pymarl")
"""Readers that look at the content, in the order in which they are asked."""
LAST = ("d4rl", "moma-ppo", "zipped")
"""Readers that take any file with their ending, after all others: a plugin's HDF5 file is not D4RL's."""
BUILT_IN = frozenset({*FIRST, *LAST})
KNOWN = (
    "there are .safetensors (ours), .hdf5 (D4RL, OMIGA), .pkl (MOMA-PPO), Minari's folders, OG-MARL's Vaults (.vlt), "
    "OMAR's folders of .npy, PyMARL's episode batches (.npz, .hdf5, folders of .npy), and .zip archives of one of these"
)


def kind_of(path: Path) -> str | None:
    """Name of the reader that recognises a file or folder; None where none does.

    Raises:
        DataError: It should be HDF5 and cannot be read as such.
    """
    return next((name for name, _ in _recognising(path, [])), None)


def reader_of(path: Path) -> Reader:
    """The reader that recognises a file or folder.

    Raises:
        DataError: It is of no known format; the sentence lists them, and the plugins that could not be asked.
    """
    problems: list[str] = []
    for _, reader in _recognising(path, problems):
        return reader
    plugins = f", and the formats of plugins: {', '.join(_others())}" if _others() else ""
    failed = f" ({'; '.join(problems)})" if problems else ""
    raise DataError(f"{path} is of no known format: {KNOWN}{plugins}{failed}.")


def open_with(reader: Reader, path: Path, options: Mapping[str, Any]) -> AbstractContextManager[Content]:
    """What a reader opens, told these options.

    Raises:
        DataError: It knows no such option.
    """
    unknown = sorted(set(options) - reader.options)
    if unknown:
        raise DataError(f"{path.name} is not of a format that takes {', '.join(unknown)}.")
    return reader.open(path, **options)


def holds_a_set(path: Path) -> bool:
    """Whether something in an archive is a set: a folder by its content, a file by its ending; archives are none."""
    if path.is_dir():
        return kind_of(path) is not None
    return any(path.suffix in reader.endings for name, reader in _asked([]) if name != "zipped")


def _recognising(path: Path, problems: list[str]) -> Iterator[tuple[str, Reader]]:
    """Readers that recognise it, in turn; why a plugin's could not be asked goes into `problems`."""
    for name, reader in _asked(problems):
        try:
            recognised = reader.recognises(path)
        except Exception as error:
            if name in BUILT_IN:
                raise
            # A plugin that fails at a file must not stand between it and the reader that knows it.
            problems.append(f"the reader '{name}' failed at it with {type(error).__name__}: {error}".rstrip("."))
        else:
            if recognised:
                yield name, reader


def _asked(problems: list[str]) -> Iterator[tuple[str, Reader]]:
    """All readers in the order of asking; those of plugins that do not import are left out and noted."""
    for name in (*FIRST, *_others(), *LAST):
        try:
            yield name, readers.get(name)()
        except RegistryError as error:
            if name in BUILT_IN:
                raise
            problems.append(str(error).rstrip("."))


def _others() -> list[str]:
    return [name for name in readers.names() if name not in BUILT_IN]
