"""Tables whose rows are read when asked for: behind a function, or episode after episode."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Lazy:
    """A table that a function reads."""

    shape: tuple[int, ...]
    read: Callable[[int, int], Values]
    """Gives the rows from the first number up to the second."""

    def __getitem__(self, rows: slice, /) -> Values:
        first, last, _ = rows.indices(self.shape[0])
        return self.read(first, max(first, last))

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]


def padded(tables: Sequence[Any], dtype: npt.DTypeLike = np.float32) -> Lazy:
    """Tables `[steps, width]` of a team's agents as one `[steps, agent, width]`, zero behind the narrower ones."""
    widths = [table.shape[1] for table in tables]
    shape = (tables[0].shape[0], len(tables), max(widths))

    def read(first: int, last: int) -> Values:
        values = np.zeros((last - first, *shape[1:]), dtype)
        for agent, table in enumerate(tables):
            values[:, agent, : widths[agent]] = table[first:last]
        return values

    return Lazy(shape, read)


class Recent(Generic[T]):
    """Cache of the values made last, bounded in bytes.

    Args:
        most: Bytes that are kept.
        size: Bytes of one thing.
    """

    def __init__(self, most: int, size: Callable[[T], int]) -> None:
        self._most, self._size, self._held = most, size, 0
        self._kept: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under the key, or made now."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = self._kept[key] = make()
        self._held += self._size(made)
        while self._held > self._most and len(self._kept) > 1:
            self._held -= self._size(self._kept.popitem(last=False)[1])
        return made


class Joined:
    """Rows of many episodes, one after another.

    Args:
        lengths: Rows of each.
        shape: Axes behind the rows.
        read: Gives all rows of one episode, by its number.
    """

    def __init__(self, lengths: Sequence[int], shape: tuple[int, ...], read: Callable[[int], Values]) -> None:
        self._ends = np.cumsum(lengths).tolist()
        self._read = read
        self.shape = (self._ends[-1] if self._ends else 0, *shape)

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.shape[0])

    def __getitem__(self, rows: slice, /) -> Values:
        first, last, _ = rows.indices(self.shape[0])
        parts = []
        while first < last:
            episode = bisect_right(self._ends, first)
            begin = self._ends[episode - 1] if episode else 0
            values = self._read(episode)
            parts.append(values[first - begin : last - begin])
            first = self._ends[episode]
        return np.concatenate(parts) if parts else self._read(0)[:0]
