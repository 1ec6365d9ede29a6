"""Summary of gathered runs: the statistics, their notes, and the choice of what is compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from offline_marl.report.gather.scores import EvidenceError, Gathered, LeftOut, Run
from offline_marl.report.statistics import statistics
from offline_marl.report.statistics.comparisons import MOST_PAIRED, aggregate, compare, profile
from offline_marl.report.statistics.estimates import (
    BEST,
    FEWEST,
    FEWEST_TO_CLAIM,
    LAST,
    Aggregate,
    Cell,
    Curve,
    Evidence,
    Scale,
)

REPS = 2_000
MOST_NAMED = 6
"""Rows that a note names."""
POINTS = 2_000
"""Points of curves that are resampled together; they would take the memory of all resamples otherwise."""
Cells = Mapping[tuple[str, str], Sequence[Run]]
"""Runs by task and label."""
T = TypeVar("T")


def summarize(gathered: Gathered, *, reps: int = REPS, seed: int = 0, best: bool = False) -> Evidence:
    """Compute the statistics of runs, their intervals, and the notes that belong beside them.

    Args:
        gathered: The runs.
        reps: Bootstrap resamples.
        seed: Of the resampling; the same one gives the same intervals.
        best: Score each run's best evaluation in place of its last, and say so.

    Raises:
        EvidenceError: There are no runs, or none has a best evaluation.
        MissingRliableError: rliable is not installed.
    """
    gathered, scored = (_best(gathered) if best else gathered), LAST
    if not gathered.runs:
        raise EvidenceError("There is no run to make a statement about.")
    if best:
        counts = sorted({run.evaluations for run in gathered.runs})
        scored = BEST.format("1" if counts == [1] else " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))))
    cells = _cells(gathered.runs)
    rows = _table(cells, reps, seed)
    aggregates, why = aggregate(cells, reps, seed)
    profiles = profile(cells, reps, seed) if aggregates else ()
    leaders = _leaders(rows, aggregates)
    comparisons = compare(cells, reps, seed, leaders)
    curves = tuple(_curves(cells, "return", reps, seed)) + tuple(_curves(cells, "normalized_return", reps, seed))
    notes = [*gathered.notes, *_few(rows), *_uneven(cells), *why]
    pairs = sum(comparison.wins for comparison in comparisons)
    if leaders is not None:
        notes.append(
            f"There are more than {MOST_PAIRED} labels: only those that lead on a task, or over all tasks, are "
            "compared with every other one."
        )
    if pairs:
        notes.append(
            f"{len(comparisons) // 2} comparisons, each at 95 %, uncorrected for their number: {pairs} claim a win."
        )
    return Evidence(gathered, scored, reps, seed, rows, aggregates, profiles, comparisons, curves, tuple(notes))


def _leaders(rows: Sequence[Cell], aggregates: Sequence[Aggregate]) -> set[str] | None:
    """Choose the labels to compare with every other; None where all pairs are few enough."""
    if len({row.label for row in rows}) <= MOST_PAIRED:
        return None
    best: dict[str, Cell] = {}
    for row in sorted(rows, key=lambda row: (-(row.normalized_iqm or row.iqm).value, row.label)):
        best.setdefault(row.task, row)
    raw: dict[str, Cell] = {}
    for row in sorted(rows, key=lambda row: (-row.iqm.value, row.label)):
        raw.setdefault(row.task, row)
    first = sorted(aggregates, key=lambda aggregate: (-aggregate.iqm.value, aggregate.label))[:1]
    return {cell.label for cell in (*best.values(), *raw.values())} | {aggregate.label for aggregate in first}


def _best(gathered: Gathered) -> Gathered:
    """Replace the runs' scores by those of their best evaluations."""
    runs = [
        replace(run, score=run.best, step=int(run.best.get("step") or run.step))
        for run in gathered.runs
        if run.best is not None
    ]
    lost = [
        LeftOut(run.name, "it does not know its best evaluation, only its last")
        for run in gathered.runs
        if not run.best
    ]
    if not runs:
        raise EvidenceError("None of the runs knows its best evaluation: tables hold the last one alone.")
    return replace(gathered, runs=tuple(runs), left_out=(*gathered.left_out, *lost))


def _cells(runs: Sequence[Run]) -> Cells:
    """Group runs by task and label, in order of appearance."""
    tasks = dict.fromkeys(run.task for run in runs)
    labels = dict.fromkeys(run.label for run in runs)
    every = {
        (task, label): [r for r in runs if (r.task, r.label) == (task, label)] for task in tasks for label in labels
    }
    return {key: runs_of_cell for key, runs_of_cell in every.items() if runs_of_cell}


def _table(cells: Cells, reps: int, seed: int) -> tuple[Cell, ...]:
    names = ("return", "normalized_return", "agreement")
    columns: list[list[float]] = []
    owners: list[int] = []
    place: dict[tuple[int, str], int] = {}
    for number, runs in enumerate(cells.values()):
        for name in names:
            values = [value for run in runs if (value := run.score.get(name)) is not None]
            if len(values) == len(runs):
                place[number, name] = len(columns)
                columns.append(values)
                owners.append(number)
    counts = [len(runs) for runs in cells.values()]
    estimates = statistics.column_estimates(statistics.pad_columns(columns), owners, counts, reps, seed)

    def row(number: int, task: str, label: str, runs: Sequence[Run]) -> Cell:
        mean, iqm = {}, {}
        for name in names:
            column = place.get((number, name))
            mean[name] = None if column is None else estimates["mean"].at(column, len(runs))
            iqm[name] = None if column is None else estimates["iqm"].at(column, len(runs))
        raw = columns[place[number, "return"]]
        assert mean["return"] is not None and iqm["return"] is not None  # every run has one, or it was left out
        return Cell(
            task=task,
            label=label,
            algorithm=runs[0].algorithm,
            budget=runs[0].budget,
            seeds=tuple(run.seed for run in runs),
            names=tuple(run.name for run in runs),
            mean=mean["return"],
            iqm=iqm["return"],
            deviation=statistics.deviation(raw),
            normalized_mean=mean["normalized_return"],
            normalized_iqm=iqm["normalized_return"],
            agreement=mean["agreement"],
            data_return=_first(run.data_return for run in runs),
            data_normalized=_first(run.data_normalized for run in runs),
            tuned_on="; ".join(dict.fromkeys(run.tuned_on for run in runs if run.tuned_on)) or None,
        )

    return tuple(row(number, task, label, runs) for number, ((task, label), runs) in enumerate(cells.items()))


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


def _few(rows: Sequence[Cell]) -> list[str]:
    """Note rows with too few runs for an interval or a claim."""
    notes = []
    single = [row for row in rows if row.runs < FEWEST]
    if single:
        names = _join_some([f"{row.label} on {row.task}" for row in single])
        notes.append(f"No interval is given where there is one run alone: {names}.")
    few = sum(row.runs < FEWEST_TO_CLAIM for row in rows)
    if few:
        notes.append(
            f"{few} of {len(rows)} rows have fewer than {FEWEST_TO_CLAIM} runs: no win is claimed for or against them, "
            "and their intervals are too narrow."
        )
    return notes


def _uneven(cells: Cells) -> list[str]:
    """Note labels without a curve although each of their runs has one."""
    steps = {key: [{row["step"] for row in run.curve} for run in runs] for key, runs in cells.items()}
    lost = [
        f"{label} on {task}"
        for (task, label), sets in steps.items()
        if max(map(len, sets)) > 1 and len(set.intersection(*sets)) < 2
    ]
    return [f"No curve is drawn where runs were not evaluated at the same updates: {_join_some(lost)}."] if lost else []


def _join_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return "; ".join(names[:MOST_NAMED]) + more


def _curves(cells: Cells, scale: Scale, reps: int, seed: int) -> list[Curve]:
    """Estimate curves over the steps that all runs of a cell evaluated, in batches that bound the memory."""
    curves = []
    ready: list[tuple[str, str, list[int], list[Mapping[int, float]]]] = []
    for (task, label), runs in cells.items():
        tables: list[Mapping[int, float]] = [
            {int(row["step"] or 0): value for row in run.curve if (value := row.get(scale)) is not None} for run in runs
        ]
        steps = sorted(set.intersection(*(set(table) for table in tables)))
        if len(steps) > 1:
            ready.append((task, label, steps, tables))
    while ready:
        part = [ready.pop(0)]
        while ready and sum(len(curve[2]) for curve in part) + len(ready[0][2]) <= POINTS:
            part.append(ready.pop(0))
        curves += _estimate_curves(part, scale, reps, seed)
    return curves


def _estimate_curves(
    part: Sequence[tuple[str, str, list[int], list[Mapping[int, float]]]], scale: Scale, reps: int, seed: int
) -> list[Curve]:
    columns = [[table[step] for table in tables] for _, _, steps, tables in part for step in steps]
    owners = [number for number, (_, _, steps, _) in enumerate(part) for _ in steps]
    counts = [len(tables) for _, _, _, tables in part]
    estimates = statistics.column_estimates(statistics.pad_columns(columns), owners, counts, reps, seed, ("iqm",))[
        "iqm"
    ]
    curves, begin = [], 0
    for task, label, steps, tables in part:
        end = begin + len(steps)
        several = len(tables) >= FEWEST
        low = tuple(estimates.low[begin:end].tolist()) if several else None
        high = tuple(estimates.high[begin:end].tolist()) if several else None
        iqm = tuple(estimates.value[begin:end].tolist())
        curves.append(Curve(task, label, scale, len(tables), tuple(steps), iqm, low, high))
        begin = end
    return curves
