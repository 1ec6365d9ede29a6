"""Conversion of published formats into this library's layout, once a file."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.catalog import SUFFIX, home
from offline_marl.datasets.files import load_data
from offline_marl.datasets.readers.base import Content, Reader, readers
from offline_marl.datasets.readers.detect import open_with, reader_of
from offline_marl.datasets.readers.steps import save_steps

VERSION = 4
"""Of our readers: raised when one of them reads something otherwise, so that it is converted again."""
CHUNK = 1 << 20


def load_place(path: Path, clip_actions: bool = False, action_scale: float = 1.0) -> Recording | Dataset:
    """What is in a file or folder of any format known.

    Another format than ours is converted on first use and kept in the cache; its metadata then hold the checksum of
    what was given (`source_sha256`) beside that of the converted file (`sha256`).

    Raises:
        DataError: The format is unknown, or the content cannot be used.
    """
    if path.suffix == SUFFIX:
        return load_data(path, clip_actions, action_scale)
    if not path.exists():
        raise DataError(f"There is no file {path}.")
    digest = fingerprint(path)
    kept = home() / "converted" / f"{path.name}-{digest[:16]}-{_version_of(reader_of(path))}{SUFFIX}"
    if not kept.exists():
        convert(path, kept, {"source_sha256": digest})
    return load_data(kept, clip_actions, action_scale)


def convert(
    path: Path,
    kept: Path,
    additions: Mapping[str, Any] | None = None,
    tick: Callable[[int], object] | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write what is in a file or folder of a published format to `kept`, in our layout, whole or not at all.

    It goes through memory in pieces. Numbers and bounds are checked when it is loaded.

    Args:
        path: What is read.
        kept: What is written.
        additions: Metadata over those that the format tells.
        tick: Told the bytes of each piece that was written.
        options: What the reader is told beside, such as a `clock`.

    Raises:
        DataError: The format is unknown or takes no such option, or the content is not what its format says.
    """
    digest = (additions or {}).get("source_sha256") or fingerprint(path)
    with open_steps(path, options) as (steps, metadata):
        save_steps(kept, steps, {"name": path.name, **metadata, **(additions or {}), "source_sha256": digest}, tick)


@contextlib.contextmanager
def open_steps(path: Path, options: Mapping[str, Any] | None = None) -> Iterator[Content]:
    """Steps and metadata of a file or folder of a published format, to be read while it is open.

    Raises:
        DataError: The format is unknown or takes no such option, or the content is not what its format says.
    """
    with open_with(reader_of(path), path, options or {}) as content:
        yield content


def _version_of(reader: Reader) -> str:
    """Version of a reader in the names of its conversions: of one of ours VERSION, of others their source too."""
    kind = type(reader)
    if kind.__module__.startswith(f"{readers.package}."):
        return str(VERSION)
    source = kind.__qualname__
    for thing in (sys.modules.get(kind.__module__), kind):
        with contextlib.suppress(OSError, TypeError):  # neither is a file where a reader was typed in
            source = inspect.getsource(thing)  # type: ignore[arg-type]
            break
    return f"{VERSION}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


def fingerprint(path: Path) -> str:
    """Sha256 of a file's content, or of the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for file in _files(path):
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while content := stream.read(CHUNK):
                digest.update(content)
    return digest.hexdigest()


def _files(path: Path) -> Iterable[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
