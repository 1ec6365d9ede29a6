"""Columns of text for the terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from typing import TextIO


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align rows in columns, indented; the last column is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1:] = [0]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def replace_unprintable(*streams: TextIO) -> None:
    """Let streams replace what their encoding lacks, such as letters of a name on an ASCII terminal."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper) and stream.errors in {"strict", "surrogateescape"}:
            stream.reconfigure(errors="backslashreplace")


def without_secrets(line: str) -> str:
    """Take names and passwords out of the addresses in a line: `https://me:secret@host` becomes `https://host`."""
    return re.sub(r"(?<=://)[^\s/?#]*@", "", line)


JOINERS = "\u200c\u200d"
"""Say how letters of Persian, Hindi and others are joined; names are written with them."""


def printable(line: str) -> str:
    """A line whose letters can be shown: names from files may hold some that steer a terminal, or end a line."""
    return "".join(letter if letter.isprintable() or letter in JOINERS else "?" for letter in line)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines."""
    for line in lines:
        print(line)
