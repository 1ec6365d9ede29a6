"""Ring buffer of imagined transitions, whose newest rows overwrite its oldest."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from offline_marl.core.types import Batch


class TransitionRing:
    """Rows of batches, at most `capacity` of them, on the device of the first that is pushed.

    Args:
        capacity: Rows that are kept.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.pushed = 0
        """Rows ever pushed."""
        self._held: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """Rows that can be drawn."""
        return min(self.pushed, self.capacity)

    def push(self, batch: Batch) -> None:
        """Keep these rows; of more than fit, the last ones."""
        count, kept = len(batch), min(len(batch), self.capacity)
        first = self.pushed + count - kept
        for item in fields(Batch):
            value = getattr(batch, item.name)
            if item.name == "mask" and value is None and "mask" in self._held:
                value = torch.ones_like(batch.terminations)
            if value is None:
                continue
            if item.name not in self._held:  # rows before a mask came all counted
                self._held[item.name] = value.new_full((self.capacity, *value.shape[1:]), item.name == "mask")
            places = (first + torch.arange(kept, device=value.device)) % self.capacity
            self._held[item.name][places] = value[count - kept :]
        self.pushed += count

    def sample(self, rows: int, generator: torch.Generator) -> Batch:
        """Rows drawn uniformly with replacement; there must be one at least."""
        index = torch.randint(len(self), (rows,), generator=generator, device=generator.device)
        return Batch(**{name: value[index] for name, value in self._held.items()})

    def state_dict(self) -> dict[str, Any]:
        """All rows, and where the next goes."""
        return {"pushed": self.pushed, "held": dict(self._held)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str) -> None:
        """Hold what a saved ring held."""
        self.pushed = state["pushed"]
        self._held = {name: value.to(device) for name, value in state["held"].items()}
