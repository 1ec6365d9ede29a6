"""Runs as lines of text for a terminal: bars, small curves, columns; any width, ASCII where it must be."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from offline_marl.runs.live import STATE_ORDER, Look

NARROW = 56
"""Columns under which a job's line leaves its rate and its curve out."""


@dataclass(frozen=True)
class Paper:
    """What is drawn on.

    Args:
        width: Columns.
        height: Lines; None for as many as there are.
        ascii: Whether nothing else can be shown.
    """

    width: int = 80
    height: int | None = None
    ascii: bool = False

    def fit(self, lines: Sequence[str]) -> list[str]:
        """The lines, none too wide and none too many, with nothing in them that moves the cursor."""
        plain = [self.cut("".join(each if each.isprintable() else "?" for each in line)) for line in lines]
        return plain if self.height is None else plain[: self.height]

    def cut(self, text: str, width: int | None = None) -> str:
        """The text, with a mark where it had to be cut."""
        room = max(1, self.width if width is None else width)
        if self.ascii:
            text = text.replace("·", "|").replace("…", "...").encode("ascii", "replace").decode()
        text = text.rstrip()
        if len(text) <= room:
            return text
        mark = "~" if self.ascii else "…"
        return text[: room - 1] + mark

    def shorten(self, name: str, width: int) -> str:
        """The name, cut in its middle: what tells it from others, such as its seed, stands at its end."""
        tail = max(1, (width - 1) * 2 // 3)
        return name if len(name) <= width else self.cut(name, width - tail) + name[-tail:]

    def bar(self, share: float, width: int) -> str:
        """How much is done."""
        full = round(min(max(share, 0.0), 1.0) * width)
        done, left = ("#", "-") if self.ascii else ("█", "░")
        return done * full + left * (width - full)

    def spark(self, values: Sequence[float], width: int) -> str:
        """A small curve of all finite values, from the lowest to the highest."""
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
        return "".join(ramp[min(int((each - low) / (high - low) * len(ramp)), len(ramp) - 1)] for each in means)


def draw_run(look: Look, paper: Paper) -> list[str]:
    """One run: how far, how fast, how long, and its metrics."""
    where = f" · {look.folder}" if str(look.folder) != look.title else ""
    lines = [look.title, f"{look.state}{where}", *([look.why] if look.why else [])]
    if look.steps:
        share = look.step / look.steps
        said = f"  {look.step:,} of {look.steps:,} updates, {share:.0%}"
        lines.append(f"[{paper.bar(share, max(4, min(40, paper.width - len(said) - 2)))}]{said}")
    times = [f"{look.rate:,.1f} updates/s" if look.rate else "", _so_far(look), _left(look.left_s)]
    lines += [" · ".join(each for each in times if each)] if any(times) else []
    rows = dict([look.score]) if look.score else {}
    return [*lines, "", *_metrics({**rows, **look.series}, paper)]


def _metrics(rows: Mapping[str, Sequence[float]], paper: Paper) -> list[str]:
    if not rows:
        return ["no rows of metrics yet"]
    name = min(max(map(len, rows)), max(8, paper.width // 3))
    room = min(40, paper.width - name - 13)
    lines = []
    for each, values in rows.items():
        finite = [value for value in values if math.isfinite(value)]
        best = f"  best {max(finite):.4g}" if finite and each in {"score", "return"} and room >= 30 else ""
        curve = paper.spark(values, room - len(best))
        lines.append(f"{paper.cut(each, name):<{name}} {values[-1]:>10.4g}  {curve}{best}")
    return lines


def draw_jobs(title: str, looks: Sequence[Look], paper: Paper, rate: float | None, left_s: float | None) -> list[str]:
    """Many runs: counts, then a line each, those that are at work first.

    Args:
        title: What they are.
        looks: The runs.
        paper: What is drawn on.
        rate: Updates per second of all together.
        left_s: Seconds to the end of all.
    """
    counts: Counter[str] = Counter(look.state for look in looks)
    said = ", ".join(f"{counts[name]} {name}" for name in reversed(STATE_ORDER) if counts[name]) or "none yet"
    lines = [title, f"{len(looks)} run{'' if len(looks) == 1 else 's'}: {said}"]
    share = sum(_share(look) for look in looks) / max(1, len(looks))
    lines.append(f"[{paper.bar(share, max(4, min(40, paper.width - 8)))}] {share:.0%}")
    times = [f"{rate:,.1f} updates/s together" if rate else "", _left(left_s)]
    lines += [" · ".join(each for each in times if each)] if any(times) else []
    lines.append("")
    ordered = [look for name in STATE_ORDER for look in looks if look.state == name]
    room = len(ordered) if paper.height is None else max(1, paper.height - len(lines) - 1)
    name = min(max([len(look.title) for look in ordered], default=1), max(10, paper.width * 2 // 5))
    lines += [_job(look, paper, name) for look in ordered[:room]]
    rest = Counter(look.state for look in ordered[room:])
    return [*lines, "… and " + ", ".join(f"{n} more {each}" for each, n in rest.items())] if rest else lines


def _job(look: Look, paper: Paper, name: int) -> str:
    progress = f"{_share(look):>4.0%}"
    score = f"{look.score[1][-1]:.4g}" if look.score else ""
    cells = [f"{paper.shorten(look.title, name):<{name}}", f"{look.state:<7}", progress]
    wide = paper.width >= NARROW
    if wide:
        cells.append(f"{(duration(look.left_s) if look.left_s and look.state == 'running' else ''):>7}")
    cells.append(f"{score:>7}")
    used = len("  ".join(cells)) + 2
    if look.state in {"failed", "stopped"} or (look.state == "waiting" and look.why):
        cells.append(look.why)
    elif wide and look.score:
        cells.append(paper.spark(look.score[1], min(20, paper.width - used)))
    return "  ".join(cells)


def _share(look: Look) -> float:
    if look.state == "done":
        return 1.0
    return min(1.0, look.step / look.steps) if look.steps else 0.0


def _so_far(look: Look) -> str:
    return "" if look.elapsed_s is None else f"{duration(look.elapsed_s)} so far"


def _left(seconds: float | None) -> str:
    return f"about {duration(seconds)} left" if seconds else ""


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"
