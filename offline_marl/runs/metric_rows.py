"""Rows of metrics as they are kept and read. Imports no torch, so that whoever only looks at a run answers at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_marl.core.small_files import parse

Row = Mapping[str, float | int | None]
MOST_STEPS = 1 << 53
"""Updates beyond which a file does not count."""
RATE_ROWS = 10
"""Newest rows of training that a run's rate is taken over."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that was cut off is left out."""
    return list(each_row(path))


def each_row(path: Path) -> Iterator[dict[str, Any]]:
    """As `read_rows`, one after the other: all rows of a long run take ten times the room of their file."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                row = parse(line, finite=False)
            except ValueError:
                break
            if isinstance(row, dict):
                yield row


def is_sound(row: Mapping[str, Any]) -> bool:
    """Whether a row tells a step, and a clock or none."""
    step, wall_s = row.get("step"), row.get("wall_s", 0.0)
    counted = type(step) is int and 0 <= step < MOST_STEPS
    return counted and isinstance(wall_s, int | float) and -MOST_STEPS < wall_s < MOST_STEPS


def newest_rate(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Updates per second over the newest rows of training; None where they do not tell."""
    newest = [row for row in rows[-RATE_ROWS:] if is_sound(row)]
    if not newest:
        return None
    first: Mapping[str, Any] = newest[0] if len(newest) > 1 else {"step": 0, "wall_s": 0.0}
    took = newest[-1].get("wall_s", 0.0) - first.get("wall_s", 0.0)
    return (newest[-1]["step"] - first["step"]) / took if took > 0 else None


class Pace:
    """Updates per second from one row of training to the next."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None

    def of(self, kind: str, row: Row) -> float | None:
        """Since the row before it; None for the first, and for rows that are no training's."""
        step, wall_s = row.get("step"), row.get("wall_s")
        if kind != "train" or step is None or wall_s is None:
            return None
        before, self._last = self._last, (step, wall_s)
        if before is None or wall_s <= before[1]:
            return None
        return (step - before[0]) / (wall_s - before[1])
