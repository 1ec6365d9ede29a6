"""Where batches come from. The loop never learns which source it drinks from."""

from __future__ import annotations

from typing import Any

import torch

from offline_marl.core.types import Batch, Needs
from offline_marl.datasets.buffer import TransitionBuffer


class DatasetSource:
    """Rows of a data set, drawn uniformly with replacement.

    Args:
        buffer: The transitions, on the training device.
        batch_size: Rows of a batch; segments of a batch if segments are asked for.
        generator: Draws the rows; on the buffer's device.
    """

    def __init__(self, buffer: TransitionBuffer, batch_size: int, generator: torch.Generator) -> None:
        self.buffer = buffer
        self.batch_size = batch_size
        self.generator = generator

    def sample(self, needs: Needs) -> Batch:
        """The next batch."""
        index = torch.randint(len(self.buffer), (self.batch_size,), generator=self.generator, device=self.buffer.device)
        return self.buffer.view(index, needs)

    def state_dict(self) -> dict[str, Any]:
        """The generator's state is the whole cursor."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the saved source stood."""
        self.generator.set_state(state["generator"].cpu())
