"""HTML and SVG as text: whatever is not markup is escaped, so that no run's name can become part of a page."""

from __future__ import annotations

import html
from collections.abc import Iterable

from offline_marl.report.gather.run_folders import FARTHEST
from offline_marl.report.gather.scores import legible

NOTHING = "–"
"""What stands where there is no number."""


class Markup(str):
    """Text that is HTML already and goes into a page as it is."""

    __slots__ = ()


Child = str | float | None | Iterable["Child"]
Attribute = str | float | bool | None


def text(*children: Child) -> Markup:
    """Children one after the other, each escaped unless it is markup; None is nothing."""
    return Markup("".join(_text(child) for child in children))


def tag(name: str, *children: Child, **attributes: Attribute) -> Markup:
    """An element with its end tag.

    Args:
        name: Of the element.
        children: Markup goes in as it is, other text is escaped.
        attributes: `class_` is class, `aria_label` is aria-label; None and False leave one out, True gives it no value.
    """
    return Markup(f"<{name}{_attributes(attributes)}>{text(*children)}</{name}>")


def void(name: str, **attributes: Attribute) -> Markup:
    """An element that holds nothing: `<img ...>`, or a shape of an SVG."""
    return Markup(f"<{name}{_attributes(attributes)}/>")


def number(value: float | None, digits: int | None = None) -> str:
    """A number as a reader wants it, about four digits of it; a dash for what is not there.

    Args:
        value: None and what is not finite are not there.
        digits: Behind the point; by size where None.
    """
    if value is None or not finite(value):
        return NOTHING
    size = abs(value)
    if digits is None and (size >= 1e9 or 0 < size < 0.01):
        return f"{value:.4g}"
    if digits is None:
        digits = 0 if size >= 1000 or value == int(value) else 1 if size >= 100 else 2 if size >= 1 else 3
    told = f"{value:,.{digits}f}"
    return told.removeprefix("-") if not told.strip("-0.,") else told


def finite(value: object) -> bool:
    """Whether there is a number that can be drawn; what was read from a file may be anything."""
    return isinstance(value, (int, float)) and -FARTHEST <= value <= FARTHEST


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, (str, int, float)):
        return _escaped(child)
    return "".join(_text(each) for each in child)


def _escaped(value: object) -> str:
    return html.escape(legible(str(value)))


def _attributes(attributes: dict[str, Attribute]) -> str:
    told = []
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if value is True:
            told.append(f" {name}")
        elif value is not None and value is not False:
            told.append(f' {name}="{_escaped(value)}"')
    return "".join(told)
