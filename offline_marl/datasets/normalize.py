"""Statistics of the training data; they are kept with the checkpoint, inside the networks they serve."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from offline_marl.datasets.base import Dataset

LEAST_STD = 1e-3
"""Columns that hardly move (and padding, which never does) are divided by no less than this."""

PerAgentObs = Annotated[Tensor, "agent obs"]


def obs_statistics(data: Dataset) -> tuple[PerAgentObs, PerAgentObs]:
    """Mean and standard deviation of each agent's observations, in float32 from double-precision sums."""
    flat = data.obs.flatten(1)
    mean = flat.mean(0, dtype=torch.float64)
    spread = (flat - mean.to(flat.dtype)).square().mean(0, dtype=torch.float64)
    std = spread.sqrt().clamp(min=LEAST_STD).to(flat.dtype)
    shape = data.obs.shape[1:]
    return mean.to(flat.dtype).view(shape), std.view(shape)
