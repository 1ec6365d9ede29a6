"""Scales and frames of a figure: where a value lies on the picture, round ticks, grid and labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from offline_marl.report.page.markup import Markup, finite, tag, text, void

LETTER = 6.2
"""Width of a letter of a figure's text [px]; a guess, for nothing can be measured here."""


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels.

    Args:
        low: The value at `start`; `high` lies at `end`.
        log: Whether decades are equally long.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies [px]."""
        low, high, here = (math.log10(each) if self.log else each for each in (self.low, self.high, value))
        return self.start + (here - low) / (high - low) * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values inside, about as many as wanted; decades of a logarithmic scale."""
        if self.log:
            decades = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**decade for decade in decades[:: max(1, len(decades) // wanted)]]
        step = round_step((self.high - self.low) / wanted)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def round_step(size: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is no smaller."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= size * (1 - 1e-9))


def span(values: Iterable[float | None], *, log: bool = False, margin: float = 0.04) -> tuple[float, float]:
    """Lowest and highest of what can be drawn, a little apart from the frame; 0 to 1 where there is nothing.

    Args:
        values: Those that are not there are passed over.
        log: Of a logarithmic scale; only positive values count.
        margin: Added on both sides, as a share of the range.
    """
    held = [value for value in values if value is not None and finite(value) and (value > 0 or not log)]
    if not held:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = min(held), max(held)
    if log:
        wider = max(high / low, 2.0) ** margin
        return low / wider, high * wider
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = abs(low) / 10 or 0.5
        return low - half, high + half
    return low - margin * (high - low), high + margin * (high - low)


def spans_decades(values: Iterable[float | None], ratio: float = 100.0) -> bool:
    """Whether values are all positive and so far apart that a linear axis would show one of them."""
    held = [value for value in values if value is not None and finite(value)]
    return bool(held) and min(held) > 0 and max(held) / min(held) > ratio


def place(value: float) -> str:
    """A coordinate with one digit behind the point.

    Raises:
        ValueError: It is not finite: that must never come into a picture.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is no place on a figure.")
    return f"{value:.1f}".removesuffix(".0")


def short(value: float) -> str:
    """A tick's label: 20k, 0.5, 1e-05."""
    if abs(value) >= 10_000:
        return f"{value / 1_000_000:g}M" if abs(value) >= 1_000_000 else f"{value / 1000:g}k"
    return f"{value:g}"


def words(x: float, y: float, said: str, class_: str | None = None, anchor: str | None = None) -> Markup:
    """A line of text in a figure."""
    return tag("text", said, x=place(x), y=place(y), class_=class_, text_anchor=anchor)


def rule(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return void("path", d=f"M{place(x1)} {place(y1)}L{place(x2)} {place(y2)}", class_=class_)


def cut(said: str, room: float) -> str:
    """A name that fits into so many pixels, its end cut off if it must be."""
    letters = max(4, int(room / LETTER))
    return said if len(said) <= letters else f"{said[: letters - 1]}…"


def grid(x: Scale, y: Scale, x_label: str, y_label: str, *, x_ticks: Sequence[float] | None = None) -> Markup:
    """Lines and labels behind a figure whose y axis stands at its left; y.start is the bottom."""
    parts = []
    for value in y.ticks():
        parts.append(rule(x.start, y.at(value), x.end, y.at(value), "grid"))
        parts.append(words(x.start - 5, y.at(value) + 3.5, short(value), anchor="end"))
    for value in x.ticks(4) if x_ticks is None else x_ticks:
        parts.append(rule(x.at(value), y.start, x.at(value), y.start + 4, "axis"))
        parts.append(words(x.at(value), y.start + 16, short(value), anchor="middle"))
    parts.append(rule(x.start, y.start, x.end, y.start, "axis"))
    parts.append(words((x.start + x.end) / 2, y.start + 32, x_label, "label", "middle"))
    parts.append(words(x.start - 34, y.end - 10, y_label, "label"))
    return text(parts)
