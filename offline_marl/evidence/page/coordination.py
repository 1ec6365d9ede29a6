"""Whether agents choose alike: agreement, the conventions that they follow, and who can play with whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from offline_marl.evidence.estimates import Evidence
from offline_marl.evidence.page import figures
from offline_marl.evidence.page.axes import Scale, grid, span
from offline_marl.evidence.page.markup import Markup, finite, number, tag, text
from offline_marl.evidence.page.material import Ended
from offline_marl.evidence.page.sections import Section, counted, folded, panel, panels, said, styles_of
from offline_marl.evidence.page.tables import Cells, Column, Value, figure, numeric, table, told

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


def crossplay_section(matrix: Mapping[str, Any], count: int = 1) -> Section | None:
    """Who plays how well with whom.

    Args:
        matrix: The content of a crossplay.json.
        count: Which one of the page it is, from 1.
    """
    runs = [str(run.get("name", "")) for run in matrix["runs"]]
    normalized = bool(matrix.get("normalized_return"))
    values = matrix["normalized_return"] if normalized else matrix.get("return")
    order = matrix.get("order") or list(range(len(runs)))
    if not values or not runs:
        return None
    unit = "normalised return" if normalized else "return"
    scale = span([each for row in values for each in row], margin=0)
    digits = 1 if normalized else None
    rows: list[Cells] = [[runs[i], *(_tinted(values[i][j], scale, digits) for j in order)] for i in order]
    columns = [Column("run"), *numeric(*(runs[j] for j in order))]
    name, which = f"crossplay-{count}", "" if count == 1 else f" {count}"
    task = f"{which} on {matrix.get('task', '')}"
    drawn = [table(name, f"Cross-play{task}, {unit}", columns, rows)]
    if matrix.get("agreement"):
        shares = matrix["agreement"]
        rows = [[runs[i], *(_tinted(shares[i][j], (0.0, 1.0), 2) for j in order)] for i in order]
        drawn.append(
            folded(
                "Agreement of each pairing", table(f"{name}-agreement", f"Cross-play{task}, agreement", columns, rows)
            )
        )
    about = said(
        f"Agents of different runs play together; the diagonal is each run with itself. {matrix.get('entry', '')} "
        f"Mean {unit} over {matrix.get('episodes', '')} starts; darker is higher."
    )
    notes = [said(str(note)) for note in matrix.get("notes") or ()]
    shown = text(_groups(matrix, runs), about, drawn, _sums(matrix, normalized, name, task), notes)
    return Section(name, f"Cross-play{which}", shown)


def _tinted(value: float | None, scale: tuple[float, float], digits: int | None) -> Value:
    if value is None or not finite(value):
        return Value(number(None))
    share = (value - scale[0]) / (scale[1] - scale[0])
    return Value(number(value, digits), value, min(4, int(5 * share)))


def _groups(matrix: Mapping[str, Any], runs: Sequence[str]) -> Markup | None:
    groups = matrix.get("groups") or []
    if not groups:
        return None
    if len(groups) == 1:
        return said(tag("b", "All runs play well together"), ": nobody’s convention shuts another one out.")
    told_ = []
    for group in groups:
        names = ", ".join(runs[row] for row in group["members"])
        way = f" ({group['convention']})" if group.get("convention") else ""
        told_.append(tag("li", names, way))
    count = counted(len(groups), "group")
    return text(
        said(tag("b", f"The runs fall into {count}"), " that share a convention within and not across:"),
        tag("ul", told_),
    )


def _sums(matrix: Mapping[str, Any], normalized: bool, name: str, task: str) -> Markup | None:
    """Means of self-play, cross-play, within and across groups."""
    prefix = "normalized" if normalized else "return"
    value = "normalized_return" if normalized else "return"
    rows: list[Cells] = []
    for pairings, each in (matrix.get("summary") or {}).items():
        if each:
            low, high = number(each.get(f"{prefix}_low"), 2), number(each.get(f"{prefix}_high"), 2)
            rows.append([str(pairings).replace("_", "-"), figure(each.get(value), 2), f"[{low}, {high}]"])
    if not rows:
        return None
    columns = [Column("pairings"), *numeric("mean", "95 % interval")]
    return table(f"{name}-sums", f"Means of the pairings{task}", columns, rows)
