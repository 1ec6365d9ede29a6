"""Statistics of the training data's observations; they are kept with the checkpoint, inside the networks they serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from offline_marl.datasets.arrays.presence import rows_seen
from offline_marl.datasets.base import ROWS_AT_ONCE, Dataset
from offline_marl.datasets.columns import Columns
from offline_marl.datasets.episode_index import starts

LEAST_STD = 1e-3
"""Columns that hardly move (and padding, which never does) are divided by no less than this."""

PerAgentObs = Annotated[Tensor, "agent obs"]


def obs_statistics(data: Dataset, growing: bool = False) -> tuple[PerAgentObs, PerAgentObs]:
    """Mean and standard deviation of each agent's observations, in float32 from double-precision sums.

    Over what was seen by agents that are there: last rows that only repeat the row before are left out.

    Args:
        data: The episodes.
        growing: Whether these are the first of many. Then what hardly moves has a deviation of 1: it may move later.
    """
    mean, std = _statistics(data)
    if growing:
        std = std.masked_fill((std <= LEAST_STD) & data.spec.present("obs"), 1.0)
    return mean, std.clamp(min=LEAST_STD)


def _statistics(data: Dataset) -> tuple[PerAgentObs, PerAgentObs]:
    if isinstance(data.obs, Columns):
        # Of the table's columns, which are fewer than all agents' together.
        columns = _moments(data.obs.table, rows_seen(data))
        mean, std = (data.obs.share(moment.unsqueeze(0))[0] for moment in columns)
        return mean, std
    mean, std = _moments(data.obs, rows_seen(data))
    return mean.view(data.obs.shape[1:]), std.view(data.obs.shape[1:])


def _moments(table: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each column, in pieces, because the table may be larger than memory.

    Args:
        table: `rows ...`.
        counted: Bool, rows that count, or rows and agents; None for all.
    """
    zero = torch.zeros(table[0].numel(), dtype=torch.float64)
    pieces = [slice(first, first + ROWS_AT_ONCE) for first in range(0, len(table), ROWS_AT_ONCE)]
    if counted is None:
        whole: Tensor | int = len(table)
    else:
        rows = counted.sum(0).clamp(min=1)
        whole = rows.repeat_interleave(table.shape[-1]) if counted.dim() > 1 else rows

    def average(of: Callable[[Tensor], Tensor]) -> Tensor:
        return sum((summed(of, piece) for piece in pieces), zero) / whole

    def summed(of: Callable[[Tensor], Tensor], piece: slice) -> Tensor:
        values = of(table[piece].flatten(1))
        if counted is not None:
            there = counted[piece].unsqueeze(-1)
            values = values * (there.expand(table[piece].shape).flatten(1) if counted.dim() > 1 else there)
        return values.sum(0, dtype=torch.float64)

    mean = average(lambda piece: piece).float()
    return mean, average(lambda piece: (piece - mean).square()).sqrt().float()


def best_values(data: Dataset, gamma: float) -> tuple[Annotated[Tensor, "agent"], Tensor]:
    """The largest discounted return-to-go in the data: of each agent, and of the mean over agents."""
    first, columns = starts(data.lengths), data.rewards.shape[1] + 1
    ahead = torch.zeros(len(first), columns)
    best = torch.full((columns,), -torch.inf)
    for step in reversed(range(int(data.lengths.max()))):
        inside = (step < data.lengths).unsqueeze(-1)
        places = first + torch.minimum(torch.tensor(step), data.lengths - 1)
        rewards = data.rewards[places]
        now = torch.cat([rewards, rewards.mean(-1, keepdim=True)], dim=-1)
        if data.mask is not None:  # what an absent agent could still earn is no value of its
            inside = torch.cat([inside & data.mask[places], inside], dim=-1)
        ahead = torch.where(inside, now + gamma * ahead, ahead)
        best = torch.maximum(best, torch.where(inside, ahead, -torch.inf).amax(0))
    return best[:-1], best[-1]
