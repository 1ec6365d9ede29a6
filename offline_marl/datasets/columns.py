"""Agents' columns of a wider table that stays on disk, gathered when rows are asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Columns:
    """A lazy stand-in for a tensor `rows agent width` that gives rows by `[]` and `index_select`.

    Args:
        table: `rows column`; may be mapped from a file.
        index: Column of each entry, `agent width`.
        present: False where an entry is padding, `agent width`.
    """

    def __init__(self, table: Tensor, index: Any, present: Any) -> None:
        self.table = table
        self._agents, self._width = index.shape
        self._columns = torch.from_numpy(index).flatten()
        padding = ~torch.from_numpy(present)
        self._padding = padding if bool(padding.any()) else None

    @property
    def shape(self) -> torch.Size:
        """Rows, agents, width."""
        return torch.Size((len(self.table), self._agents, self._width))

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers."""
        return self.table.dtype

    @property
    def device(self) -> torch.device:
        """Always the processor's memory."""
        return self.table.device

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.table)

    def dim(self) -> int:
        """Always 3."""
        return 3

    def numel(self) -> int:
        """Entries, padding included."""
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        """Whether entries are floats."""
        return self.table.is_floating_point()

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """These rows, `row agent width`; `dim` is 0."""
        return self.share(self.table.index_select(0, rows))

    def __getitem__(self, rows: Any) -> Tensor:
        return self.share(self.table[rows])

    def share(self, rows: Tensor) -> Tensor:
        """Rows of the table, `row column`, as the agents have them."""
        taken = rows.index_select(1, self._columns).view(len(rows), self._agents, self._width)
        return taken if self._padding is None else taken.masked_fill_(self._padding, 0.0)
