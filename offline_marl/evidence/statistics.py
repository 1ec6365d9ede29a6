"""From arrays of scores to estimates with 95 % stratified-bootstrap intervals (Agarwal et al., 2021).

rliable resamples. The formulas are its own too, written for all columns at once: its way, one pair of labels takes ten
seconds, and tests hold ours to it. What it resamples here are the *numbers* of runs, anew for each cell (one label on
one task), so that whatever is computed of a run, its curve included, comes from the same draws.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.errors import BadInputError
from offline_marl.evidence.estimates import FEWEST, Estimate

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Statistic = Callable[[Ints], Floats]
"""From run numbers `[run, cell]` to estimates `[estimate]`; rows past a cell's runs count up, and pick padding."""

LEVEL = 0.95
CUT = 0.25
"""Share of scores that the interquartile mean drops at each end."""
TOP = 100.0
"""The normalised return from which the optimality gap is measured: rliable's gamma of 1 on scores over 100."""


class MissingRliableError(BadInputError, ImportError):
    """rliable is not installed; the message says what to install."""


@dataclass(frozen=True)
class Estimates:
    """Many estimates of one kind, and the ends of their intervals."""

    value: Floats
    low: Floats
    high: Floats

    def at(self, number: int, runs: int) -> Estimate:
        """One of them; its interval is withheld under two runs."""
        if runs < FEWEST:
            return Estimate(float(self.value[number]))
        return Estimate(float(self.value[number]), float(self.low[number]), float(self.high[number]))


def padded(columns: Sequence[Sequence[float]]) -> Floats:
    """Columns of unequal length as `[run, column]`, NaN where a column has ended."""
    table = np.full((max(map(len, columns)), len(columns)), np.nan)
    for number, column in enumerate(columns):
        table[: len(column), number] = column
    return table


def bootstrap(runs: Sequence[int], statistic: Statistic, reps: int, seed: int) -> Estimates:
    """Estimates and their percentile intervals, runs resampled within each cell.

    Args:
        runs: How many each cell has.
        statistic: What to estimate.
        reps: Resamples.
        seed: The same one gives the same intervals.

    Raises:
        MissingRliableError: rliable is not installed.
    """
    rliable = _rliable()
    counts = np.asarray(runs)
    most = int(counts.max())
    columns = {int(count): np.flatnonzero(counts == count) for count in np.unique(counts)}
    plain = np.tile(np.arange(most)[:, None], (1, len(counts)))

    def of(*drawn: Ints) -> Floats:
        numbers = plain.copy()
        for (count, where), part in zip(columns.items(), drawn, strict=True):
            numbers[:count, where] = part
        return statistic(numbers)

    held = [plain[:count, where] for count, where in columns.items()]
    with _numpy_seeded(seed):
        value, ends = rliable.get_interval_estimates({"": held}, of, reps=reps, confidence_interval_size=LEVEL)
    return Estimates(value[""], *ends[""])


def picked(values: Floats, numbers: Ints, owners: Ints | None = None) -> Floats:
    """The values `[run, column]` of resampled runs.

    Args:
        values: NaN past a column's runs.
        numbers: Run numbers, `[run, cell]`.
        owners: The cell of each column; by default column i is of cell i.
    """
    chosen = numbers if owners is None else numbers[:, owners]
    found: Floats = np.take_along_axis(values, chosen[: len(values)], 0)
    return found


def column_estimates(
    values: Floats, owners: Sequence[int], runs: Sequence[int], reps: int, seed: int
) -> dict[str, Estimates]:
    """Mean and interquartile mean of each column, with intervals.

    Args:
        values: `[run, column]`, NaN past a column's runs.
        owners: The cell of each column; columns of one cell are resampled together.
        runs: How many each cell has.
        reps: Resamples.
        seed: The same one gives the same intervals.
    """
    cells, count = np.asarray(owners), values.shape[1]

    def both(numbers: Ints) -> Floats:
        drawn = picked(values, numbers, cells)
        return np.concatenate([means(drawn), interquartile_means(drawn)])

    found = bootstrap(runs, both, reps, seed)
    halves = {"mean": slice(0, count), "iqm": slice(count, None)}
    return {name: Estimates(found.value[half], found.low[half], found.high[half]) for name, half in halves.items()}


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation over runs (n - 1); None of a single one."""
    return float(np.std(values, ddof=1)) if len(values) >= FEWEST else None


def means(values: Floats) -> Floats:
    """Mean of each column; NaN is padding."""
    there = ~np.isnan(values)
    total: Floats = np.where(there, values, 0.0).sum(0) / there.sum(0)
    return total


def interquartile_means(values: Floats) -> Floats:
    """Mean of the middle half of each column, scipy's `trim_mean(x, .25)`; NaN is padding."""
    ordered = np.sort(values, axis=0)  # padding goes last
    count = (~np.isnan(values)).sum(0)
    cut = (CUT * count).astype(np.int64)
    row = np.arange(len(values))[:, None]
    middle = (row >= cut) & (row < count - cut)
    result: Floats = np.where(middle, ordered, 0.0).sum(0) / middle.sum(0)
    return result


def gaps(values: Floats) -> Floats:
    """Mean shortfall of each column below TOP; what lies above counts as TOP."""
    return TOP - means(np.minimum(values, TOP))


def aggregates(scores: Floats) -> Floats:
    """IQM, mean, median and optimality gap `[4, label]` of normalised returns `[run, task, label]`, nothing padded."""
    flat = scores.reshape(-1, scores.shape[2])
    by_task = scores.mean(0)
    return np.stack([interquartile_means(flat), by_task.mean(0), np.median(by_task, axis=0), gaps(flat)])


def profiles(scores: Floats, taus: Floats) -> Floats:
    """Share of scores above each tau, `[label, tau]`, of `[run, task, label]`."""
    flat = np.sort(scores.reshape(-1, scores.shape[2]), axis=0)
    below = np.stack([np.searchsorted(column, taus, side="right") for column in flat.T])
    share: Floats = 1.0 - below / len(flat)
    return share


def improvements(scores: Floats, first: Ints, second: Ints) -> Floats:
    """Share of pairs of runs in which a cell's run beats another cell's, ties counted half (Mann-Whitney's U).

    Args:
        scores: `[run, cell]`, NaN past a cell's runs.
        first: Cells of the one side.
        second: Cells of the other.
    """
    count = (~np.isnan(scores)).sum(0)
    one, other = scores[:, None, first], scores[None, :, second]
    won = (one > other).sum((0, 1)) + 0.5 * (one == other).sum((0, 1))
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
