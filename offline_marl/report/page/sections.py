"""Parts of every section of the page: frame, figures with captions, folded parts, legends; ranking and wording."""

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
    """Section of the page: anchor, heading and body."""

    name: str
    """Of the anchor that the table of contents points to."""
    title: str
    body: Markup

    def drawn(self) -> Markup:
        """Render the section."""
        heading = tag("h2", self.title, id=f"{self.name}-title")
        return tag("section", heading, self.body, id=self.name, aria_labelledby=f"{self.name}-title")


def paragraph(*children: Child) -> Markup:
    """Build a paragraph."""
    return tag("p", *children)


def panel(title: str, drawn: Markup, caption: Child = None) -> Markup:
    """Build a figure under its title."""
    below = tag("span", caption, class_="below") if caption else None
    return tag("figure", tag("figcaption", tag("b", title), below), drawn)


def panels(drawn: Sequence[Markup]) -> Markup:
    """Lay out figures side by side, as many as the screen is wide."""
    return tag("div", drawn, class_="panels")


def fold(summary: str, *children: Child) -> Markup:
    """Build a part that is folded until clicked; print shows it open."""
    return tag("details", tag("summary", summary), *children)


def best_drawn(count: int) -> str:
    """Compose the note of a figure that leaves lines out; empty where all are drawn."""
    return f" Drawn are the best {MOST_DRAWN} of {count}; evidence.json holds all." if count > MOST_DRAWN else ""


def legend(names: Sequence[str], styles: Mapping[str, int]) -> Markup:
    """Build a legend."""
    return tag("ul", [figures.legend_item(name, styles[name]) for name in names], class_="key")


def styles_of(evidence: Evidence) -> dict[str, int]:
    """Assign each label the number of its colour, dash and marker, the same all over the page."""
    return {label: number for number, label in enumerate(evidence.labels)}


def is_normalized(cells: Sequence[Cell]) -> bool:
    """Check whether all cells have normalised returns, which figures then show."""
    return all(cell.normalized_iqm is not None for cell in cells)


def score_of(cell: Cell, normalized: bool) -> Estimate:
    """Select the score that figures show: the interquartile mean, normalised if it can be."""
    return cell.normalized_iqm if normalized and cell.normalized_iqm is not None else cell.iqm


def rank(cells: Sequence[Cell]) -> list[Cell]:
    """Sort the cells of one task, best first; equals in the order of their labels."""
    normalized = is_normalized(cells)
    return sorted(cells, key=lambda cell: (-score_of(cell, normalized).value, cell.label))


def count_of(count: int, what: str) -> str:
    """Format a count: `1 run`, `2 runs`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def join_names(names: Sequence[str], most: int = 4) -> str:
    """Join names: `a, b and c`; of many the first few, and how many more."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""
