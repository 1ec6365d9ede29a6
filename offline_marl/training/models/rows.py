"""Sources of the rows that a world model is fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from offline_marl.core.types import Batch, Needs
from offline_marl.datasets.buffer import Rows, TransitionBuffer
from offline_marl.datasets.episode_ring import EpisodeRing
from offline_marl.worldmodels.base import WorldModel
from offline_marl.worldmodels.ensemble_model import EnsembleModel


class Visits:
    """How often each step of a replay was drawn, and draws of the seldom drawn ones first.

    Args:
        temperature: Of the odds exp(-times drawn / temperature).
        device: Where the replay lies.
    """

    def __init__(self, temperature: float, device: torch.device) -> None:
        self.temperature = temperature
        self.times = torch.zeros(0, device=device)
        self.first = torch.zeros(0, dtype=torch.int64, device=device)
        self.oldest = 0

    def follow(self, ring: EpisodeRing) -> None:
        """Take up the steps that have come to the replay, and drop those that have left it."""
        left = min(ring.oldest - self.oldest, len(self.first))
        gone = len(self.times) if left == len(self.first) else int(self.first[left])
        new = len(ring) - (len(self.times) - gone)
        self.times = torch.cat([self.times[gone:], self.times.new_zeros(new)])
        self.first, self.oldest = ring.first, ring.oldest

    def draw(self, count: int, generator: torch.Generator) -> Rows:
        """Positions, with replacement."""
        odds = torch.softmax(-self.times.double() / self.temperature, 0).cumsum(0)
        lots = torch.rand(count, generator=generator, device=odds.device, dtype=torch.float64) * odds[-1]
        index = torch.searchsorted(odds, lots, right=True).clamp(max=len(odds) - 1)
        self.times.index_add_(0, index, torch.ones_like(index, dtype=self.times.dtype))
        return index

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"times": self.times, "first": self.first, "oldest": self.oldest}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on exactly where the saved one stood."""
        self.times, self.first = state["times"].to(device), state["first"].to(device)
        self.oldest = state["oldest"]


class RowSource:
    """Rows or segments of a buffer, as the model needs them, drawn uniformly with replacement.

    Args:
        buffer: The transitions, on the training device.
        batch_size: Rows of a batch.
        generator: Draws the rows; on the buffer's device.
    """

    def __init__(self, buffer: TransitionBuffer, batch_size: int, generator: torch.Generator) -> None:
        self.buffer, self.batch_size = buffer, batch_size
        self.generator = generator
        self.visits: Visits | None = None
        """Draws in place of the buffer, where seldom drawn steps come first."""

    def draw(self, count: int, needs: Needs) -> Rows:
        """Positions of the next batch."""
        if self.visits is not None:
            return self.visits.draw(count, self.generator)
        return self.buffer.draw(count, self.generator, needs)

    def sample(self, needs: Needs) -> Batch:
        """The next batch."""
        return self.buffer.view(self.draw(self.batch_size, needs), needs)

    def state_dict(self) -> dict[str, Any]:
        """The generator's state is the whole cursor."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the saved source stood."""
        self.generator.set_state(state["generator"].cpu())


class MemberSource(RowSource):
    """Rows for the members of an ensemble, `[member, batch]`: each its own.

    Args:
        buffer: The transitions, on the training device.
        members: Members of the ensemble.
        batch_size: Rows of each member.
        generator: Draws the rows; on the buffer's device.
        sampling: `uniform`: each batch of a member is its own draw, with replacement, from all rows. `bootstrap`:
            from a fixed resample of the rows, as many as there are, drawn with replacement.
    """

    def __init__(
        self,
        buffer: TransitionBuffer,
        members: int,
        batch_size: int,
        generator: torch.Generator,
        sampling: Literal["uniform", "bootstrap"] = "uniform",
    ) -> None:
        super().__init__(buffer, batch_size, generator)
        self.members = members
        shape = (members, len(buffer))
        self._resample = (
            torch.randint(len(buffer), shape, generator=generator, device=buffer.device)
            if sampling == "bootstrap"
            else None
        )

    def sample(self, needs: Needs) -> Batch:
        """The next batch."""
        index = self.draw(self.members * self.batch_size, needs)
        if self._resample is not None:
            index = self._resample.gather(1, index.view(self.members, -1)).flatten()
        rows = self.buffer.view(index, needs)
        return rows.map(lambda value: value.unflatten(0, (self.members, self.batch_size)))

    def state_dict(self) -> dict[str, Any]:
        """The generator's state is the whole cursor: a resample is drawn again from the same seed."""
        return super().state_dict()


def members_of(model: WorldModel) -> int:
    """Parts of a model with a held-out error each: its members, or the whole of a kind that has none."""
    return model.members


def source_for(model: WorldModel, buffer: TransitionBuffer, generator: torch.Generator) -> RowSource:
    """The source that a model's `update` is fed from: rows of their own for members, else what the model needs."""
    if isinstance(model, EnsembleModel):
        return MemberSource(buffer, model.members, model.batch_size, generator, model.config.sampling)
    return RowSource(buffer, model.batch_size, generator)
