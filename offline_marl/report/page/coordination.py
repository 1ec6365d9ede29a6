"""Whether agents choose alike: agreement, and the conventions that they follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from offline_marl.report.page import figures
from offline_marl.report.page.axes import Scale, grid, span
from offline_marl.report.page.markup import Markup, number, tag, text
from offline_marl.report.page.material import Ended
from offline_marl.report.page.sections import Section, folded, panel, panels, said, styles_of
from offline_marl.report.page.tables import Cells, Column, figure, numeric, table, told
from offline_marl.report.statistics.estimates import Evidence

MOST_MAPS = 24
"""Figures of where episodes led."""
MOST_DOTS = 100


def agreement_section(evidence: Evidence, ends: Sequence[Ended]) -> Section | None:
    """In which share of episodes all agents followed one convention, and which."""
    held = [cell for cell in evidence.cells if cell.agreement is not None]
    if not held:
        return None
    about = said("Share of evaluation episodes in which all agents settled on the same of several equally good ways.")
    shares = panels([_shares(evidence, task) for task in evidence.tasks if any(cell.task == task for cell in held)])
    return Section("agreement", "Agreement", text(about, shares, _ways(evidence, ends), _maps(ends)))


def _shares(evidence: Evidence, task: str) -> Markup:
    styles = styles_of(evidence)
    held = [(cell, cell.agreement) for cell in evidence.cells if cell.task == task and cell.agreement is not None]
    held.sort(key=lambda each: (-each[1].value, each[0].label))
    parts: dict[str, list[float]] = {}
    for run in evidence.gathered.runs:
        share = run.score.get("agreement")
        if run.task == task and share is not None:
            parts.setdefault(run.label, []).append(share)
    rows = [
        figures.Interval(cell.label, styles[cell.label], e.value, e.low, e.high, parts.get(cell.label, ()), told(e, 2))
        for cell, e in held
    ]
    alt = f"Agreement on {task}, highest first: {'; '.join(f'{row.name} {number(row.value, 2)}' for row in rows)}."
    return panel(task, figures.intervals(rows, alt, "agreement", limits=(0.0, 1.0)))


def _ways(evidence: Evidence, ends: Sequence[Ended]) -> Markup | None:
    """Which ways the agents went, in episodes of all runs."""
    if not ends:
        return None
    names = list(dict.fromkeys(name for each in ends for name in each.names))
    rows: list[Cells] = []
    for cell in evidence.cells:
        counts = Counter(way for e in ends if (e.task, e.label) == (cell.task, cell.label) for way in e.ways())
        if counts:
            rows.append([cell.task, cell.label, *(figure(counts[name], 0) for name in [*names, "apart"])])
    columns = [Column("task"), Column("label"), *numeric(*names, "apart")]
    return table("ways", "Episodes by the way that all agents went, over all runs", columns, rows, head=2)


def _maps(ends: Sequence[Ended]) -> Markup | None:
    """Where episodes were to lead and which way the agents went, for the first run of each label on each task."""
    first: dict[tuple[str, str], Ended] = {}
    for each in ends:
        if each.targets:
            first.setdefault((each.task, each.label), each)
    drawn = [_map(each) for each in list(first.values())[:MOST_MAPS]]
    if not drawn:
        return None
    more = said(f"The first {MOST_MAPS} of {len(first)}.") if len(first) > MOST_MAPS else None
    return folded("Where the agents went which way", more, panels(drawn))


def _map(each: Ended) -> Markup:
    ways, targets = each.ways()[:MOST_DOTS], (each.targets or ())[:MOST_DOTS]
    side = figures.WIDTH - 50
    x = Scale(*span([at[0] for at in targets]), 40, 40 + side)
    y = Scale(*span([at[1] for at in targets]), 26 + side, 26)
    styles = {name: index for index, name in enumerate([*each.names, "apart"])}
    dots = [figures.mark(styles[way], x.at(at[0]), y.at(at[1])) for at, way in zip(targets, ways, strict=True)]
    counts = Counter(each.ways())
    told_ = ", ".join(f"{name} {counts[name]}" for name in styles)
    alt = f"Targets of {each.label} on {each.task}, seed {each.seed}, by the way that the agents went: {told_}."
    drawn = figures.svg(side + 66, alt, grid(x, y, "target x", "target y"), dots)
    keys = tag("ul", [figures.key(f"{name} {counts[name]}", style) for name, style in styles.items()], class_="key")
    return panel(f"{each.label}, seed {each.seed}", drawn, text(each.task, keys))
