"""Returns of random play and of an expert, between which scores are normalised. Imports no torch."""

from __future__ import annotations

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
