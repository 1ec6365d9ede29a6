"""Base of algorithms whose update descends losses that are all taken at the same parameters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field

from torch import Tensor

from offline_marl.algorithms.base import Algorithm
from offline_marl.core.types import Batch, Metrics


@dataclass(slots=True)
class Terms:
    """Losses of one update by the optimiser that descends each, and its metrics."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)


class DescentAlgorithm(Algorithm):
    """Algorithm that writes `losses`; steps and targets come after them, so that losses can be compiled apart."""

    @abstractmethod
    def losses(self, batch: Batch) -> Terms:
        """What each optimiser descends, without taking a step."""

    def form(self) -> Hashable:
        """Which losses the next update has, of learners that do not descend the same ones each time."""
        return None

    def update(self, batch: Batch) -> Metrics:
        """One step of every network, then of the targets."""
        terms = self.losses(batch)
        for name, loss in terms.losses.items():
            self.descend(loss, name)
        return self.conclude(terms.metrics)

    def conclude(self, metrics: Metrics) -> Metrics:
        """Move targets after the optimisers' step; returns the metrics of the update."""
        self.update_targets(self.config.tau)
        return metrics
