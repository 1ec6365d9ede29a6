"""The promise of a reader: which files and folders are of its format, and the steps that are in one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from offline_marl.core.registry import Registry
from offline_marl.datasets.readers import registry
from offline_marl.datasets.readers.steps import Steps

Content = tuple[Steps, dict[str, Any]]
"""Steps and metadata in plain values: `format`, `episodes_end` (how ends are known), perhaps `scenario` and others."""


class Reader(ABC):
    """Reader of one published format of data.

    Its module imports no package beyond this library's own needs: what reads a format is imported by `open`.
    """

    endings: ClassVar[tuple[str, ...]] = ()
    """Endings of its files; archives are searched for these."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Names of what else `open` may be told, such as `clock`."""

    def recognises(self, path: Path) -> bool:
        """Whether a file or folder that exists is of this format; by default a file with one of its endings.

        Raises:
            DataError: It has an ending of this format and cannot be read at all.
        """
        return path.suffix in self.endings and not path.is_dir()

    @abstractmethod
    def open(self, path: Path) -> AbstractContextManager[Content]:
        """Steps and metadata, to be read while it is open; tables read their rows when they are asked for.

        Raises:
            DataError: The content is not what the format says, or the package that reads it is missing.
        """


readers: Registry[type[Reader]] = registry
