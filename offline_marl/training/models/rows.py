"""Sources of the rows that a world model is fitted on."""

from __future__ import annotations

from typing import Any, Literal

import torch

from offline_marl.core.types import Batch, Needs
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.worldmodels.base import WorldModel
from offline_marl.worldmodels.ensemble_model import EnsembleModel


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

    def sample(self, needs: Needs) -> Batch:
        """The next batch."""
        return self.buffer.view(self.buffer.draw(self.batch_size, self.generator, needs), needs)

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
        index = self.buffer.draw(self.members * self.batch_size, self.generator, needs)
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
