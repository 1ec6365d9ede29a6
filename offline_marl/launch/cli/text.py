"""Columns of text for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align rows in columns, indented; the last column is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1:] = [0]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def print_lines(lines: Iterable[str]) -> None:
    """Print lines."""
    for line in lines:
        print(line)
