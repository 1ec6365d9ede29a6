"""Axes of SVG figures: linear and logarithmic scales, round ticks, grid and labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from offline_marl.report.page.markup import Markup, finite, tag, text, void

LETTER = 6.2
"""Width of a letter of a figure's text [px], estimated: fonts are only known to the browser."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Affine map from values, or their logarithms, to pixels; SVG's y grows downwards, so there start > end.

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
        """Map a value to pixels."""
        low, high, here = (math.log10(number) if self.log else number for number in (self.low, self.high, value))
        return self.start + (here - low) / (high - low) * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """List round values inside, about as many as wanted; decades of a logarithmic scale."""
        if self.log:
            decades = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**decade for decade in decades[:: max(1, len(decades) // wanted)]]
        step = round_step((self.high - self.low) / wanted)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def round_step(size: float) -> float:
    """Round a step up to 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= size * (1 - 1e-9))


def value_range(values: Iterable[float | None], *, log: bool = False, margin: float = 0.04) -> tuple[float, float]:
    """Compute the limits of an axis: lowest and highest finite value with a margin; 0 to 1 where there is none.

    Args:
        values: Those that are not there are passed over.
        log: Of a logarithmic scale; only positive values count.
        margin: Added on both sides, as a share of the range.
    """
    drawable = [value for value in values if value is not None and finite(value) and (value > 0 or not log)]
    if not drawable:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = min(drawable), max(drawable)
    if log:
        wider = max(high / low, 2.0) ** margin
        return low / wider, high * wider
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = abs(low) / 10 or 0.5
        return low - half, high + half
    return low - margin * (high - low), high + margin * (high - low)


def spans_decades(values: Iterable[float | None], ratio: float = 100.0) -> bool:
    """Check whether values are all positive and so far apart that a linear axis would show only the largest."""
    drawable = [value for value in values if value is not None and finite(value)]
    return bool(drawable) and min(drawable) > 0 and max(drawable) / min(drawable) > ratio


def coordinate(value: float) -> str:
    """Format a coordinate with one digit behind the point.

    Raises:
        ValueError: It is not finite: that must never come into a picture.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is no place on a figure.")
    return f"{value:.1f}".removesuffix(".0")


def tick_label(value: float) -> str:
    """Format a tick's label: 20k, 0.5, 1e-05."""
    if abs(value) >= 10_000:
        return f"{value / 1_000_000:g}M" if abs(value) >= 1_000_000 else f"{value / 1000:g}k"
    return f"{value:g}"


def text_line(x: float, y: float, content: str, class_: str | None = None, anchor: str | None = None) -> Markup:
    """Draw a line of text in a figure."""
    return tag("text", content, x=coordinate(x), y=coordinate(y), class_=class_, text_anchor=anchor)


def rule(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Draw a straight line."""
    return void("path", d=f"M{coordinate(x1)} {coordinate(y1)}L{coordinate(x2)} {coordinate(y2)}", class_=class_)


def truncate(name: str, room: float) -> str:
    """Truncate a name to fit into so many pixels."""
    letters = max(4, int(room / LETTER))
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def grid(x: Scale, y: Scale, x_label: str, y_label: str, *, x_ticks: Sequence[float] | None = None) -> Markup:
    """Draw grid lines and labels of a figure with its y axis at the left; y.start is the bottom."""
    parts = []
    for value in y.ticks():
        parts.append(rule(x.start, y.at(value), x.end, y.at(value), "grid"))
        parts.append(text_line(x.start - 5, y.at(value) + 3.5, tick_label(value), anchor="end"))
    for value in x.ticks(4) if x_ticks is None else x_ticks:
        parts.append(rule(x.at(value), y.start, x.at(value), y.start + 4, "axis"))
        parts.append(text_line(x.at(value), y.start + 16, tick_label(value), anchor="middle"))
    parts.append(rule(x.start, y.start, x.end, y.start, "axis"))
    parts.append(text_line((x.start + x.end) / 2, y.start + 32, x_label, "label", "middle"))
    parts.append(text_line(x.start - 34, y.end - 10, y_label, "label"))
    return text(parts)
