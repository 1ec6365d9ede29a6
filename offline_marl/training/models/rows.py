"""Rows that a world model is fitted on."""

from __future__ import annotations

from typing import Any, Literal

import torch

from offline_marl.core.types import Batch, Needs
from offline_marl.datasets.buffer import TransitionBuffer


class MemberSource:
    """Rows for the members of an ensemble, `[member, batch]`: each its own.

    Args:
        buffer: The transitions, on the training device.
        members: Members of the ensemble.
        batch_size: Rows of each member.
        generator: Draws the rows; on the buffer's device.
        sampling: `shuffle`: every member may see every row, each in its own order. `bootstrap`: every member
            sees only a fixed resample of the rows, as many as there are, drawn with replacement.
    """

    def __init__(
        self,
        buffer: TransitionBuffer,
        members: int,
        batch_size: int,
        generator: torch.Generator,
        sampling: Literal["shuffle", "bootstrap"] = "shuffle",
    ) -> None:
        self.buffer, self.members, self.batch_size = buffer, members, batch_size
        self.generator = generator
        shape = (members, len(buffer))
        self._resample = (
            torch.randint(len(buffer), shape, generator=generator, device=buffer.device)
            if sampling == "bootstrap"
            else None
        )

    def sample(self, needs: Needs) -> Batch:
        """The next batch."""
        index = self.buffer.draw(self.members * self.batch_size, self.generator)
        if self._resample is not None:
            index = self._resample.gather(1, index.view(self.members, -1)).flatten()
        rows = self.buffer.transitions(index)
        return rows.map(lambda value: value.unflatten(0, (self.members, self.batch_size)))

    def state_dict(self) -> dict[str, Any]:
        """The generator's state is the whole cursor: a resample is drawn again from the same seed."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the saved source stood."""
        self.generator.set_state(state["generator"].cpu())
