"""Reward networks: an ensemble that says what steps are worth, alone or by what came before them."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from offline_marl.networks.ensembles import StackedMLP
from offline_marl.networks.recurrent import StackedGRU


class RewardNetwork(nn.Module):
    """r(o, a, i) of every member, or of what came before too.

    Args:
        members: How many.
        features: Width of what a step shows.
        hidden: Widths of the hidden layers.
        recurrent: Whether a state is carried from step to step.
        layer_norm: Whether hidden layers are normalised.
    """

    def __init__(
        self, members: int, features: int, hidden: tuple[int, ...], recurrent: bool, layer_norm: bool = False
    ) -> None:
        super().__init__()
        if recurrent:
            self.encoder = StackedMLP(members, features, hidden[:-1], hidden[-1], layer_norm=layer_norm)
            self.unit = StackedGRU(members, hidden[-1], hidden[-1])
            self.head = StackedMLP(members, hidden[-1], hidden[-1:], 1, layer_norm=layer_norm)
        else:
            self.head = StackedMLP(members, features, hidden, 1, layer_norm=layer_norm)

    def forward(
        self,
        steps: Annotated[Tensor, "member row time feature"],
        away: Annotated[Tensor, "*member row time"],
        state: Annotated[Tensor, "member row width"] | None = None,
    ) -> Annotated[Tensor, "member row time"]:
        """Rewards of all steps; those of who is away leave the state as it is."""
        members, rows, time, _ = steps.shape
        if hasattr(self, "unit"):
            seen = torch.relu(self.encoder(steps.flatten(1, 2))).view(members, rows, time, -1)
            steps, _ = self.unit(seen, state, skip=away)
        out: Tensor = self.head(steps.flatten(1, 2))
        return out.view(members, rows, time)

    def warm(self, steps: Tensor, away: Tensor) -> Annotated[Tensor, "member row width"]:
        """The state after these steps, from none."""
        members, rows, time, _ = steps.shape
        seen = torch.relu(self.encoder(steps.flatten(1, 2))).view(members, rows, time, -1)
        state: Tensor = self.unit.last(seen, skip=away)
        return state
