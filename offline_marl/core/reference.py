"""Returns of random play and of an expert, between which scores are normalised. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """Returns that normalised ones are measured against: 0 is `random`, 100 is `expert`."""

    random: float
    expert: float
    note: str = ""

    def normalized(self, value: float) -> float:
        """100 (x - random) / (expert - random)."""
        return 100.0 * (value - self.random) / (self.expert - self.random)


UNIFORM_RETURNS: Mapping[str, float] = {
    "ant": -56.18,
    "halfcheetah": -286.4,
    "hopper": 18.89,
    "humanoid": 114.8,
    "humanoidstandup": 33_638.0,
    "inverteddoublependulum": 47.21,
    "invertedpendulum": 5.11,
    "pusher": -149.2,
    "reacher": -42.83,
    "swimmer": 0.66,
    "walker2d": 1.78,
}
"""Mean return of uniform actions on each body as it is, over 500 episodes (humanoidstandup: 50), with gymnasium 1.4.0
and mujoco 4.0.0; `benchmarks/uniform.py` measures them."""
