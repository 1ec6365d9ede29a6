"""Who shares a convention: runs that lose little by playing with each other. Pure arithmetic on the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt

Matrix = Annotated[npt.NDArray[np.float64], "row column"]
SHARE = 0.25
"""Of the scale: what two runs may lose at most to count as sharing a convention."""
RULE = (
    "Two runs are apart if, beside their self-play, playing with each other loses more than a quarter of the scale "
    "and the 95 % interval of that loss (over starts) lies above 0; a group holds no two runs that are apart, and "
    "groups that lose least by it are joined first. The scale is what self-play earns more than random play, or, "
    "where no return of random play is known, the largest loss."
)


def losses(returns: Matrix) -> Matrix:
    """What two runs lose beside their self-play, both ways of playing together averaged; works on stacks too."""
    own = np.diagonal(returns, axis1=-2, axis2=-1)
    together = (returns + np.swapaxes(returns, -2, -1)) / 2
    lost: Matrix = (own[..., :, None] + own[..., None, :]) / 2 - together
    return lost


def scale_of(returns: Matrix, random: float | None) -> float:
    """What losses are measured against, see `RULE`."""
    lead = None if random is None else float(np.diagonal(returns).mean()) - random
    return lead if lead is not None and lead > 0 else max(float(losses(returns).max()), 0.0)


def find_groups(loss: Matrix, low: Matrix, limit: float) -> list[list[int]]:
    """Groups of rows, each in ascending order, the one with the first row first.

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


def together(groups: Sequence[Sequence[int]]) -> Annotated[npt.NDArray[np.bool_], "row column"]:
    """Whether two rows stand in one group."""
    number = np.empty(sum(map(len, groups)), np.int64)
    for position, members in enumerate(groups):
        number[list(members)] = position
    same: npt.NDArray[np.bool_] = number[:, None] == number[None, :]
    return same
