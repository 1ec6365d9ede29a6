"""Comparisons of labels: aggregates and profiles over all tasks, and probabilities of improvement pair by pair."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import numpy as np

from offline_marl.report.gather.scores import Run
from offline_marl.report.statistics import statistics
from offline_marl.report.statistics.estimates import FEWEST, FEWEST_TO_CLAIM, Aggregate, Comparison, Estimate, Profile
from offline_marl.report.statistics.statistics import Floats, Ints

TAUS = 101
MOST_PAIRED = 30
"""Labels up to which all pairs are compared: their number grows quadratically."""
EVEN = 0.5
Cells = Mapping[tuple[str, str], Sequence[Run]]


def aggregate(cells: Cells, reps: int, seed: int) -> tuple[tuple[Aggregate, ...], list[str]]:
    """Aggregate each label over all tasks; none, and a note why, where labels lack a common set of cells."""
    why = _explain_inequality(cells)
    if why:
        return (), [f"Nothing is said over all tasks together: {why}."]
    tasks, labels = _tasks_and_labels(cells)
    flat, shape = _scores(cells)
    estimates = statistics.bootstrap(
        [shape[0]] * flat.shape[1],
        lambda numbers: _flatten_estimates(
            statistics.aggregates(statistics.take_runs(flat, numbers).reshape(*shape, -1))
        ),
        reps,
        seed,
    )

    def one(kind: int, label: int) -> Estimate:
        return estimates.at(kind * len(labels) + label, shape[0])

    return tuple(
        Aggregate(label, tuple(tasks), shape[0], *(one(kind, number) for kind in range(4)))
        for number, label in enumerate(labels)
    ), []


def profile(cells: Cells, reps: int, seed: int) -> tuple[Profile, ...]:
    """Compute performance profiles, the share of each label's runs above each normalised return.

    Only for cells that `aggregate` took.
    """
    _, labels = _tasks_and_labels(cells)
    flat, shape = _scores(cells)
    taus = np.linspace(min(0.0, float(np.floor(flat.min()))), max(100.0, float(np.ceil(flat.max()))), TAUS)
    estimates = statistics.bootstrap(
        [shape[0]] * flat.shape[1],
        lambda numbers: _flatten_estimates(
            statistics.profiles(statistics.take_runs(flat, numbers).reshape(*shape, -1), taus)
        ),
        reps,
        seed,
    )

    def band(ends: Floats, label: int) -> tuple[float, ...]:
        return tuple(ends[label * TAUS : (label + 1) * TAUS].tolist())

    several = shape[0] >= FEWEST
    return tuple(
        Profile(
            label,
            tuple(taus.tolist()),
            band(estimates.value, number),
            band(estimates.low, number) if several else None,
            band(estimates.high, number) if several else None,
        )
        for number, label in enumerate(labels)
    )


def compare(cells: Cells, reps: int, seed: int, leaders: Collection[str] | None = None) -> tuple[Comparison, ...]:
    """Compare every pair of labels, both ways: over the tasks that both have, and on each where there are several.

    Raw returns are compared, which within a task is the same as comparing normalised ones. With `leaders`, only pairs
    with one of these labels.
    """
    scopes, keys = _list_scopes(cells, leaders), list(cells)
    if not scopes:
        return ()
    singles = list(dict.fromkeys((task, one, other) for one, other, scope in scopes for task in scope))
    place = {single: number for number, single in enumerate(singles)}
    first = np.array([keys.index((task, one)) for task, one, _ in singles])
    second = np.array([keys.index((task, other)) for task, _, other in singles])
    members = np.array([place[task, one, other] for one, other, scope in scopes for task in scope])
    lengths = np.array([len(scope) for _, _, scope in scopes])
    starts = np.cumsum(lengths) - lengths
    scores = statistics.pad_columns([[float(run.score["return"] or 0.0) for run in runs] for runs in cells.values()])

    # Each pair is computed once per task; a scope over several tasks is the mean of a run of `members`, which
    # `reduceat` sums from each start to the next.
    def averaged(numbers: Ints) -> Floats:
        shares = statistics.improvements(statistics.take_runs(scores, numbers), first, second)
        means: Floats = np.add.reduceat(shares[members], starts, axis=0) / lengths[:, None]
        return means

    estimates = statistics.bootstrap([len(runs) for runs in cells.values()], averaged, reps, seed)
    made = []
    for number, (one, other, scope) in enumerate(scopes):
        fewest = [min(len(cells[task, label]) for task in scope) for label in (one, other)]
        there = estimates.at(number, min(fewest))
        made.append(_comparison(one, other, scope, fewest[0], fewest[1], there))
        made.append(_comparison(other, one, scope, fewest[1], fewest[0], _reverse(there)))
    return tuple(made)


def _list_scopes(cells: Cells, leaders: Collection[str] | None) -> list[tuple[str, str, tuple[str, ...]]]:
    """List pairs of labels and the tasks to average over: all that both have, and each alone if they are several."""
    tasks, labels = _tasks_and_labels(cells)
    scopes: list[tuple[str, str, tuple[str, ...]]] = []
    for one, other in combinations(labels, 2):
        if leaders is not None and not {one, other} & set(leaders):
            continue
        common = tuple(task for task in tasks if (task, one) in cells and (task, other) in cells)
        alone = [(task,) for task in common] if len(common) > 1 else []
        scopes += [(one, other, scope) for scope in ([common] if common else []) + alone]
    return scopes


def _comparison(
    label: str, other: str, tasks: tuple[str, ...], runs: int, others: int, probability: Estimate
) -> Comparison:
    enough = min(runs, others) >= FEWEST_TO_CLAIM
    wins = enough and probability.low is not None and probability.low > EVEN
    return Comparison(label, other, tasks, (runs, others), probability, wins)


def _reverse(there: Estimate) -> Estimate:
    if there.low is None or there.high is None:
        return Estimate(1 - there.value)
    return Estimate(1 - there.value, 1 - there.high, 1 - there.low)


def _flatten_estimates(estimates: Floats) -> Floats:
    """Reshape `[kind, label or tau, draw]` to `[estimate, draw]`."""
    return estimates.reshape(-1, estimates.shape[-1])


def _tasks_and_labels(cells: Cells) -> tuple[list[str], list[str]]:
    return list(dict.fromkeys(task for task, _ in cells)), list(dict.fromkeys(label for _, label in cells))


def _explain_inequality(cells: Cells) -> str:
    """Explain why labels cannot be averaged over tasks; empty if they can."""
    tasks, labels = _tasks_and_labels(cells)
    for task in tasks:
        for label in labels:
            if (task, label) not in cells:
                return f"{label} has no run on {task}"
    counts = {key: len(runs) for key, runs in cells.items()}
    if len(set(counts.values())) > 1:
        most, least = max(counts, key=lambda key: counts[key]), min(counts, key=lambda key: counts[key])
        return (
            f"numbers of runs differ, from {counts[least]} of {least[1]} on {least[0]} to {counts[most]} of {most[1]} "
            f"on {most[0]}"
        )
    for (task, label), runs in cells.items():
        if any(run.score.get("normalized_return") is None for run in runs):
            return f"returns of {label} on {task} are not normalised, and raw returns are never averaged over tasks"
    return ""


def _scores(cells: Cells) -> tuple[Floats, tuple[int, int, int]]:
    """Collect normalised returns `[run, task * label]`, and the shape `run task label` that they unfold to."""
    tasks, labels = _tasks_and_labels(cells)
    every = [cells[task, label] for task in tasks for label in labels]
    flat = statistics.pad_columns([[float(run.score["normalized_return"] or 0.0) for run in runs] for runs in every])
    return flat, (len(flat), len(tasks), len(labels))
