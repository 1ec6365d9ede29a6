"""A zip archive of one set in a published format, such as OG-MARL's Vaults are shared in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offline_marl.core.types import DataError
from offline_marl.datasets.readers import detect, vault
from offline_marl.datasets.readers.base import Content, Reader, readers
from offline_marl.datasets.readers.storage import archives

DEEPEST = 6
BESIDE = "__MACOSX"
"""Folder in which macOS keeps attributes, under the names of the files that they are of."""
_INSIDE = re.compile(r"(?P<archive>.+?\.zip)/(?P<inner>[^@]+?)(?P<revision>@.+)?")


@readers.register("zipped")
class Zipped(Reader):
    """Zip archives of one set in a published format."""

    endings = (".zip",)
    options = frozenset({"clock"})

    @contextmanager
    def open(self, path: Path, **options: Any) -> Iterator[Content]:
        """Steps and metadata of the one set in the archive.

        Args:
            path: The archive.
            options: For the reader of what is in it.

        Raises:
            DataError: The archive is damaged or hostile, or holds no set, or several.
        """
        place = set_in(path)
        with detect.open_with(detect.reader_of(place), place, options) as content:
            yield content


def split(place: str) -> tuple[str, str | None]:
    """`x.zip/Good` as `x.zip` and `Good`, a revision kept with the former; None where nothing in it is named."""
    parts = _INSIDE.fullmatch(place)
    return (place, None) if parts is None else (parts["archive"] + (parts["revision"] or ""), parts["inner"])


def inside(path: Path, inner: str) -> Path:
    """The part of an archive that is called `inner`, unpacked: a uid of its Vault, or any folder or file.

    Raises:
        DataError: It has no such part, or see `archives.unpacked`.
    """
    root = archives.unpacked(path)
    for base in (root, *_sets(root)):
        part = base / inner
        if ".." not in Path(inner).parts and part.exists():
            return part
    raise DataError(f"{path} holds no '{inner}'; it holds {_listed(path, root)}.")


def set_in(path: Path) -> Path:
    """The folder or file of the one set in an archive, unpacked.

    Raises:
        DataError: There is none, or there are several.
    """
    root = archives.unpacked(path)
    sets = _sets(root)
    uids = vault.uids_of(sets[0]) if len(sets) == 1 else []
    if len(uids) > 1:
        raise DataError(f"{path} holds {len(uids)} sets ({', '.join(uids)}): name one, such as {path}/{uids[0]}.")
    if len(sets) != 1:
        raise DataError(f"{path} should hold one set of a known format; it holds {_listed(path, root)}.")
    return sets[0]


def _sets(folder: Path, deep: int = 0) -> list[Path]:
    """The sets nearest to the top."""
    # An archive in an archive is not opened: some hold themselves.
    if deep and detect.holds_a_set(folder):
        return [folder]
    if not folder.is_dir() or deep == DEEPEST:
        return []
    inner = sorted(item for item in folder.iterdir() if item.name != BESIDE)
    return [path for item in inner for path in _sets(item, deep + 1)]


def _listed(path: Path, root: Path) -> str:
    sets = [item.relative_to(root).as_posix() for item in _sets(root)]
    return f"{len(sets)} ({', '.join(sets[:10])})" if sets else "none"
