"""Positive numbers that are learnt, such as temperatures and Lagrange multipliers."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor, nn

LARGEST = 1e6


class Multiplier(nn.Module):
    """exp of a parameter, so that steps keep it above 0; at most 1e6.

    Args:
        count: How many.
        start: What they begin with, above 0.
    """

    def __init__(self, count: int, start: float = 1.0) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.full((count,), math.log(start)))

    def forward(self) -> Annotated[Tensor, "count"]:
        """The numbers."""
        return self.log.exp().clamp(max=LARGEST)
