"""Novelty of what is seen: the distance to the k-th nearest of all that was visited, an estimate of state entropy.

    r = log(1 + |x - x_k|), x = (s - mean) / deviation, of the visited states

Both the visited states and those that are asked about are standardised by the statistics of the former (whitening).
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

Points = Annotated[Tensor, "point feature"]
PerQuery = Annotated[Tensor, "query"]

SMALL = 1e-6
"""A feature that deviates less is the same everywhere, and counts for nothing."""
DISTANCES_AT_ONCE = 1 << 24


def whitening(points: Points) -> tuple[Annotated[Tensor, "feature"], Annotated[Tensor, "feature"]]:
    """Mean and reciprocal deviation of each feature; 0 for one that is constant."""
    mean, std = points.mean(0), points.std(0, correction=0)
    return mean, torch.where(std > SMALL, std.clamp(min=SMALL).reciprocal(), 0.0)


def kth_distance(queries: Points, points: Points, neighbours: int, visited: bool) -> PerQuery:
    """Distance to the k-th nearest point; the farthest where there are fewer.

    Args:
        queries: Whose neighbours are looked for, standardised as the points are.
        points: All that was visited.
        neighbours: k, from 1 on.
        visited: Whether the queries are among the points: each is then no neighbour of itself.
    """
    rank = min(neighbours + visited, len(points))
    several = max(DISTANCES_AT_ONCE // len(points), 1)
    # Not the smallest but the rank-th smallest: a query that is among the points is at distance 0 of itself.
    parts = [torch.cdist(part, points).kthvalue(rank, dim=-1).values for part in torch.split(queries, several)]
    return torch.cat(parts)


def novelty(distances: PerQuery) -> PerQuery:
    """The reward of a distance: its logarithm, laid so that a state that was visited often earns 0."""
    return distances.log1p()
