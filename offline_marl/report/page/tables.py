"""Sortable HTML tables; one wider than the page scrolls in a region of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offline_marl.report.page.markup import NOTHING, Child, Markup, finite, number, tag
from offline_marl.report.statistics.estimates import Estimate

LONG = 60
"""Letters of a cell from which it is broken into lines even without a space in it."""


@dataclass(frozen=True, slots=True)
class Value:
    """Cell of a table: its content, sort key and tint."""

    shown: Child
    key: float | None = None
    """Sort key of a number; a cell without one is sorted by its text."""
    tint: int = 0
    """0 to 4, of the ground."""


@dataclass(frozen=True, slots=True)
class Column:
    """Column of a table: its title, and whether it holds numbers."""

    title: str
    numeric: bool = False


Cells = Sequence[Value | str]


def numeric(*titles: str) -> list[Column]:
    """Build columns of numbers."""
    return [Column(title, numeric=True) for title in titles]


def figure(value: float | None, digits: int | None = None) -> Value:
    """Build a cell of a number."""
    return Value(number(value, digits), value if finite(value) else None)


def estimate(score: Estimate | None, digits: int | None = None) -> Value:
    """Build a cell of a number with its interval; without one where it was withheld."""
    if score is None:
        return Value(NOTHING)
    bounds = format_interval(score, digits)
    behind = tag("span", " ", bounds, class_="interval") if bounds else None
    return Value([tag("b", number(score.value, digits)), behind], score.value if finite(score.value) else None)


def format_estimate(score: Estimate, digits: int | None = None) -> str:
    """Format a number with its interval as plain text."""
    return f"{number(score.value, digits)} {format_interval(score, digits)}".strip()


def format_interval(score: Estimate, digits: int | None = None) -> str:
    """Format `[low, high]`; empty where it was withheld."""
    return (
        ""
        if score.low is None or score.high is None
        else f"[{number(score.low, digits)}, {number(score.high, digits)}]"
    )


def table(
    name: str, caption: str, columns: Sequence[Column], rows: Sequence[Cells], *, head: int = 1, stacked: bool = False
) -> Markup:
    """Build a table in a region that can be scrolled with the keyboard.

    Args:
        name: Of its caption as an anchor; a page has no two alike.
        caption: What it holds; also names the region.
        columns: From left to right.
        rows: From top to bottom, as many cells as columns.
        head: How many cells of a row, from the left, are its heads.
        stacked: Whether intervals stand below their numbers, for tables of many columns.
    """
    top = tag("tr", [tag("th", column.title, scope="col", class_=_head(column)) for column in columns])
    body = [tag("tr", [_cell(cell, columns[i], i < head) for i, cell in enumerate(row)]) for row in rows]
    drawn = tag(
        "table",
        tag("caption", caption, id=f"{name}-table"),
        tag("thead", top),
        tag("tbody", body),
        class_="stacked" if stacked else None,
    )
    return tag("div", drawn, class_="scroll", role="region", tabindex=0, aria_labelledby=f"{name}-table")


def _head(column: Column) -> str | None:
    return " ".join(filter(None, ["n" if column.numeric else "", _width(column.title)])) or None


def _width(content: Child) -> str:
    return "broken" if isinstance(content, str) and not isinstance(content, Markup) and len(content) > LONG else ""


def _cell(cell: Value | str, column: Column, head: bool) -> Markup:
    value = cell if isinstance(cell, Value) else Value(cell)
    classes = (
        " ".join(
            filter(None, ["n" if column.numeric else "", f"t{value.tint}" if value.tint else "", _width(value.shown)])
        )
        or None
    )
    key = None if value.key is None else f"{value.key:.6g}"
    return tag("th" if head else "td", value.shown, scope="row" if head else None, class_=classes, data_key=key)
