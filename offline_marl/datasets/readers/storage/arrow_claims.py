"""Bytes that an Arrow file takes in memory, by its own headers: pyarrow makes room for what they claim as it reads.

An Arrow file is `ARROW1`, then messages: a length, a flatbuffer that describes a batch, and the batch's buffers, each
of which begins with its true size where it is compressed (the Arrow columnar format, "IPC file format").
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"ARROW1\0\0"
DICTIONARY, BATCH = 2, 3
"""Kinds of messages that hold buffers."""


def claimed_by(file: Path) -> int:
    """Bytes of all buffers, decompressed; 0 of a file that is no Arrow file, which pyarrow refuses.

    Raises:
        ValueError: A header is damaged.
    """
    with file.open("rb") as stream:
        try:
            return _messages(stream, file.stat().st_size) if stream.read(len(MAGIC)) == MAGIC else 0
        except struct.error:
            raise ValueError("a header that is cut off") from None


def _messages(stream: BinaryIO, size: int) -> int:
    """Bytes of the buffers of all messages."""
    claimed = 0
    while len(prefix := stream.read(4)) == 4:
        (length,) = struct.unpack("<i", prefix)
        if length == -1:  # of a new format: the length comes behind it
            (length,) = struct.unpack("<i", stream.read(4))
        if length <= 0:
            break
        head = stream.read(length)
        if len(head) < length:
            break
        message = _Table.root(head)
        kind, body = message.number(1, "<B"), message.number(3, "<q")
        start = stream.tell()
        if not 0 <= body <= size:
            raise ValueError("a message of no length that can be")
        if kind in {DICTIONARY, BATCH}:
            batch = message.table(2) if kind == BATCH else message.table(2).table(1)
            claimed += _buffers(stream, batch, start, body)
        stream.seek(start + body)
    return claimed


def _buffers(stream: BinaryIO, batch: _Table, start: int, body: int) -> int:
    """Sizes of a batch's buffers."""
    compressed, claimed = batch.has(3), 0
    for offset, length in batch.pairs(2):
        if offset < 0 or length < 0 or offset + length > body:
            raise ValueError("a buffer outside its message")
        if compressed and length >= 8:
            stream.seek(start + offset)
            (size,) = struct.unpack("<q", stream.read(8))
            claimed += length if size == -1 else size
            if size < -1:
                raise ValueError("a buffer of negative size")
        else:
            claimed += length
    return claimed


class _Table:
    """A table of a flatbuffer: its fields by number."""

    def __init__(self, content: bytes, at: int) -> None:
        self.content, self.at = content, at
        self.fields = at - self._read("<i", at)
        self.size = self._read("<H", self.fields)

    @classmethod
    def root(cls, content: bytes) -> _Table:
        return cls(content, struct.unpack_from("<I", content)[0])

    def _read(self, form: str, at: int) -> Any:
        if at < 0:
            raise ValueError("an offset before the beginning")
        try:
            return struct.unpack_from(form, self.content, at)[0]
        except struct.error:
            raise ValueError("an offset behind the end") from None

    def _place(self, field: int) -> int:
        entry = 4 + 2 * field
        offset = self._read("<H", self.fields + entry) if entry < self.size else 0
        return self.at + offset if offset else 0

    def has(self, field: int) -> bool:
        return bool(self._place(field))

    def number(self, field: int, form: str) -> int:
        place = self._place(field)
        return int(self._read(form, place)) if place else 0

    def table(self, field: int) -> _Table:
        place = self._place(field)
        if not place:
            raise ValueError("a table that is missing")
        return _Table(self.content, place + self._read("<I", place))

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """A vector of structs of two longs."""
        place = self._place(field)
        if not place:
            return []
        vector = place + self._read("<I", place)
        count = self._read("<I", vector)
        if vector + 4 + 16 * count > len(self.content):
            raise ValueError("a vector behind the end")
        return [struct.unpack_from("<qq", self.content, vector + 4 + 16 * i) for i in range(count)]
