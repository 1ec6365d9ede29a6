"""Estimates with 95 % stratified-bootstrap intervals (Agarwal et al., 2021) from arrays of scores.

rliable resamples. The formulas are its own too, written for all columns and many draws at once: its way, one pair of
labels takes ten seconds, and tests hold ours to it, draw for draw. What it resamples here are the *numbers* of runs,
anew for each cell (one label on one task), so that whatever is computed of a run, its curve included, comes from the
same draws.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.errors import BadInputError
from offline_marl.report.statistics.estimates import FEWEST, Estimate

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Statistic = Callable[[Ints], Floats]
"""From run numbers `[run, cell, draw]` to estimates `[estimate, draw]`; rows past a cell's runs pick padding."""

LEVEL = 0.95
TRIM = 0.25
"""Share of scores that the interquartile mean drops at each end."""
EXPERT_RETURN = 100.0
"""The normalised return from which the optimality gap is measured: rliable's gamma of 1 on scores over 100."""
DRAWS_PER_CALL = 64
"""Draws that a statistic is given together: more of them leave the processor's cache, fewer pay for every call."""
SORTING_NETWORK_RUNS = 8
"""Runs up to which exchanging whole rows sorts faster than sorting each column."""


class MissingRliableError(BadInputError, ImportError):
    """rliable is not installed; the message says what to install."""


@dataclass(frozen=True)
class Estimates:
    """Arrays of estimates and the ends of their intervals."""

    value: Floats
    low: Floats
    high: Floats

    def at(self, number: int, runs: int) -> Estimate:
        """Select one estimate; its interval is withheld under two runs."""
        if runs < FEWEST:
            return Estimate(float(self.value[number]))
        return Estimate(float(self.value[number]), float(self.low[number]), float(self.high[number]))


def pad_columns(columns: Sequence[Sequence[float]]) -> Floats:
    """Pad columns of unequal length with NaN to `[run, column]`."""
    table = np.full((max(map(len, columns)), len(columns)), np.nan)
    for number, column in enumerate(columns):
        table[: len(column), number] = column
    return table


def bootstrap(runs: Sequence[int], statistic: Statistic, reps: int, seed: int) -> Estimates:
    """Compute estimates and their percentile intervals, resampling runs within each cell.

    Args:
        runs: How many each cell has.
        statistic: What to estimate.
        reps: Resamples.
        seed: The same one gives the same intervals.

    Raises:
        MissingRliableError: rliable is not installed.
    """
    _rliable()  # also where draws are kept: what is missing is told every time
    counts = tuple(int(count) for count in runs)
    reps = reps if max(counts) >= FEWEST else 1  # one run each is always drawn again
    plain = np.broadcast_to(np.arange(max(counts))[:, None, None], (max(counts), len(counts), 1))
    value = statistic(plain)[:, 0]
    drawn, resampled = _draws(counts, reps, seed), np.empty((len(value), reps))
    for begin in range(0, reps, DRAWS_PER_CALL):
        part = slice(begin, begin + DRAWS_PER_CALL)
        resampled[:, part] = statistic(drawn[:, :, part].astype(np.int64))
    tail = (1 - LEVEL) / 2
    low, high = np.percentile(resampled, [100 * tail, 100 * (1 - tail)], axis=1)
    return Estimates(value, low, high)


@lru_cache(maxsize=4)
def _draws(runs: tuple[int, ...], reps: int, seed: int) -> npt.NDArray[Any]:
    """Draw resampled run numbers `[run, cell, draw]` by rliable; cached, as a report asks for the same ones again."""
    # rliable takes one array a stratum, all of one shape: cells with the same number of runs form one. Its scores do
    # not matter (zeros), only the indices that it draws; rows past a cell's runs keep their number and pick padding.
    counts, most = np.asarray(runs), max(runs)
    cells = {int(count): np.flatnonzero(counts == count) for count in np.unique(counts)}
    numbers = np.empty((most, len(runs), reps), np.min_scalar_type(most))
    numbers[:] = np.arange(most)[:, None, None]
    scores = [np.zeros((count, len(where))) for count, where in cells.items()]
    with _numpy_seeded(seed):
        resampling = _rliable().StratifiedIndependentBootstrap(*scores)
        drawn = [resampling.update_indices()[0] for _ in range(reps)]
    for group, (count, where) in enumerate(cells.items()):
        numbers[:count, where] = np.stack([parts[group][0] for parts in drawn], axis=-1)
    numbers.flags.writeable = False
    return numbers


def take_runs(values: Floats, numbers: Ints, owners: Ints | None = None) -> Floats:
    """Take the values of resampled runs, `[run, column, draw]`.

    Args:
        values: `[run, column]`, NaN past a column's runs.
        numbers: Run numbers, `[run, cell, draw]`.
        owners: The cell of each column; by default column i is of cell i.
    """
    numbers = numbers[: len(values)]
    if owners is None:
        return np.asarray(np.take_along_axis(values[:, :, None], numbers, 0))
    taken = np.empty((len(values), values.shape[1], numbers.shape[2]))
    # Columns of one cell are taken as rows, which lie together in memory: ten times the speed of single values.
    for cell in np.unique(owners):
        where = np.flatnonzero(owners == cell)
        taken[:, where] = values[:, where].take(numbers[:, cell], 0).swapaxes(1, 2)
    return taken


def column_estimates(
    values: Floats,
    owners: Sequence[int],
    runs: Sequence[int],
    reps: int,
    seed: int,
    kinds: Sequence[str] = ("mean", "iqm"),
) -> dict[str, Estimates]:
    """Compute mean and interquartile mean of each column, with intervals.

    Args:
        values: `[run, column]`, NaN past a column's runs.
        owners: The cell of each column; columns of one cell are resampled together.
        runs: How many each cell has.
        reps: Resamples.
        seed: The same one gives the same intervals.
        kinds: Which of the two.
    """
    cells, count = np.asarray(owners), values.shape[1]
    formulas = {"mean": means, "iqm": interquartile_means}

    def estimated(numbers: Ints) -> Floats:
        drawn = take_runs(values, numbers, cells)
        return np.concatenate([formulas[kind](drawn) for kind in kinds])

    estimates = bootstrap(runs, estimated, reps, seed)
    parts = {kind: slice(place * count, (place + 1) * count) for place, kind in enumerate(kinds)}
    return {
        kind: Estimates(estimates.value[part], estimates.low[part], estimates.high[part])
        for kind, part in parts.items()
    }


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation over runs (n - 1); None of a single one."""
    return float(np.std(values, ddof=1)) if len(values) >= FEWEST else None


def means(values: Floats) -> Floats:
    """Mean over the first axis; NaN is padding."""
    there = ~np.isnan(values)
    if there.all():
        return np.asarray(values.sum(0) / len(values))
    total: Floats = np.where(there, values, 0.0).sum(0) / there.sum(0)
    return total


def interquartile_means(values: Floats) -> Floats:
    """Mean of the middle half over the first axis, scipy's `trim_mean(x, .25)`; NaN is padding."""
    there = ~np.isnan(values)
    if there.all():
        outside = int(TRIM * len(values))
        inside = _sort_rows(values)[outside : len(values) - outside]
        return np.asarray(sum(inside[1:], inside[0]) / len(inside))
    ordered = np.sort(values, axis=0)  # padding goes last
    count = there.sum(0)
    cut = (TRIM * count).astype(np.int64)
    row = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
    middle = (row >= cut) & (row < count - cut)
    result: Floats = np.where(middle, ordered, 0.0).sum(0) / middle.sum(0)
    return result


def _sort_rows(values: Floats) -> Sequence[Floats]:
    """Sort along the first axis; without NaN.

    Few rows pass an odd-even transposition network: n rounds of minimum and maximum of whole neighbouring rows.
    """
    if len(values) > SORTING_NETWORK_RUNS:
        return list(np.sort(values, axis=0))
    rows = list(values)
    for start in range(len(rows)):
        for upper in range(1 + start % 2, len(rows), 2):
            one, other = rows[upper - 1], rows[upper]
            rows[upper - 1], rows[upper] = np.minimum(one, other), np.maximum(one, other)
    return rows


def gaps(values: Floats) -> Floats:
    """Mean shortfall below TOP over the first axis; what lies above counts as TOP."""
    return EXPERT_RETURN - means(np.minimum(values, EXPERT_RETURN))


def aggregates(scores: Floats) -> Floats:
    """IQM, mean, median and optimality gap of normalised returns, nothing padded.

    Args:
        scores: `[run, task, ...]`, such as label, or label and draw.

    Returns:
        `[4, ...]`.
    """
    flat = scores.reshape(-1, *scores.shape[2:])
    by_task = scores.mean(0)
    return np.stack([interquartile_means(flat), by_task.mean(0), np.median(by_task, axis=0), gaps(flat)])


def profiles(scores: Floats, taus: Floats) -> Floats:
    """Share of scores above each tau, `[label, tau, draw]`, of `[run, task, label, draw]`; taus rise.

    Each score is counted in the bin of the number of taus below it; the cumulated bins are the shares at or below.
    """
    labels, draws, kinds = scores.shape[2], scores.shape[3], len(taus) + 1
    passed = np.searchsorted(taus, scores.reshape(-1, labels, draws), side="left")  # how many taus each is above
    place = (np.arange(labels)[:, None] * kinds + passed) * draws + np.arange(draws)
    counts = np.bincount(place.ravel(), minlength=labels * kinds * draws).reshape(labels, kinds, draws)
    share: Floats = 1.0 - counts.cumsum(1)[:, :-1] / len(passed)
    return share


def improvements(scores: Floats, first: Ints, second: Ints) -> Floats:
    """Share of pairs of runs in which a cell's run beats another cell's, ties counted half (Mann-Whitney's U).

    Args:
        scores: `[run, cell, ...]`, NaN past a cell's runs.
        first: Cells of the one side.
        second: Cells of the other.

    Returns:
        `[pair, ...]`.
    """
    count = (~np.isnan(scores)).sum(0)
    other, won = scores[:, second], np.zeros(scores[0, first].shape)
    for one in scores[:, first]:
        won += (one > other).sum(0) + 0.5 * (one == other).sum(0)
    share: Floats = won / (count[first] * count[second])
    return share


@contextlib.contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Seed numpy's own generator: rliable draws from it whatever `random_state` it is given."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def _rliable() -> Any:
    try:
        # Its absl keeps the stream of this moment for its log and closes it later, unless it is the process's own.
        with contextlib.redirect_stderr(sys.__stderr__ or sys.stderr):
            from rliable import library
    except (ImportError, TypeError):  # TypeError: an arch that does not import beside a newer pandas
        raise MissingRliableError(
            "Intervals need rliable, which is not installed or does not import: pip install 'offline-marl[report]'."
        ) from None
    return library
