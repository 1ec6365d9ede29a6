"""Minari's folders, read without minari itself."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from offline_marl.datasets.readers.base import Content, Reader, readers
from offline_marl.datasets.readers.minari.reader import is_minari, open_steps


@readers.register("minari")
class Minari(Reader):
    """Minari's folders: episodes of one body, or of a team in Dict or Tuple spaces."""

    def recognises(self, path: Path) -> bool:
        """Whether a folder holds Minari's metadata."""
        return path.is_dir() and is_minari(path)

    def open(self, path: Path) -> AbstractContextManager[Content]:
        """Steps and metadata of a set, read episode by episode while it is open; see `open_steps`."""
        return open_steps(path)
