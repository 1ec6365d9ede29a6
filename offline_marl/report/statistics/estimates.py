"""Results of statistics: plain values with intervals, in the shape that tables and pages show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from offline_marl.report.gather.scores import Gathered

Scale = Literal["return", "normalized_return"]
FEWEST = 2
"""Runs under which no interval is given."""
FEWEST_TO_CLAIM = 5
"""Runs on each task, on both sides, under which no win is claimed: the bootstrap of so few is far too sure."""
LAST = "last checkpoint at the declared budget"
BEST = "best of {} evaluations (chosen on the test environment)"


@dataclass(frozen=True)
class Estimate:
    """Point estimate with its 95 % interval."""

    value: float
    low: float | None = None
    """None where it is withheld: fewer than two runs."""
    high: float | None = None


@dataclass(frozen=True)
class Cell:
    """Statistics of one label on one task: a row of the table."""

    task: str
    label: str
    algorithm: str
    budget: int
    seeds: tuple[int, ...]
    """One per run, in the order of `names`."""
    names: tuple[str, ...]
    mean: Estimate
    """Of raw returns, over runs."""
    iqm: Estimate
    deviation: float | None
    """Standard deviation over runs (n - 1), as papers quote it; None of a single run."""
    normalized_mean: Estimate | None
    """Where 0 is random and 100 is expert; None where a run has no normalised return."""
    normalized_iqm: Estimate | None
    agreement: Estimate | None
    """Share of episodes in which the agents settled on one convention, mean over runs; None where there is none."""
    data_return: float | None
    """The data's own mean return."""
    data_normalized: float | None
    tuned_on: str | None
    """How the settings of some of its runs were chosen; None where nobody tuned."""

    @property
    def runs(self) -> int:
        """How many runs it averages."""
        return len(self.seeds)


@dataclass(frozen=True)
class Aggregate:
    """Statistics of one label over all tasks, in normalised returns (0 random, 100 expert)."""

    label: str
    tasks: tuple[str, ...]
    runs: int
    """On each task."""
    iqm: Estimate
    mean: Estimate
    median: Estimate
    """Over tasks, of their means."""
    optimality_gap: Estimate
    """Mean shortfall below 100, scores above it counting as 100: rliable's gap with gamma 1 on scores over 100."""


@dataclass(frozen=True)
class Profile:
    """Performance profile: share of a label's runs, over all tasks, with a normalised return above tau."""

    label: str
    taus: tuple[float, ...]
    fraction: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None


@dataclass(frozen=True)
class Comparison:
    """Probability of improvement, P(X > Y) + P(X = Y) / 2 for runs of two labels, averaged over tasks."""

    label: str
    other: str
    tasks: tuple[str, ...]
    """Over which; one, or all that both have."""
    runs: tuple[int, int]
    """Fewest runs on any of the tasks: of the label, of the other."""
    probability: Estimate
    """Ties count half."""
    wins: bool
    """Whether it may be claimed that the label is better: the interval's lower end is above a half, and both have at
    least five runs on each task."""


@dataclass(frozen=True)
class Curve:
    """Learning curve of one label on one task: the interquartile mean at each step that all its runs evaluated."""

    task: str
    label: str
    scale: Scale
    runs: int
    steps: tuple[int, ...]
    iqm: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None


@dataclass(frozen=True)
class Evidence:
    """Evidence of a report: the runs and all statistics of them."""

    gathered: Gathered
    scored: str
    """Which checkpoints: LAST, or BEST with its count; belongs beside every table."""
    reps: int
    """Bootstrap resamples behind every interval."""
    seed: int
    """Of the resampling; the same one gives the same intervals."""
    cells: tuple[Cell, ...]
    """By task, then label."""
    aggregates: tuple[Aggregate, ...]
    """Empty where labels differ in tasks or in their numbers of runs; a note says so."""
    profiles: tuple[Profile, ...]
    comparisons: tuple[Comparison, ...]
    """Both directions of every pair: over all common tasks, and on each task where there are several."""
    curves: tuple[Curve, ...]
    notes: tuple[str, ...] = ()
    """Those of `gathered`, and what statistics had to leave out and why."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """In order."""
        return tuple(dict.fromkeys(cell.task for cell in self.cells))

    @property
    def labels(self) -> tuple[str, ...]:
        """In order."""
        return tuple(dict.fromkeys(cell.label for cell in self.cells))
