"""The numbers behind the answer: scores by task, over tasks, performance profiles, and who beats whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from offline_marl.report.page import figures
from offline_marl.report.page.markup import Markup, number, tag, text
from offline_marl.report.page.sections import (
    MOST_DRAWN,
    Section,
    best_drawn,
    counted,
    folded,
    legend,
    panel,
    panels,
    ranked,
    said,
    styles_of,
)
from offline_marl.report.page.tables import Cells, Column, Value, estimate, figure, numeric, table
from offline_marl.report.statistics.comparisons import MOST_PAIRED
from offline_marl.report.statistics.estimates import LAST, Cell, Comparison, Evidence

CLEAR = 0.75
"""Probability from which on a win is tinted more strongly."""
MOST_ALONE = 12
"""Tasks that get a table of their own of who beats whom."""


def scores_section(evidence: Evidence) -> Section:
    """A table for each task: a row for each label, and one for the data that they learned from."""
    own = any(cell.data_return is not None or cell.data_normalized is not None for cell in evidence.cells)
    last = " The last row is the data’s own: the mean over the episodes that were learned from."
    about = said(
        "IQM is the interquartile mean, that of the middle half of the runs; deviation is that of the raw return over "
        "runs.",
        last if own else None,
    )
    drawn = []
    for place, task in enumerate(evidence.tasks):
        cells = ranked([cell for cell in evidence.cells if cell.task == task])
        drawn.append(_scores(f"scores-{place}", f"Scores on {task}{told_if_best(evidence)}", cells))
    return Section("scores", "Scores", text(about, drawn))


def _scores(name: str, caption: str, cells: Sequence[Cell]) -> Markup:
    normalized = any(cell.normalized_iqm for cell in cells)
    agreement, tuned = any(cell.agreement for cell in cells), any(cell.tuned_on for cell in cells)
    columns = [Column("label"), *numeric("runs", "updates")]
    columns += numeric("normalised IQM", "normalised mean") if normalized else []
    columns += numeric("agreement") * agreement
    columns += [*numeric("return, IQM", "return, mean", "deviation"), *[Column("tuned")] * tuned]
    rows: list[Cells] = []
    for cell in cells:
        row: list[Value | str] = [cell.label, figure(cell.runs), figure(cell.budget)]
        row += [estimate(cell.normalized_iqm, 1), estimate(cell.normalized_mean, 1)] if normalized else []
        row += [estimate(cell.agreement, 2)] * agreement
        row += [estimate(cell.iqm, 2), estimate(cell.mean, 2), figure(cell.deviation, 2)]
        rows.append([*row, *[_long(cell.tuned_on)] * tuned])
    own = _data_row(cells, normalized, agreement, tuned)
    return table(name, caption, columns, [*rows, own] if own else rows)


def told_if_best(evidence: Evidence) -> str:
    """Behind a caption: scores of another checkpoint than the last carry that wherever they are copied to."""
    return "" if evidence.scored == LAST else f", {evidence.scored}"


def _long(said: str | None) -> Value | str:
    return Value(tag("span", said, class_="long")) if said else ""


def _data_row(cells: Sequence[Cell], normalized: bool, agreement: bool, tuned: bool) -> Cells | None:
    raw = next((cell.data_return for cell in cells if cell.data_return is not None), None)
    scaled = next((cell.data_normalized for cell in cells if cell.data_normalized is not None), None)
    if raw is None and scaled is None:
        return None
    first: list[Value | str] = ["", figure(scaled, 1)] if normalized else []
    return ["the data’s own", "", "", *first, *[""] * agreement, "", figure(raw, 2), "", *[""] * tuned]


def aggregates_section(evidence: Evidence) -> Section | None:
    """Over all tasks, where all labels have the same ones."""
    if not evidence.aggregates or len(evidence.aggregates[0].tasks) < 2:
        return None
    held = sorted(evidence.aggregates, key=lambda each: (-each.iqm.value, each.label))
    columns = [Column("label"), *numeric("IQM", "mean", "median", "optimality gap")]
    rows: list[Cells] = [
        [each.label, *(estimate(e, 1) for e in (each.iqm, each.mean, each.median, each.optimality_gap))]
        for each in held
    ]
    tasks = counted(len(held[0].tasks), "task")
    about = said(
        f"Normalised returns over {tasks}, {counted(held[0].runs, 'run')} on each; intervals resample runs "
        "within tasks. The median is that of the tasks’ means; the optimality gap is the mean shortfall below 100: "
        "less is better."
    )
    return Section(
        "over-tasks",
        "Over all tasks",
        text(about, table("aggregates", f"Aggregates over {tasks}{told_if_best(evidence)}", columns, rows)),
    )


def profiles_section(evidence: Evidence) -> Section | None:
    """Which share of runs reaches which score."""
    if not evidence.profiles:
        return None
    place = {each.label: (-each.iqm.value, number) for number, each in enumerate(evidence.aggregates)}
    styles, held = styles_of(evidence), evidence.profiles
    if len(held) > MOST_DRAWN:
        held = tuple(sorted(held, key=lambda each: place.get(each.label, (0.0, 0)))[:MOST_DRAWN])
    curves = []
    for each in held:
        low, high = each.low or [None] * len(each.taus), each.high or [None] * len(each.taus)
        points = [figures.Point(*values) for values in zip(each.taus, each.fraction, low, high, strict=True)]
        curves.append(figures.Line(each.label, styles[each.label], points))
    halves = "; ".join(f"{each.label}: {number(_half(each.taus, each.fraction))}" for each in held)
    alt = f"Performance profiles. Score that half of the runs exceed: {halves}."
    drawn = figures.lines(curves, alt, "normalised return", "share of runs above", limits=(0.0, 1.0))
    about = said(
        "How many of a label’s runs, over all tasks, score above each value: higher and further right is better.",
        best_drawn(len(evidence.profiles)),
    )
    shown = panels(
        [panel(f"Performance profiles{told_if_best(evidence)}", drawn, f"Half of the runs exceed: {halves}.")]
    )
    return Section(
        "profiles", "Performance profiles", text(about, legend([each.label for each in held], styles), shown)
    )


def _half(taus: tuple[float, ...], fraction: tuple[float, ...]) -> float | None:
    """The highest score that at least half of the runs exceed."""
    return max((tau for tau, share in zip(taus, fraction, strict=True) if share >= 0.5), default=None)


def improvement_section(evidence: Evidence) -> Section | None:
    """A matrix of probabilities that a run of the row beats one of the column, on each task and over all."""
    held: dict[tuple[str, ...], list[Comparison]] = {}
    for each in evidence.comparisons:
        held.setdefault(each.tasks, []).append(each)
    if not held:
        return None
    alone = [tasks for tasks in held if len(tasks) == 1][:MOST_ALONE]
    chosen = [*(tasks for tasks in held if len(tasks) > 1), *alone]
    about = said(
        "Row against column: how probable it is that a run of the row returns more than one of the column; ties "
        "count half. A tinted cell may be claimed as a win; in others the runs tell too little, or the row loses."
    )
    first, *others = [_matrix(evidence, number, tasks, held[tasks]) for number, tasks in enumerate(chosen)]
    more = folded(f"Task by task ({len(others)})", others) if others else None
    return Section("improvement", "Who beats whom", text(about, first, more))


def _matrix(evidence: Evidence, number: int, tasks: tuple[str, ...], held: list[Comparison]) -> Markup:
    where = tasks[0] if len(tasks) == 1 else counted(len(tasks), "common task") + f" ({', '.join(tasks)})"
    names = [name for name in evidence.labels if any(name in (each.label, each.other) for each in held)]
    found = {(each.label, each.other): each for each in held}
    partners = Counter(each.label for each in held)
    # Of very many labels, only some were compared with all others.
    others = (
        names if len(names) <= MOST_PAIRED else [name for name in names if partners[name] == max(partners.values())]
    )
    rows: list[Cells] = [[name, *(_chance(found.get((name, other))) for other in others)] for name in names]
    caption = f"Probability of improvement on {where}{told_if_best(evidence)}"
    return table(f"improvement-{number}", caption, [Column("row better than"), *numeric(*others)], rows, stacked=True)


def _chance(held: Comparison | None) -> Value:
    if held is None:
        return Value("")
    tint = 0 if not held.wins else 3 if held.probability.value >= CLEAR else 2
    shown = estimate(held.probability, 2)
    win = tag("span", " win", class_="hidden") if held.wins else None
    return Value([shown.shown, win], shown.key, tint)
