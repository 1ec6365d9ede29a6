"""Columns that are padding, minus infinity or NaN in every row, cut out of a team's tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.datasets.readers.steps import Altered, Table, parts


def cut_padding(table: Table) -> tuple[Table, tuple[int, ...]]:
    """The table `[steps, agent, width]` without what is padding of each agent, and the agents' true widths.

    A column of an agent is padding if it is finite in no row; what remains moves to the left, with zeros behind it.
    """
    agents, width = table.shape[1:]
    padding = ~np.isfinite(np.asarray(table[0:1]))[0]
    if not padding.any():  # one look is enough: padding is in every row
        return table, (width,) * agents
    for part in parts(table):
        padding &= ~np.isfinite(table[part]).any(0)
    if not padding.any() or padding.all(1).any():  # an agent of nothing but that is damage, refused later
        return table, (width,) * agents
    kept = [np.flatnonzero(~columns) for columns in padding]
    dims = tuple(len(columns) for columns in kept)

    def cut(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        out = np.zeros((len(rows), agents, max(dims)), rows.dtype)
        for agent, columns in enumerate(kept):
            out[:, agent, : len(columns)] = rows[:, agent, columns]
        return out

    return Altered(table, cut, (agents, max(dims))), dims


def cut_state_padding(table: Table) -> Table:
    """The same for a table `[steps, width]` of all."""
    lifted = Altered(table, lambda rows: rows[:, None], (1, table.shape[1]))
    cut, dims = cut_padding(lifted)
    return table if cut is lifted else Altered(cut, lambda rows: rows[:, 0], dims)
