"""Statistics of the training data; they are kept with the checkpoint, inside the networks they serve."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.flat import starts

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


def scale_rewards(data: Dataset, scale: float | str) -> Dataset:
    """The data with rewards multiplied by `reward_factor`."""
    factor = reward_factor(data, scale)
    return data if factor == 1.0 else replace(data, rewards=data.rewards * factor)


def reward_factor(data: Dataset, scale: float | str) -> float:
    """What `scale` says that rewards are multiplied by; `range` is 1000 / (best return - worst return).

    The latter is the rule of MOMA-PPO's code for ant, halfcheetah and walker2d.

    Raises:
        DataError: All episodes return the same, so that there is no range.
    """
    if scale == "range":
        returns = data.returns()
        spread = float(returns.max() - returns.min())
        if spread <= 0:
            raise DataError("reward_scale = range needs episodes of different returns; here all return the same.")
        return 1000.0 / spread
    return float(scale)


def best_values(data: Dataset, gamma: float) -> tuple[Annotated[Tensor, "agent"], Tensor]:
    """The largest discounted return-to-go in the data: of each agent, and of the mean over agents."""
    rewards = torch.cat([data.rewards, data.rewards.mean(-1, keepdim=True)], dim=-1)
    first = starts(data.lengths)
    ahead = torch.zeros(len(first), rewards.shape[1])
    best = torch.full((rewards.shape[1],), -torch.inf)
    for step in reversed(range(int(data.lengths.max()))):
        inside = (step < data.lengths).unsqueeze(-1)
        now = rewards[first + torch.minimum(torch.tensor(step), data.lengths - 1)]
        ahead = torch.where(inside, now + gamma * ahead, ahead)
        best = torch.maximum(best, torch.where(inside, ahead, -torch.inf).amax(0))
    return best[:-1], best[-1]
