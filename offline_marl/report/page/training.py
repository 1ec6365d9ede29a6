"""How scores and losses went over updates."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from offline_marl.report.gather.scores import Run
from offline_marl.report.page import figures
from offline_marl.report.page.markup import Markup, finite, number, text
from offline_marl.report.page.sections import (
    MOST_DRAWN,
    Section,
    best_drawn,
    counted,
    folded,
    legend,
    panel,
    panels,
    said,
    styles_of,
)
from offline_marl.report.statistics.estimates import Curve, Evidence

MOST_ROWS = 60
"""Rows of one metrics.csv that are read: a figure shows no more."""
MOST_METRICS = 12
"""Of one algorithm."""
MOST_LINES = 8
"""In one figure of losses."""
APART = {"step", "wall_s"}


def curves_section(evidence: Evidence) -> Section | None:
    """Scores over updates, a figure for each task."""
    drawn, names, most = [], set(), 0
    for task in evidence.tasks:
        held = [curve for curve in evidence.curves if curve.task == task and len(curve.steps) > 1]
        if any(curve.scale == "normalized_return" for curve in held):
            held = [curve for curve in held if curve.scale == "normalized_return"]
        most = max(most, len(held))
        held = sorted(held, key=lambda each: -each.iqm[-1])[:MOST_DRAWN] if len(held) > MOST_DRAWN else held
        if held:
            drawn.append(_learning(evidence, task, held))
            names |= {curve.label for curve in held}
    if not drawn:
        return None
    labels = [label for label in evidence.labels if label in names]
    about = said(
        "Interquartile mean over runs with its 95 % interval, at the updates that all runs of a label evaluated.",
        best_drawn(most),
    )
    shown = text(about, legend(labels, styles_of(evidence)), panels(drawn))
    return Section("curves", "Learning curves", shown)


def _learning(evidence: Evidence, task: str, held: Sequence[Curve]) -> Markup:
    styles = styles_of(evidence)
    curves, ends = [], []
    for each in held:
        low, high = each.low or [None] * len(each.steps), each.high or [None] * len(each.steps)
        points = [figures.Point(*values) for values in zip(each.steps, each.iqm, low, high, strict=True)]
        curves.append(figures.Line(each.label, styles[each.label], points))
        ends.append(f"{each.label} from {number(each.iqm[0])} to {number(each.iqm[-1])}")
    unit = held[0].scale.replace("_", " ").replace("normalized", "normalised")
    alt = f"Learning curves on {task}, {unit}: {'; '.join(ends)}."
    return panel(task, figures.lines(curves, alt, "updates", unit))


def losses_section(evidence: Evidence) -> Section | None:
    """What the trainer logged: small figures, folded, for each algorithm."""
    parts = []
    for algorithm in dict.fromkeys(run.algorithm for run in evidence.gathered.runs):
        runs = [run for run in evidence.gathered.runs if run.algorithm == algorithm and run.folder is not None]
        series = _series(runs)
        if series:
            parts.append(folded(f"{algorithm}: {counted(len(series), 'metric')}", _small(evidence, algorithm, series)))
    if not parts:
        return None
    about = said(
        "Mean over runs of what each algorithm logged while it learned. Losses of different algorithms do not compare."
    )
    return Section("losses", "Training losses", text(about, parts))


Series = dict[str, dict[tuple[str, str], list[figures.Point]]]


def _series(runs: Iterable[Run]) -> Series:
    """Points of each metric, of each task and label: the mean over runs at the steps that they share."""
    sums: dict[str, dict[tuple[str, str], dict[float, list[float]]]] = {}
    for run in runs:
        assert run.folder is not None
        for row in sampled(run.folder / "metrics.csv"):
            for name, value in row.items():
                if name not in APART:
                    held = sums.setdefault(name, {}).setdefault((run.task, run.label), {})
                    held.setdefault(row["step"], []).append(value)
    return {
        name: {key: _means(steps) for key, steps in lines.items()} for name, lines in list(sums.items())[:MOST_METRICS]
    }


def _means(steps: dict[float, list[float]]) -> list[figures.Point]:
    most = max(map(len, steps.values()))
    return [figures.Point(step, sum(each) / len(each)) for step, each in sorted(steps.items()) if len(each) == most]


def sampled(path: Path, most: int = MOST_ROWS) -> list[dict[str, float]]:
    """Evenly chosen rows of a CSV of numbers that begin with a step; what is no number is passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    body = lines[1:]
    if len(body) > most:
        body = [body[round(index * (len(body) - 1) / (most - 1))] for index in range(most)]
    found = []
    with contextlib.suppress(csv.Error):  # what stands before a damaged line is shown
        for row in csv.DictReader([*lines[:1], *body]):
            numbers = {name: value for name, cell in row.items() if name and (value := _number(cell)) is not None}
            if finite(numbers.get("step")):
                found.append(numbers)
    return found


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
    # On several tasks, lines of one label would look alike: they are counted through instead.
    style = {key: index if several else styles[key[1]] for index, key in enumerate(chosen)}
    names = {key: f"{key[1]} · {key[0]}" if several else key[1] for key in chosen}
    for metric, lines in series.items():
        held = [figures.Line(names[key], style[key], lines[key]) for key in chosen if key in lines]
        ends = "; ".join(f"{line.name} ends at {number(line.points[-1].y)}" for line in held if line.points)
        if ends:
            alt = f"{metric} of {algorithm} over updates: {ends}."
            drawn.append(panel(metric, figures.lines(held, alt, "updates", metric.rpartition("/")[2])))
    more = said(f"{counted(len(keys) - len(chosen), 'more line')} left out.") if len(keys) > len(chosen) else None
    return text(legend([names[key] for key in chosen], {names[key]: style[key] for key in chosen}), more, panels(drawn))
