"""Bytes that a Parquet file takes in memory, by the headers of its pages: a run of equal numbers is a few bytes there.

Headers are in Thrift's compact protocol (parquet.thrift). They are read here because pyarrow makes
room for what they claim, and ends the process where some of them are damaged.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"PAR1"
LARGEST_HEADER = 1 << 16
"""Bytes that a page's header may take."""
DEEPEST = 12
BYTES_TYPES = frozenset({6, 7})
"""Types of a column whose values are bytes of any length."""
PER_VALUE = 16
"""Bytes of a value and of its levels, which say in which list it stands."""
INT, BINARY, LIST, SET, MAP, STRUCT = {3, 4, 5, 6}, 8, 9, 10, 11, 12


def claimed_by(file: Path) -> int:
    """Bytes of all pages, decoded.

    Raises:
        ValueError: A header is damaged, or a column lies in another file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(max(0, size - 8))
        tail = stream.read(8)
        length = int.from_bytes(tail[:4], "little")
        if size < 12 or tail[4:] != MAGIC or length > size - 12:
            raise ValueError("it ends without its header")
        stream.seek(size - 8 - length)
        footer = _Thrift(stream.read(length)).struct()
        return sum(
            _column(stream, column, size) for group in _list(footer.get(4)) for column in _list(_struct(group).get(1))
        )


def _column(stream: BinaryIO, chunk: Any, size: int) -> int:
    """Bytes of the pages of one column in one group of rows."""
    if _struct(chunk).get(1):
        raise ValueError("a column lies in another file")
    about = _struct(_struct(chunk).get(3))
    kind, compressed = _int(about.get(1)), _int(about.get(7))
    first = min(offset for offset in (_int(about.get(9)), _int(about.get(11, 1 << 62))) if offset >= 4 or not offset)
    # Old files tell too short a length; what follows is then taken for pages of the column too.
    end, place, claimed, words, values = min(first + compressed, size), first, 0, 0, 0
    while place < end:
        stream.seek(place)
        reader = _Thrift(stream.read(LARGEST_HEADER))
        page = reader.struct()
        unpacked, packed = _int(page.get(2)), _int(page.get(3))
        if unpacked < 0 or packed < 0:
            raise ValueError("a page of negative size")
        claimed += unpacked
        if 7 in page:
            words = max(words, unpacked)
        else:
            values += max(0, _int(_struct(page.get(5) or page.get(8) or {}).get(1, 0)))
        place += reader.at + packed
    return claimed + values * (PER_VALUE + (words if kind in BYTES_TYPES else 0))


def _struct(value: Any) -> dict[int, Any]:
    if not isinstance(value, dict):
        raise ValueError("a header without its parts")
    return value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _int(value: Any) -> int:
    if type(value) is not int:
        raise ValueError("a header without its numbers")
    return value


class _Thrift:
    """A reader of Thrift's compact protocol: structs as dicts by the numbers of their fields."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def struct(self, deep: int = 0) -> dict[int, Any]:
        if deep > DEEPEST:
            raise ValueError("a header nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while kind := self._byte():
            step, kind = kind >> 4, kind & 15
            number = number + step if step else self._whole()
            fields[number] = kind == 1 if kind in {1, 2} else self._value(kind, deep)
        return fields

    def _value(self, kind: int, deep: int) -> Any:
        if kind in INT:
            return self._byte() if kind == 3 else self._whole()
        if kind == 7:
            return struct.unpack("<d", self._bytes(8))[0]
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind in {LIST, SET}:
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            if count > len(self.content) - self.at:
                raise ValueError("a list behind the end")
            inner = head & 15
            if inner in {1, 2}:
                return [self._byte() == 1 for _ in range(count)]
            return [self._value(inner, deep + 1) for _ in range(count)]
        if kind == STRUCT:
            return self.struct(deep + 1)
        raise ValueError("a field of no kind that is known")

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, count: int) -> bytes:
        if count > len(self.content) - self.at:
            raise ValueError("a header that is cut off")
        self.at += count
        return self.content[self.at - count : self.at]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number without end")

    def _whole(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
