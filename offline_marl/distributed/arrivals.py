"""Time of an iteration: when the answers that have come determine all agents, with some learners late.

A learner that computes a agents answers after a * compute_s, drawn about that, and after the delay where it is late.
Cores are taken to be as many as learners: on fewer, real learners wait for one another, which this does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offline_marl.core.config import ConfigError
from offline_marl.distributed.coding import Code, Floats

ITERATIONS = 200
"""Iterations that a mean is taken over."""


@dataclass(frozen=True)
class Pace:
    """How fast learners are.

    Raises:
        ConfigError: A number is negative.
    """

    compute_s: float
    """Seconds for the gradients of one agent."""
    spread: float = 0.0
    """Deviation of the logarithm of a learner's time about its logarithm, drawn anew for each iteration."""
    overhead_s: float = 0.0
    """Seconds of every iteration beside the learners' work: sending, decoding, stepping the optimisers."""

    def __post_init__(self) -> None:
        """Refuse what is no time."""
        if min(self.compute_s, self.spread, self.overhead_s) < 0:
            raise ConfigError("Times of learners, and their spread, are not negative.")


def iteration_s(code: Code, arrivals: Sequence[float] | Floats) -> float:
    """Seconds until the answers that have come determine all agents.

    Args:
        code: Of the learners.
        arrivals: Seconds at which each learner answers.
    """
    times = np.asarray(arrivals, np.float64)
    order = np.argsort(times, kind="stable")
    fewest, most = code.agents, code.learners  # more rows never determine less: halving finds the first that do
    while fewest < most:
        middle = (fewest + most) // 2
        if code.decodable(order[:middle].tolist()):
            most = middle
        else:
            fewest = middle + 1
    return float(times[order[fewest - 1]])


def mean_iteration_s(
    code: Code, pace: Pace, late: int, delay_s: float, seed: int = 0, iterations: int = ITERATIONS
) -> float:
    """Mean seconds of an iteration with so many late learners, drawn anew for each.

    Raises:
        ConfigError: There are not so many learners.
    """
    if not 0 <= late <= code.learners:
        raise ConfigError(f"Of {code.learners} learners {late} cannot be late.")
    rng = np.random.default_rng(seed)
    alone = code.loads * pace.compute_s
    seconds = 0.0
    for _ in range(iterations):
        times = np.asarray(alone * np.exp(rng.normal(0.0, pace.spread, code.learners)), np.float64)
        times[rng.permutation(code.learners)[:late]] += delay_s
        seconds += iteration_s(code, times)
    return seconds / iterations + pace.overhead_s


def advice(codes: Sequence[Code], pace: Pace, late: int, delay_s: float, seed: int = 0) -> str:
    """Which of the codes is fastest with so many late learners, in a sentence with the seconds of each."""
    times = {code.name: mean_iteration_s(code, pace, late, delay_s, seed) for code in codes}
    ranked = sorted(times, key=times.__getitem__)
    listed = ", ".join(f"{name} {times[name]:.3g}" for name in ranked)
    return f"With {late} late by {delay_s:g} s take {ranked[0]} (seconds an iteration: {listed})."
