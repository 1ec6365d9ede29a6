"""Sections of training: learning curves and losses over updates."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from offline_marl.report.gather.scores import Run
from offline_marl.report.page import figures
from offline_marl.report.page.markup import Markup, finite, number, text
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
    styles_of,
)
from offline_marl.report.statistics.estimates import Curve, Evidence

MOST_ROWS = 60
"""Rows of one metrics.csv that are read: a figure shows no more."""
MOST_METRICS = 12
"""Of one algorithm."""
MOST_LINES = 8
"""In one figure of losses."""
NON_METRIC_COLUMNS = {"step", "wall_s"}


def curves_section(evidence: Evidence) -> Section | None:
    """Draw learning curves, a figure for each task."""
    drawn, names, most = [], set(), 0
    for task in evidence.tasks:
        curves = [curve for curve in evidence.curves if curve.task == task and len(curve.steps) > 1]
        if any(curve.scale == "normalized_return" for curve in curves):
            curves = [curve for curve in curves if curve.scale == "normalized_return"]
        most = max(most, len(curves))
        curves = sorted(curves, key=lambda one: -one.iqm[-1])[:MOST_DRAWN] if len(curves) > MOST_DRAWN else curves
        if curves:
            drawn.append(_learning(evidence, task, curves))
            names |= {curve.label for curve in curves}
    if not drawn:
        return None
    labels = [label for label in evidence.labels if label in names]
    note = paragraph(
        "Interquartile mean over runs with its 95 % interval, at the updates that all runs of a label evaluated.",
        best_drawn(most),
    )
    shown = text(note, legend(labels, styles_of(evidence)), panels(drawn))
    return Section("curves", "Learning curves", shown)


def _learning(evidence: Evidence, task: str, learned: Sequence[Curve]) -> Markup:
    styles = styles_of(evidence)
    curves, ends = [], []
    for curve in learned:
        low, high = curve.low or [None] * len(curve.steps), curve.high or [None] * len(curve.steps)
        points = [figures.Point(*values) for values in zip(curve.steps, curve.iqm, low, high, strict=True)]
        curves.append(figures.Line(curve.label, styles[curve.label], points))
        ends.append(f"{curve.label} from {number(curve.iqm[0])} to {number(curve.iqm[-1])}")
    unit = learned[0].scale.replace("_", " ").replace("normalized", "normalised")
    alt = f"Learning curves on {task}, {unit}: {'; '.join(ends)}."
    return panel(task, figures.line_chart(curves, alt, "updates", unit))


def losses_section(evidence: Evidence) -> Section | None:
    """Draw the logged metrics of each algorithm as small figures, folded."""
    parts = []
    for algorithm in dict.fromkeys(run.algorithm for run in evidence.gathered.runs):
        runs = [run for run in evidence.gathered.runs if run.algorithm == algorithm and run.folder is not None]
        series = _series(runs)
        if series:
            parts.append(fold(f"{algorithm}: {count_of(len(series), 'metric')}", _small(evidence, algorithm, series)))
    if not parts:
        return None
    note = paragraph(
        "Mean over runs of what each algorithm logged while it learned. Losses of different algorithms do not compare."
    )
    return Section("losses", "Training losses", text(note, parts))


Series = dict[str, dict[tuple[str, str], list[figures.Point]]]


def _series(runs: Iterable[Run]) -> Series:
    """Average each metric of each task and label over runs, at the steps that all of them logged."""
    files: dict[tuple[str, str], list[Path]] = {}
    for run in runs:
        assert run.folder is not None
        files.setdefault((run.task, run.label), []).append(run.folder / "metrics.csv")
    sums: dict[str, dict[tuple[str, str], dict[float, list[float]]]] = {}
    for key, paths in files.items():
        # Rows of runs of different lengths, each sampled evenly, would hardly share a step.
        common = set[str].intersection(*(set(map(_step_cell, _read_lines(path)[1:])) for path in paths))
        for row in (row for path in paths for row in sample_rows(path, among=common or None)):
            for name, value in row.items():
                if name not in NON_METRIC_COLUMNS:
                    by_step = sums.setdefault(name, {}).setdefault(key, {})
                    by_step.setdefault(row["step"], []).append(value)
    return {
        name: {key: _means(steps) for key, steps in lines.items()} for name, lines in list(sums.items())[:MOST_METRICS]
    }


def _means(steps: dict[float, list[float]]) -> list[figures.Point]:
    most = max(map(len, steps.values()))
    return [
        figures.Point(step, sum(values) / len(values)) for step, values in sorted(steps.items()) if len(values) == most
    ]


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _step_cell(line: str) -> str:
    return line.partition(",")[0]


def sample_rows(path: Path, most: int = MOST_ROWS, among: Collection[str] | None = None) -> list[dict[str, float]]:
    """Sample evenly spaced rows of a CSV of numbers that begin with a step; other cells are skipped.

    Args:
        path: The file.
        most: Rows at most.
        among: Steps, as they are written, of the rows to sample from; all unless told.
    """
    lines = _read_lines(path)
    body = [line for line in lines[1:] if among is None or _step_cell(line) in among]
    if len(body) > most:
        body = [body[round(index * (len(body) - 1) / (most - 1))] for index in range(most)]
    rows = []
    with contextlib.suppress(csv.Error):  # what stands before a damaged line is shown
        for row in csv.DictReader([*lines[:1], *body]):
            numbers = {name: value for name, cell in row.items() if name and (value := _number(cell)) is not None}
            if finite(numbers.get("step")):
                rows.append(numbers)
    return rows


def _number(cell: object) -> float | None:
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _small(evidence: Evidence, algorithm: str, series: Series) -> Markup:
    styles, several = styles_of(evidence), len(evidence.tasks) > 1
    drawn = []
    keys = list(dict.fromkeys(key for lines in series.values() for key in lines))
    chosen = keys[:MOST_LINES]
    # On several tasks, lines of one label would look alike: they are numbered through instead.
    style = {key: index if several else styles[key[1]] for index, key in enumerate(chosen)}
    names = {key: f"{key[1]} · {key[0]}" if several else key[1] for key in chosen}
    for metric, lines in series.items():
        curves = [figures.Line(names[key], style[key], lines[key]) for key in chosen if key in lines]
        ends = "; ".join(f"{line.name} ends at {number(line.points[-1].y)}" for line in curves if line.points)
        if ends:
            alt = f"{metric} of {algorithm} over updates: {ends}."
            drawn.append(panel(metric, figures.line_chart(curves, alt, "updates", metric.rpartition("/")[2])))
    more = paragraph(f"{count_of(len(keys) - len(chosen), 'more line')} left out.") if len(keys) > len(chosen) else None
    return text(legend([names[key] for key in chosen], {names[key]: style[key] for key in chosen}), more, panels(drawn))
