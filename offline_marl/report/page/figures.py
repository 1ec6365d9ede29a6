"""SVG figures: lines with bands, and values with intervals, distinct by colour, dash and marker."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from offline_marl.report.page.axes import (
    Scale,
    coordinate,
    grid,
    rule,
    spans_decades,
    text_line,
    tick_label,
    truncate,
    value_range,
)
from offline_marl.report.page.markup import Markup, finite, tag, text, void

COLOURS, DASHES, MARKS = 8, 4, 5
"""Numbers of colours, dashes and markers in the style sheet and in `marker`."""
WIDTH = 360
"""Of a figure [px]; the page scales it to the column, so that letters stay readable on a phone."""
MOST_POINTS = 100
"""Of one line: more than a figure of this width can show."""
ROW = 34
"""Height of a row of intervals [px]."""
THIN, LONG = 0.4, 1.3
CROSS = tuple(
    (x * across, y * down)
    for x, y in ((1, 1), (-1, 1), (-1, -1), (1, -1))
    for across, down in (
        [(THIN, LONG), (THIN, THIN), (LONG, THIN)] if x * y < 0 else [(LONG, THIN), (THIN, THIN), (THIN, LONG)]
    )
)
"""Corners of a cross, in order."""


@dataclass(frozen=True, slots=True)
class Point:
    """Point of a line, with its band if there is one."""

    x: float
    y: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """Line with the number of its colour, dash and marker."""

    name: str
    style: int
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Interval:
    """Row of an interval chart: a value, its interval, and the values that it averages."""

    name: str
    style: int
    value: float | None
    low: float | None = None
    high: float | None = None
    parts: Sequence[float] = ()
    value_text: str = ""
    """Value and interval as text, at the right end of the row."""


def line_chart(
    curves: Sequence[Line], alt: str, x_label: str, y_label: str, *, limits: tuple[float, float] | None = None
) -> Markup:
    """Draw curves with their bands; the y axis is logarithmic where values are decades apart.

    Args:
        curves: Points in the order of x; what is not finite breaks a line in two.
        alt: What the figure shows, in words and numbers.
        x_label: Under the axis.
        y_label: Above it.
        limits: Of y; by the values where None.
    """
    thinned = [(line, thin(line.points)) for line in curves]
    seen = [point for _, points in thinned for point in points]
    values = [value for point in seen for value in (point.y, point.low, point.high)]
    log = limits is None and spans_decades(values)
    height = 230
    x = Scale(*value_range([point.x for point in seen], margin=0), 40, WIDTH - 10)
    y = Scale(*(limits or value_range(values, log=log)), height - 40, 26, log)
    bands = [_band(line, points, x, y) for line, points in thinned]
    strokes = [_stroke(line, points, x, y) for line, points in thinned]
    return svg(height, alt, grid(x, y, x_label, y_label), bands, strokes)


def interval_chart(
    rows: Sequence[Interval],
    alt: str,
    x_label: str,
    *,
    marks: Mapping[str, float] | None = None,
    limits: tuple[float, float] | None = None,
) -> Markup:
    """Draw one row for each value: its name and number, and below them the interval with the values it averages.

    Args:
        rows: From top to bottom.
        alt: What the figure shows, in words and numbers.
        x_label: Under the axis.
        marks: Vertical lines with a name at their foot, such as the data's own mean.
        limits: Of the axis; by the values where None.
    """
    marks = {name: value for name, value in (marks or {}).items() if finite(value)}
    values = [value for row in rows for value in (row.value, row.low, row.high, *row.parts)]
    x = Scale(*(limits or value_range([*values, *marks.values()])), 10, WIDTH - 10)
    bottom = 14 + ROW * len(rows)
    parts: list[Markup] = [rule(x.at(tick), 8, x.at(tick), bottom, "grid") for tick in x.ticks()]
    parts += [rule(x.at(value), 8, x.at(value), bottom, "mark") for value in marks.values()]
    parts += [_row(row, 14 + ROW * index, x) for index, row in enumerate(rows)]
    parts.append(rule(x.start, bottom, x.end, bottom, "axis"))
    parts += [text_line(x.at(tick), bottom + 14, tick_label(tick), anchor="middle") for tick in x.ticks()]
    parts.append(text_line(WIDTH / 2, bottom + 30, x_label, "label", "middle"))
    for index, name in enumerate(marks):
        foot = bottom + 46 + 14 * index
        parts.append(text_line(WIDTH / 2, foot, f"dashed line: {name}", "said", "middle"))
    return svg(bottom + 40 + 14 * len(marks), alt, parts)


def legend_item(name: str, style: int) -> Markup:
    """Draw an entry of a legend: a sample of the line, hidden from screen readers, and its name."""
    sample = [rule(1, 7, 29, 7, _stroke_class(style)), marker(style, 15, 7)]
    drawn = tag("svg", sample, viewBox="0 0 30 14", width=30, height=14, aria_hidden="true")
    return tag("li", drawn, " ", name)


def svg(height: float, alt: str, *parts: object) -> Markup:
    """Wrap shapes into a figure with its text alternative."""
    box = f"0 0 {WIDTH} {coordinate(height)}"
    return tag("svg", *parts, viewBox=box, width=WIDTH, height=coordinate(height), role="img", aria_label=alt)  # type: ignore[arg-type]


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Thin points out evenly, first and last among the rest."""
    if len(points) <= most:
        return list(points)
    return [points[round(index * (len(points) - 1) / (most - 1))] for index in range(most)]


def _row(row: Interval, top: float, x: Scale) -> Markup:
    # The number at the right end keeps its room, estimated by letters; the name is cut to the rest.
    room = WIDTH - 24 - 6.2 * len(row.value_text)
    parts = [tag("title", row.name), text_line(x.start, top + 8, truncate(row.name, 0.9 * room), "name")]
    parts.append(text_line(x.end, top + 8, row.value_text, "said", "end"))
    middle = top + 20
    parts += [
        void("circle", cx=coordinate(x.at(part)), cy=coordinate(middle), r=2, class_="seed")
        for part in row.parts
        if finite(part)
    ]
    if row.low is not None and row.high is not None and finite(row.low) and finite(row.high):
        parts.append(rule(x.at(row.low), middle, x.at(row.high), middle, f"wide {_colour(row.style)}"))
    if row.value is not None and finite(row.value):
        parts.append(marker(row.style, x.at(row.value), middle, 4.5))
    return tag("g", parts)


def _stroke(line: Line, points: Sequence[Point], x: Scale, y: Scale) -> Markup:
    drawn = []
    for piece in _pieces(points, ("y",), y.log):
        places = [(x.at(point.x), y.at(point.y or 0.0)) for point in piece]
        drawn.append(void("path", d=_path(places), class_=_stroke_class(line.style)))
        every = max(1, len(places) // 5)
        drawn += [marker(line.style, *at) for at in places[every // 2 :: every]]
    return tag("g", tag("title", line.name), drawn)


def _band(line: Line, points: Sequence[Point], x: Scale, y: Scale) -> Markup:
    drawn = []
    for piece in _pieces(points, ("low", "high"), y.log):
        upper = [(x.at(point.x), y.at(point.high or 0.0)) for point in piece]
        lower = [(x.at(point.x), y.at(point.low or 0.0)) for point in reversed(piece)]
        drawn.append(void("path", d=_path([*upper, *lower]) + "Z", class_=f"band f{line.style % COLOURS}"))
    return text(drawn)


def _pieces(points: Sequence[Point], names: tuple[str, ...], log: bool) -> Iterator[list[Point]]:
    """Split points at gaps: a path cannot pass a value that is not finite, or not positive on a log axis."""

    def there(point: Point) -> bool:
        return all(finite(value := getattr(point, name)) and (value > 0 or not log) for name in names)

    for fine, piece in itertools.groupby(points, there):
        if fine:
            yield list(piece)


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{coordinate(x)} {coordinate(y)}" for x, y in places)


def _colour(style: int) -> str:
    return f"s{style % COLOURS}"


def _stroke_class(style: int) -> str:
    return f"line {_colour(style)} d{style // COLOURS % DASHES if style >= COLOURS else style % DASHES}"


def marker(style: int, x: float, y: float, size: float = 3.0) -> Markup:
    """Draw a marker: disc, square, triangle, diamond or cross, by the style."""
    fill = f"f{style % COLOURS}"
    corners = {
        1: ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        2: ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
        3: ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
        4: CROSS,
    }.get(style % MARKS)
    if corners is None:
        return void("circle", cx=coordinate(x), cy=coordinate(y), r=coordinate(size), class_=fill)
    return void("path", d=_path([(x + size * dx, y + size * dy) for dx, dy in corners]) + "Z", class_=fill)
