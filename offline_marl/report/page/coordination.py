"""Section of coordination: agreement of agents, and the conventions that they follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from offline_marl.report.page import figures
from offline_marl.report.page.axes import Scale, grid, value_range
from offline_marl.report.page.markup import Markup, number, tag, text
from offline_marl.report.page.material import EpisodeConventions
from offline_marl.report.page.sections import Section, fold, panel, panels, paragraph, styles_of
from offline_marl.report.page.tables import Cells, Column, figure, format_estimate, numeric, table
from offline_marl.report.statistics.estimates import Evidence

MOST_MAPS = 24
"""Figures of where episodes led."""
MOST_DOTS = 100


def agreement_section(evidence: Evidence, ends: Sequence[EpisodeConventions]) -> Section | None:
    """Draw the share of episodes in which all agents followed one convention, and which."""
    cells = [cell for cell in evidence.cells if cell.agreement is not None]
    if not cells:
        return None
    note = paragraph(
        "Share of evaluation episodes in which all agents settled on the same of several equally good ways."
    )
    shares = panels([_shares(evidence, task) for task in evidence.tasks if any(cell.task == task for cell in cells)])
    return Section("agreement", "Agreement", text(note, shares, _ways(evidence, ends), _maps(ends)))


def _shares(evidence: Evidence, task: str) -> Markup:
    styles = styles_of(evidence)
    shares = [(cell, cell.agreement) for cell in evidence.cells if cell.task == task and cell.agreement is not None]
    shares.sort(key=lambda pair: (-pair[1].value, pair[0].label))
    parts: dict[str, list[float]] = {}
    for run in evidence.gathered.runs:
        share = run.score.get("agreement")
        if run.task == task and share is not None:
            parts.setdefault(run.label, []).append(share)
    rows = [
        figures.Interval(
            cell.label,
            styles[cell.label],
            agreed.value,
            agreed.low,
            agreed.high,
            parts.get(cell.label, ()),
            format_estimate(agreed, 2),
        )
        for cell, agreed in shares
    ]
    alt = f"Agreement on {task}, highest first: {'; '.join(f'{row.name} {number(row.value, 2)}' for row in rows)}."
    return panel(task, figures.interval_chart(rows, alt, "agreement", limits=(0.0, 1.0)))


def _ways(evidence: Evidence, ends: Sequence[EpisodeConventions]) -> Markup | None:
    """Draw a table of the conventions followed, over episodes of all runs."""
    if not ends:
        return None
    names = list(dict.fromkeys(name for end in ends for name in end.names))
    rows: list[Cells] = []
    for cell in evidence.cells:
        counts = Counter(way for end in ends if (end.task, end.label) == (cell.task, cell.label) for way in end.ways())
        if counts:
            rows.append([cell.task, cell.label, *(figure(counts[name], 0) for name in [*names, "apart"])])
    columns = [Column("task"), Column("label"), *numeric(*names, "apart")]
    return table("ways", "Episodes by the way that all agents went, over all runs", columns, rows, head=2)


def _maps(ends: Sequence[EpisodeConventions]) -> Markup | None:
    """Draw maps of targets by the convention followed, for the first run of each label on each task."""
    first: dict[tuple[str, str], EpisodeConventions] = {}
    for end in ends:
        if end.targets:
            first.setdefault((end.task, end.label), end)
    drawn = [_map(end) for end in list(first.values())[:MOST_MAPS]]
    if not drawn:
        return None
    more = paragraph(f"The first {MOST_MAPS} of {len(first)}.") if len(first) > MOST_MAPS else None
    return fold("Where the agents went which way", more, panels(drawn))


def _map(end: EpisodeConventions) -> Markup:
    ways, targets = end.ways()[:MOST_DOTS], (end.targets or ())[:MOST_DOTS]
    side = figures.WIDTH - 50
    x = Scale(*value_range([at[0] for at in targets]), 40, 40 + side)
    y = Scale(*value_range([at[1] for at in targets]), 26 + side, 26)
    styles = {name: index for index, name in enumerate([*end.names, "apart"])}
    dots = [figures.marker(styles[way], x.at(at[0]), y.at(at[1])) for at, way in zip(targets, ways, strict=True)]
    counts = Counter(end.ways())
    listing = ", ".join(f"{name} {counts[name]}" for name in styles)
    alt = f"Targets of {end.label} on {end.task}, seed {end.seed}, by the way that the agents went: {listing}."
    drawn = figures.svg(side + 66, alt, grid(x, y, "target x", "target y"), dots)
    keys = tag(
        "ul", [figures.legend_item(f"{name} {counts[name]}", style) for name, style in styles.items()], class_="key"
    )
    return panel(f"{end.label}, seed {end.seed}", drawn, text(end.task, keys))
