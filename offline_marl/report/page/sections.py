"""What every section of the page is made of: its frame, its figures with captions, its folded parts, its legends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offline_marl.report.page import figures
from offline_marl.report.page.markup import Child, Markup, tag
from offline_marl.report.statistics.estimates import Cell, Estimate, Evidence

MOST_DRAWN = 8
"""Lines of one figure; of more than that no eye tells one from another."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with a heading of its own."""

    name: str
    """Of the anchor that the table of contents points to."""
    title: str
    body: Markup

    def drawn(self) -> Markup:
        """As it stands in the page."""
        heading = tag("h2", self.title, id=f"{self.name}-title")
        return tag("section", heading, self.body, id=self.name, aria_labelledby=f"{self.name}-title")


def said(*children: Child) -> Markup:
    """A paragraph."""
    return tag("p", *children)


def panel(title: str, drawn: Markup, caption: Child = None) -> Markup:
    """A figure under its title."""
    below = tag("span", caption, class_="below") if caption else None
    return tag("figure", tag("figcaption", tag("b", title), below), drawn)


def panels(each: Sequence[Markup]) -> Markup:
    """Figures side by side, as many as the screen is wide."""
    return tag("div", each, class_="panels")


def folded(summary: str, *children: Child) -> Markup:
    """A part that opens when asked; print shows it open."""
    return tag("details", tag("summary", summary), *children)


def best_drawn(count: int) -> str:
    """What a figure of too many lines says of itself; nothing where all are drawn."""
    return f" Drawn are the best {MOST_DRAWN} of {count}; evidence.json holds all." if count > MOST_DRAWN else ""


def legend(names: Sequence[str], styles: Mapping[str, int]) -> Markup:
    """Which line is whose."""
    return tag("ul", [figures.key(name, styles[name]) for name in names], class_="key")


def styles_of(evidence: Evidence) -> dict[str, int]:
    """The number of colour, dash and mark of each label, the same all over the page."""
    return {label: number for number, label in enumerate(evidence.labels)}


def is_normalized(cells: Sequence[Cell]) -> bool:
    """Whether all of them have normalised returns, which are then what figures show."""
    return all(cell.normalized_iqm is not None for cell in cells)


def shown(cell: Cell, normalized: bool) -> Estimate:
    """The score that figures show: the interquartile mean, normalised if it can be."""
    return cell.normalized_iqm if normalized and cell.normalized_iqm is not None else cell.iqm


def ranked(cells: Sequence[Cell]) -> list[Cell]:
    """Those of one task, best first; equals in the order of their labels."""
    normalized = is_normalized(cells)
    return sorted(cells, key=lambda cell: (-shown(cell, normalized).value, cell.label))


def counted(count: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """`a, b and c`; of many the first few, and how many more."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""
