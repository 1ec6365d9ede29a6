"""Scores of evaluation episodes: the mean return with its bootstrap interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.reference import Reference
from offline_marl.core.showing import html_table
from offline_marl.environments.base import Conventions

RESAMPLES = 10_000
"""Bootstrap resamples of an interval."""
BLOCK = 2**21
"""Returns that are drawn at once: their memory does not grow with the number of episodes."""


@dataclass(frozen=True)
class Score:
    """Returns of evaluation episodes with their mean, 95 % interval and normalised score."""

    returns: npt.NDArray[np.float64]
    """One per episode, averaged over agents."""
    low: float
    """Lower end of the mean's 95 % bootstrap interval."""
    high: float
    reference: Reference | None = None
    conventions: Conventions | None = None
    """What the agents settled on in each episode; None where there is nothing to agree on."""
    random_return: float | None = None
    """What uniform play returned, where it was measured."""
    other_versions: tuple[str, ...] | None = None
    """What played these episodes in another version than the training data; None where that cannot be told."""
    versions: Mapping[str, str] | None = None
    """All that the episodes depended on, the environment's id among it."""
    environment_steps: int | None = None
    """Steps that the policy has played to learn; None of one that learnt from recorded data alone."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def normalized(self) -> tuple[float, float, float] | None:
        """Mean, low and high on the scale where 0 is random and 100 is expert; None without references."""
        if self.reference is None:
            return None
        return tuple(self.reference.normalized(x) for x in (self.mean, self.low, self.high))  # type: ignore[return-value]

    def row(self) -> dict[str, Any]:
        """The figures by name, normalised ones None where there are no references."""
        mean, low, high = self.normalized or (None, None, None)
        agreement = {} if self.conventions is None else {"agreement": float(self.conventions.agreed.mean())}
        return {
            "return": self.mean,
            "return_low": self.low,
            "return_high": self.high,
            "normalized_return": mean,
            "normalized_low": low,
            "normalized_high": high,
            **agreement,
            **({} if self.random_return is None else {"random_return": self.random_return}),
            **({} if self.other_versions is None else {"versions_differ": bool(self.other_versions)}),
            **({} if self.environment_steps is None else {"online": True, "environment_steps": self.environment_steps}),
            "episodes": len(self.returns),
        }

    def __repr__(self) -> str:
        return f"Score({self})"

    def _repr_html_(self) -> str:
        hidden = set() if self._spreads else {"return_low", "return_high", "normalized_low", "normalized_high"}
        told = {name: value for name, value in self.row().items() if value is not None and name not in hidden}
        rows = {name.replace("_", " "): value for name, value in told.items()}
        return html_table(
            "Score", {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in rows.items()}
        )

    def __str__(self) -> str:
        agreed = "" if self.conventions is None else f", agreement {self.conventions.agreed.mean():.2f}"
        beside = "" if self.random_return is None else f", uniform play {self.random_return:.3f}"
        beside += ", other versions than the data's" if self.other_versions else ""
        if self.environment_steps is not None:
            beside += f", online: {self.environment_steps:,} environment steps"
        episodes = f"{len(self.returns)} episodes" if self._spreads else "1 episode"
        if self.normalized is None:
            return f"{self.raw}{agreed}, {episodes}{beside}"
        mean, low, high = self.normalized
        beside = f"{self.raw}, {episodes}{beside}"
        return f"normalized return {mean:.1f}{self._interval(low, high, 1)}{agreed} ({beside})"

    @property
    def raw(self) -> str:
        """The mean return as text, with its interval where there is one."""
        return f"return {self.mean:.3f}{self._interval(self.low, self.high, 3)}"

    @property
    def _spreads(self) -> bool:
        """Whether there is anything to resample: of one episode the interval would be its return alone."""
        return len(self.returns) > 1

    def _interval(self, low: float, high: float, digits: int) -> str:
        return f" [{low:.{digits}f}, {high:.{digits}f}]" if self._spreads else ""


def summarize(
    returns: npt.NDArray[np.float64], reference: Reference | None = None, conventions: Conventions | None = None
) -> Score:
    """Compute the mean and its 95 % percentile-bootstrap interval; the resampling is the same at each call."""
    draw, rows = np.random.default_rng(0), max(1, BLOCK // len(returns))
    means = [
        returns[draw.integers(len(returns), size=(min(rows, RESAMPLES - first), len(returns)))].mean(1)
        for first in range(0, RESAMPLES, rows)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Score(returns, float(low), float(high), reference, conventions)
