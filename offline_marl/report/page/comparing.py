"""Sections of comparisons: scores by task, aggregates, performance profiles, probabilities of improvement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from offline_marl.report.page import figures
from offline_marl.report.page.markup import Markup, number, tag, text
from offline_marl.report.page.sections import (
    MOST_DRAWN,
    Section,
    best_drawn,
    count_of,
    fold,
    legend,
    panel,
    panels,
    paragraph,
    rank,
    styles_of,
)
from offline_marl.report.page.tables import Cells, Column, Value, estimate, figure, numeric, table
from offline_marl.report.statistics.comparisons import MOST_PAIRED
from offline_marl.report.statistics.estimates import LAST, Cell, Comparison, Evidence

STRONG_WIN = 0.75
"""Probability from which on a win is tinted more strongly."""
MOST_TASK_TABLES = 12
"""Tasks that get a table of their own of who beats whom."""


def scores_section(evidence: Evidence) -> Section:
    """Draw a table for each task: a row for each label, and one for the data that they learned from."""
    has_data = any(cell.data_return is not None or cell.data_normalized is not None for cell in evidence.cells)
    last = " The last row is the data’s own: the mean over the episodes that were learned from."
    note = paragraph(
        "IQM is the interquartile mean, that of the middle half of the runs; deviation is that of the raw return over "
        "runs.",
        last if has_data else None,
    )
    drawn = []
    for place, task in enumerate(evidence.tasks):
        cells = rank([cell for cell in evidence.cells if cell.task == task])
        drawn.append(_scores_table(f"scores-{place}", f"Scores on {task}{scored_suffix(evidence)}", cells))
    return Section("scores", "Scores", text(note, drawn))


def _scores_table(name: str, caption: str, cells: Sequence[Cell]) -> Markup:
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
        rows.append([*row, *[_long_text(cell.tuned_on)] * tuned])
    data_row = _data_row(cells, normalized, agreement, tuned)
    return table(name, caption, columns, [*rows, data_row] if data_row else rows)


def scored_suffix(evidence: Evidence) -> str:
    """Compose a caption's suffix for scores of another checkpoint than the last, as tables are copied without notes."""
    return "" if evidence.scored == LAST else f", {evidence.scored}"


def _long_text(content: str | None) -> Value | str:
    return Value(tag("span", content, class_="long")) if content else ""


def _data_row(cells: Sequence[Cell], normalized: bool, agreement: bool, tuned: bool) -> Cells | None:
    raw = next((cell.data_return for cell in cells if cell.data_return is not None), None)
    scaled = next((cell.data_normalized for cell in cells if cell.data_normalized is not None), None)
    if raw is None and scaled is None:
        return None
    first: list[Value | str] = ["", figure(scaled, 1)] if normalized else []
    return ["the data’s own", "", "", *first, *[""] * agreement, "", figure(raw, 2), "", *[""] * tuned]


def aggregates_section(evidence: Evidence) -> Section | None:
    """Draw the aggregates over all tasks, where all labels have the same ones."""
    if not evidence.aggregates or len(evidence.aggregates[0].tasks) < 2:
        return None
    aggregates = sorted(evidence.aggregates, key=lambda row: (-row.iqm.value, row.label))
    columns = [Column("label"), *numeric("IQM", "mean", "median", "optimality gap")]
    rows: list[Cells] = [
        [row.label, *(estimate(value, 1) for value in (row.iqm, row.mean, row.median, row.optimality_gap))]
        for row in aggregates
    ]
    tasks = count_of(len(aggregates[0].tasks), "task")
    note = paragraph(
        f"Normalised returns over {tasks}, {count_of(aggregates[0].runs, 'run')} on each; intervals resample runs "
        "within tasks. The median is that of the tasks’ means; the optimality gap is the mean shortfall below 100: "
        "less is better."
    )
    return Section(
        "over-tasks",
        "Over all tasks",
        text(note, table("aggregates", f"Aggregates over {tasks}{scored_suffix(evidence)}", columns, rows)),
    )


def profiles_section(evidence: Evidence) -> Section | None:
    """Draw the performance profiles: the share of runs above each score."""
    if not evidence.profiles:
        return None
    place = {profile.label: (-profile.iqm.value, number) for number, profile in enumerate(evidence.aggregates)}
    styles, profiles = styles_of(evidence), evidence.profiles
    if len(profiles) > MOST_DRAWN:
        profiles = tuple(sorted(profiles, key=lambda profile: place.get(profile.label, (0.0, 0)))[:MOST_DRAWN])
    curves = []
    for profile in profiles:
        low, high = profile.low or [None] * len(profile.taus), profile.high or [None] * len(profile.taus)
        points = [figures.Point(*values) for values in zip(profile.taus, profile.fraction, low, high, strict=True)]
        curves.append(figures.Line(profile.label, styles[profile.label], points))
    medians = {profile.label: _score_of_half(profile.taus, profile.fraction) for profile in profiles}
    halves = "; ".join(f"{label}: {number(score)}" for label, score in medians.items())
    alt = f"Performance profiles. Score that half of the runs exceed: {halves}."
    drawn = figures.line_chart(curves, alt, "normalised return", "share of runs above", limits=(0.0, 1.0))
    note = paragraph(
        "How many of a label’s runs, over all tasks, score above each value: higher and further right is better.",
        best_drawn(len(evidence.profiles)),
    )
    shown = panels(
        [panel(f"Performance profiles{scored_suffix(evidence)}", drawn, f"Half of the runs exceed: {halves}.")]
    )
    return Section(
        "profiles", "Performance profiles", text(note, legend([profile.label for profile in profiles], styles), shown)
    )


def _score_of_half(taus: tuple[float, ...], fraction: tuple[float, ...]) -> float | None:
    """Find the highest score that at least half of the runs exceed."""
    return max((tau for tau, share in zip(taus, fraction, strict=True) if share >= 0.5), default=None)


def improvement_section(evidence: Evidence) -> Section | None:
    """Draw matrices of probabilities that a run of the row beats one of the column, on each task and over all."""
    by_tasks: dict[tuple[str, ...], list[Comparison]] = {}
    for comparison in evidence.comparisons:
        by_tasks.setdefault(comparison.tasks, []).append(comparison)
    if not by_tasks:
        return None
    alone = [tasks for tasks in by_tasks if len(tasks) == 1][:MOST_TASK_TABLES]
    chosen = [*(tasks for tasks in by_tasks if len(tasks) > 1), *alone]
    note = paragraph(
        "Row against column: how probable it is that a run of the row returns more than one of the column; ties "
        "count half. A tinted cell may be claimed as a win; in others the runs tell too little, or the row loses."
    )
    first, *others = [
        _improvement_table(evidence, number, tasks, by_tasks[tasks]) for number, tasks in enumerate(chosen)
    ]
    more = fold(f"Task by task ({len(others)})", others) if others else None
    return Section("improvement", "Who beats whom", text(note, first, more))


def _improvement_table(
    evidence: Evidence, number: int, tasks: tuple[str, ...], comparisons: list[Comparison]
) -> Markup:
    where = tasks[0] if len(tasks) == 1 else count_of(len(tasks), "common task") + f" ({', '.join(tasks)})"
    names = [
        name
        for name in evidence.labels
        if any(name in (comparison.label, comparison.other) for comparison in comparisons)
    ]
    by_pair = {(comparison.label, comparison.other): comparison for comparison in comparisons}
    partners = Counter(comparison.label for comparison in comparisons)
    # Of very many labels, only some were compared with all others.
    others = (
        names if len(names) <= MOST_PAIRED else [name for name in names if partners[name] == max(partners.values())]
    )
    rows: list[Cells] = [[name, *(_improvement_cell(by_pair.get((name, other))) for other in others)] for name in names]
    caption = f"Probability of improvement on {where}{scored_suffix(evidence)}"
    return table(f"improvement-{number}", caption, [Column("row better than"), *numeric(*others)], rows, stacked=True)


def _improvement_cell(comparison: Comparison | None) -> Value:
    if comparison is None:
        return Value("")
    tint = 0 if not comparison.wins else 3 if comparison.probability.value >= STRONG_WIN else 2
    shown = estimate(comparison.probability, 2)
    win = tag("span", " win", class_="hidden") if comparison.wins else None
    return Value([shown.shown, win], shown.key, tint)
