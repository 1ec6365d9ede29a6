"""Load, straggler tolerance, decodability and conditioning of a code, exact for few rows and sampled for many."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
import numpy.typing as npt

from offline_marl.distributed.coding import Code
from offline_marl.distributed.schemes import Table, row_sets

MOST_SETS = 20_000
"""Sets of rows that are looked at one by one; of more, so many are drawn."""

MANY_LEARNERS = 64
"""Learners beyond which a twentieth of these is drawn, so that hundreds take seconds."""

CONDITION_SETS = 1_000
"""Sets of M rows whose systems' condition is taken."""


@dataclass(frozen=True)
class Decodability:
    """Share of the sets of lost learners after which every agent is still known."""

    lost: int
    """Learners whose messages are missing."""
    share: float
    """Of the sets of so many, each as likely as any other."""
    exact: bool
    """Whether all sets were looked at, or some were drawn."""


@dataclass(frozen=True)
class Measures:
    """Price and worth of a code."""

    mean_load: float
    """Agents that a learner computes, in the mean."""
    most_load: int
    """Agents of the busiest learner, which decides the time of an iteration without stragglers."""
    updates: float
    """Agents computed by all learners together, over the number of agents."""
    tolerance: int
    """Learners that may be lost, whichever they are."""
    tolerance_exact: bool
    """Whether more may not; if not, one set of one more was not found among those drawn."""
    median_condition: float
    """Of the systems left to solve from M rows that span all agents."""
    most_condition: float
    """The worst of these systems, among those looked at."""


def decodability(code: Code, lost: int, seed: int = 0, most_sets: int = MOST_SETS) -> Decodability:
    """The share of sets of `lost` learners that may be missing."""
    kept = code.learners - lost
    if kept < code.agents:
        return Decodability(lost, 0.0, True)
    if code.learners > MANY_LEARNERS:
        most_sets = max(most_sets // 20, 1)
    sets = row_sets(code.learners, kept, most_sets, np.random.default_rng(seed))
    exact = comb(code.learners, kept) <= most_sets
    return Decodability(lost, float(_decodable(code, sets).mean()), exact)


def measures(code: Code, seed: int = 0, most_sets: int = MOST_SETS) -> Measures:
    """What a code costs and what it bears."""
    loads = code.loads
    # Who bears some losses bears fewer, so halving finds the most; losing all learners of an agent loses it.
    holders = int((code.matrix != 0).sum(0).min())
    tolerance, exact, too_many = 0, True, min(code.learners - code.agents + 1, holders)
    while too_many - tolerance > 1:
        middle = (tolerance + too_many) // 2
        found = decodability(code, middle, seed, most_sets)
        if found.share < 1.0:
            too_many = middle
        else:
            tolerance, exact = middle, found.exact
    sets = row_sets(code.learners, code.agents, CONDITION_SETS, np.random.default_rng(seed))
    spanning = sets[np.linalg.matrix_rank(code.matrix[sets]) == code.agents]
    conditions = [code.condition(rows) for rows in spanning.tolist()] or [float("nan")]
    return Measures(
        mean_load=float(loads.mean()),
        most_load=int(loads.max()),
        updates=float(loads.sum()) / code.agents,
        tolerance=tolerance,
        tolerance_exact=exact,
        median_condition=float(np.median(conditions)),
        most_condition=float(np.max(conditions)),
    )


def _decodable(code: Code, sets: Table) -> npt.NDArray[np.bool_]:
    systems = code.matrix[sets]
    fine: npt.NDArray[np.bool_] = np.linalg.matrix_rank(systems) == code.agents
    # Only where the whole system is badly conditioned need the peeled one be looked at, set by set.
    for index in np.flatnonzero(fine & ~(np.linalg.cond(systems) <= code.most_condition)):
        fine[index] = code.decodable(sets[index].tolist())
    return fine
