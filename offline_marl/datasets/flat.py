"""Index arithmetic on flat tensors of episodes, without a loop over them."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

Lengths = Annotated[Tensor, "episode"]
"""Int64 steps of each episode."""
Steps = Annotated[Tensor, "steps"]


def starts(lengths: Lengths) -> Annotated[Tensor, "episode"]:
    """The first transition of each episode."""
    return torch.cumsum(lengths, 0) - lengths


def ranges(first: Annotated[Tensor, "range"], counts: Annotated[Tensor, "range"]) -> Steps:
    """first[0], first[0] + 1, ... counts[0] of them, then the next range."""
    shifts = torch.repeat_interleave(first - starts(counts), counts)
    return torch.arange(len(shifts)) + shifts


def episode_numbers(lengths: Lengths) -> Steps:
    """The episode that each transition belongs to."""
    return torch.repeat_interleave(torch.arange(len(lengths)), lengths)


def episode_sums(values: Steps, lengths: Lengths) -> Annotated[Tensor, "episode"]:
    """Sum of each episode's values, in double precision."""
    sums = torch.zeros(len(lengths), dtype=torch.float64)
    return sums.index_add_(0, episode_numbers(lengths), values.double())
