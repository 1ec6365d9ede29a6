"""HTML and SVG builders that escape all text that is not markup, so that a run's name cannot inject any."""

from __future__ import annotations

import html
from collections.abc import Iterable

from offline_marl.report.gather.run_folders import LARGEST_MAGNITUDE
from offline_marl.report.gather.scores import strip_control_characters

NOTHING = "–"
"""Dash in place of a missing number."""


class Markup(str):
    """HTML text, which is not escaped again."""

    __slots__ = ()


Child = str | float | None | Iterable["Child"]
Attribute = str | float | bool | None


def text(*children: Child) -> Markup:
    """Join children, each escaped unless it is markup; None is nothing."""
    return Markup("".join(_text(child) for child in children))


def tag(name: str, *children: Child, **attributes: Attribute) -> Markup:
    """Build an element with its end tag.

    Args:
        name: Of the element.
        children: Markup goes in as it is, other text is escaped.
        attributes: `class_` is class, `aria_label` is aria-label; None and False leave one out, True gives it no value.
    """
    return Markup(f"<{name}{_attributes(attributes)}>{text(*children)}</{name}>")


def void(name: str, **attributes: Attribute) -> Markup:
    """Build a void element: `<img ...>`, or a shape of an SVG."""
    return Markup(f"<{name}{_attributes(attributes)}/>")


def number(value: float | None, digits: int | None = None) -> str:
    """Format a number with about four digits; a dash for a missing one.

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
    formatted = f"{value:,.{digits}f}"
    return formatted.removeprefix("-") if not formatted.strip("-0.,") else formatted


def finite(value: object) -> bool:
    """Check for a number that can be drawn; values from a file may be anything."""
    return isinstance(value, (int, float)) and -LARGEST_MAGNITUDE <= value <= LARGEST_MAGNITUDE


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, (str, int, float)):
        return _escaped(child)
    return "".join(_text(grandchild) for grandchild in child)


def _escaped(value: object) -> str:
    return html.escape(strip_control_characters(str(value)))


def _attributes(attributes: dict[str, Attribute]) -> str:
    written = []
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if value is True:
            written.append(f" {name}")
        elif value is not None and value is not False:
            written.append(f' {name}="{_escaped(value)}"')
    return "".join(written)
