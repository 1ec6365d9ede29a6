"""Text rendering of runs for a terminal of any width: bars, sparklines, columns; in ASCII where needed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from offline_marl.runs.live import STATE_ORDER, RunStatus

NARROW_COLUMNS = 56
"""Columns under which a job's line leaves its rate and its curve out."""


@dataclass(frozen=True)
class Canvas:
    """Size and character set of a terminal; fits text, bars and sparklines to them.

    Args:
        width: Columns.
        height: Lines; None for as many as there are.
        ascii: Whether nothing else can be shown.
    """

    width: int = 80
    height: int | None = None
    ascii: bool = False

    def fit(self, lines: Sequence[str]) -> list[str]:
        """Fit lines to the canvas, and replace characters that would move the cursor."""
        plain = [self.cut("".join(letter if letter.isprintable() else "?" for letter in line)) for line in lines]
        return plain if self.height is None else plain[: self.height]

    def cut(self, text: str, width: int | None = None) -> str:
        """Cut text to a width, with a mark at its end."""
        room = max(1, self.width if width is None else width)
        if self.ascii:
            text = text.replace("·", "|").replace("…", "...").encode("ascii", "replace").decode()
        text = text.rstrip()
        if len(text) <= room:
            return text
        mark = "~" if self.ascii else "…"
        return text[: room - 1] + mark

    def shorten(self, name: str, width: int) -> str:
        """Cut a name in its middle: its end, such as the seed, tells it from others."""
        tail = max(1, (width - 1) * 2 // 3)
        return name if len(name) <= width else self.cut(name, width - tail) + name[-tail:]

    def bar(self, share: float, width: int) -> str:
        """Draw a progress bar."""
        full = round(min(max(share, 0.0), 1.0) * width)
        done, left = ("#", "-") if self.ascii else ("█", "░")
        return done * full + left * (width - full)

    def sparkline(self, values: Sequence[float], width: int) -> str:
        """Draw a sparkline of all finite values, averaged in as many bins as fit."""
        values = [value for value in values if math.isfinite(value)]
        if not values or width < 1:
            return ""
        ramp = "_.-=*#" if self.ascii else "▁▂▃▄▅▆▇█"
        count = min(width, len(values))
        edges = [len(values) * i // count for i in range(count + 1)]
        means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
        low, high = min(means), max(means)
        if high == low:
            return ramp[len(ramp) // 2] * count
        return "".join(ramp[min(int((mean - low) / (high - low) * len(ramp)), len(ramp) - 1)] for mean in means)


def draw_run(status: RunStatus, canvas: Canvas) -> list[str]:
    """Draw one run: progress, rate, times and metrics."""
    where = f" · {status.folder}" if str(status.folder) != status.title else ""
    lines = [status.title, f"{status.state}{where}", *([status.why] if status.why else [])]
    if status.steps:
        share = status.step / status.steps
        progress = f"  {status.step:,} of {status.steps:,} updates, {share:.0%}"
        lines.append(f"[{canvas.bar(share, max(4, min(40, canvas.width - len(progress) - 2)))}]{progress}")
    times = [f"{status.rate:,.1f} updates/s" if status.rate else "", _so_far(status), _left(status.left_s)]
    lines += [" · ".join(part for part in times if part)] if any(times) else []
    if status.questions is not None:
        still_open, every = status.questions
        lines.append(f"{still_open:,} of {every:,} questions wait for an answer" if every else "nothing was asked yet")
    rows = dict([status.score]) if status.score else {}
    return [*lines, "", *_metrics({**rows, **status.series}, canvas)]


def _metrics(rows: Mapping[str, Sequence[float]], canvas: Canvas) -> list[str]:
    if not rows:
        return ["no rows of metrics yet"]
    name = min(max(map(len, rows)), max(8, canvas.width // 3))
    room = min(40, canvas.width - name - 13)
    lines = []
    for metric, values in rows.items():
        finite = [value for value in values if math.isfinite(value)]
        best = f"  best {max(finite):.4g}" if finite and metric in {"score", "return"} and room >= 30 else ""
        curve = canvas.sparkline(values, room - len(best))
        lines.append(f"{canvas.cut(metric, name):<{name}} {values[-1]:>10.4g}  {curve}{best}")
    return lines


def draw_jobs(
    title: str, statuses: Sequence[RunStatus], canvas: Canvas, rate: float | None, left_s: float | None
) -> list[str]:
    """Draw many runs: counts, then a line each, running ones first.

    Args:
        title: What they are.
        looks: The runs.
        paper: What is drawn on.
        rate: Updates per second of all together.
        left_s: Seconds to the end of all.
    """
    counts: Counter[str] = Counter(status.state for status in statuses)
    listing = ", ".join(f"{counts[name]} {name}" for name in reversed(STATE_ORDER) if counts[name]) or "none yet"
    lines = [title, f"{len(statuses)} run{'' if len(statuses) == 1 else 's'}: {listing}"]
    share = sum(_share(status) for status in statuses) / max(1, len(statuses))
    lines.append(f"[{canvas.bar(share, max(4, min(40, canvas.width - 8)))}] {share:.0%}")
    times = [f"{rate:,.1f} updates/s together" if rate else "", _left(left_s)]
    lines += [" · ".join(state for state in times if state)] if any(times) else []
    lines.append("")
    ordered = [status for name in STATE_ORDER for status in statuses if status.state == name]
    room = len(ordered) if canvas.height is None else max(1, canvas.height - len(lines) - 1)
    name = min(max([len(status.title) for status in ordered], default=1), max(10, canvas.width * 2 // 5))
    lines += [_job(status, canvas, name) for status in ordered[:room]]
    rest = Counter(status.state for status in ordered[room:])
    return [*lines, "… and " + ", ".join(f"{n} more {state}" for state, n in rest.items())] if rest else lines


def _job(status: RunStatus, canvas: Canvas, name: int) -> str:
    progress = f"{_share(status):>4.0%}"
    score = f"{status.score[1][-1]:.4g}" if status.score else ""
    cells = [f"{canvas.shorten(status.title, name):<{name}}", f"{status.state:<7}", progress]
    wide = canvas.width >= NARROW_COLUMNS
    if wide:
        cells.append(f"{(duration(status.left_s) if status.left_s and status.state == 'running' else ''):>7}")
    cells.append(f"{score:>7}")
    if status.questions is not None and status.questions[0]:
        cells.append(f"{status.questions[0]:,} open")
    used = len("  ".join(cells)) + 2
    if status.state in {"failed", "stopped"} or (status.state == "waiting" and status.why):
        cells.append(status.why)
    elif wide and status.score:
        cells.append(canvas.sparkline(status.score[1], min(20, canvas.width - used)))
    return "  ".join(cells)


def _share(status: RunStatus) -> float:
    if status.state == "done":
        return 1.0
    return min(1.0, status.step / status.steps) if status.steps else 0.0


def _so_far(status: RunStatus) -> str:
    return "" if status.elapsed_s is None else f"{duration(status.elapsed_s)} so far"


def _left(seconds: float | None) -> str:
    return f"about {duration(seconds)} left" if seconds else ""


def duration(seconds: float) -> str:
    """Format seconds for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"
