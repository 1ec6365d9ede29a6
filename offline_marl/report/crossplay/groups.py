"""Groups of runs that share a convention, by complete-linkage clustering of cross-play losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt

Matrix = Annotated[npt.NDArray[np.float64], "row column"]
SHARE = 0.25
"""Part of the scale that two runs of one group may lose at most."""
RULE = (
    "Two runs are apart if, beside their self-play, playing with each other loses more than a quarter of the scale "
    "and the 95 % interval of that loss (over starts) lies above 0; a group holds no two runs that are apart, and "
    "groups that lose least by it are joined first. The scale is what self-play earns more than random play, or, "
    "where no return of random play is known, the largest loss."
)


def losses(returns: Matrix) -> Matrix:
    """Loss of two runs against their self-play, (R_ii + R_jj) / 2 - (R_ij + R_ji) / 2; works on stacks too."""
    self_play = np.diagonal(returns, axis1=-2, axis2=-1)
    cross_play = (returns + np.swapaxes(returns, -2, -1)) / 2
    loss: Matrix = (self_play[..., :, None] + self_play[..., None, :]) / 2 - cross_play
    return loss


def scale_of(returns: Matrix, random: float | None) -> float:
    """Compute the scale that losses are compared with, see `RULE`."""
    lead = None if random is None else float(np.diagonal(returns).mean()) - random
    return lead if lead is not None and lead > 0 else max(float(losses(returns).max()), 0.0)


def find_groups(loss: Matrix, low: Matrix, limit: float) -> list[list[int]]:
    """Cluster rows into groups, each in ascending order, the one with the first row first.

    Args:
        loss: Symmetric, see `losses`.
        low: Lower ends of its intervals.
        limit: Largest loss of two rows that share a group.
    """
    apart = (loss > limit) & (low > 0)
    groups = [[row] for row in range(len(loss))]
    while True:
        joined = [
            (float(loss[np.ix_(one, other)].max()), i, i + 1 + j)
            for i, one in enumerate(groups)
            for j, other in enumerate(groups[i + 1 :])
            if not apart[np.ix_(one, other)].any()
        ]
        if not joined:
            return sorted(groups)
        _, i, j = min(joined)
        groups[i] = sorted(groups[i] + groups.pop(j))


def same_group(groups: Sequence[Sequence[int]]) -> Annotated[npt.NDArray[np.bool_], "row column"]:
    """Compute whether two rows are in one group."""
    number = np.empty(sum(map(len, groups)), np.int64)
    for position, members in enumerate(groups):
        number[list(members)] = position
    same: npt.NDArray[np.bool_] = number[:, None] == number[None, :]
    return same
