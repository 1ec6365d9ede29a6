"""Replay memory: a ring of whole episodes, whose newest push out its oldest, with the views of a TransitionBuffer.

An episode takes one row more than it has steps, because what was seen last stands behind its last step. Rows are
numbered without end and lie at their number modulo the ring's rows; so episodes cross the border like any other place.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from copy import copy
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from offline_marl.core.axes import PerAgent
from offline_marl.core.files import expect_random_reads
from offline_marl.core.types import DataError, Episode, Needs, Spec
from offline_marl.datasets.buffer import Rows, TransitionBuffer, countable

ROW, LENGTH, OWN, JOINT, SEEN = range(5)
"""Columns of the book: first row, steps, steps that count for an agent or for the team, whether the end was seen."""
SEEN_ROWS = ("obs", "state", "avail_actions")
"""Fields with one row more than an episode has steps."""
OPTIONAL = ("avail_actions", "mask", "ends")
"""Columns that are there from the first episode on that needs them."""


class EpisodeRing(TransitionBuffer):
    """Whole episodes of at most `capacity` steps together; the oldest leave as room is needed.

    Positions count the steps that are held, from the oldest on, so that what is drawn depends on the episodes alone
    and not on where they lie.

    Args:
        spec: The team.
        capacity: Steps that are kept.
        longest: Steps of the longest episode that will come.
        window: Past (obs, action) pairs in each row's history; 0 for none.
        device: Where batches are made, and where the ring lies unless it is mapped.
        state: Whether batches carry the global state.
        folder: Lie on this disk instead of in memory, in files that go with the process.

    Raises:
        DataError: An episode of the greatest length would not fit.
    """

    def __init__(
        self,
        spec: Spec,
        capacity: int,
        longest: int,
        window: int = 0,
        device: torch.device | str = "cpu",
        state: bool = False,
        folder: Path | None = None,
    ) -> None:
        if capacity < longest:
            raise DataError(
                f"A replay of {capacity:,} rows cannot hold one whole episode, which may have {longest:,} steps: "
                "raise --replay-capacity."
            )
        self.window, self.spec, self._target = window, spec, torch.device(device)
        self.capacity, self.steps, self.oldest, self.count = capacity, 0, 0, 0
        self._home = torch.device("cpu") if folder is not None else self._target
        self._folder, self._with_state = folder, state
        self._rows, self._next_row = capacity + -(-capacity // longest) + 1, 0
        self._book = np.zeros((64, 5), np.int64)
        self._live = slice(0, 0)
        self._tables: dict[str, Tensor] = {}
        self.columns: set[str] = set()
        """Those of the optional columns that are there."""
        self._offsets = torch.arange(-window, 1, device=self._home)
        self._open_tables()
        self._index()

    def __len__(self) -> int:
        """Number of transitions that are held."""
        return self.steps

    def extend(self, episodes: Iterable[Episode]) -> None:
        """Take in episodes, the oldest first.

        Raises:
            DataError: One does not fit, or lacks the global state.
        """
        for episode in episodes:
            self._push(episode)
        self._index()

    def restore(self, oldest: int, columns: Iterable[str]) -> None:
        """Be the empty ring that another one's episodes from number `oldest` on go into, with its optional columns."""
        self.oldest = self.count = oldest
        self.columns |= set(columns)

    def windowed(self, window: int) -> EpisodeRing:
        """The ring as it is now, for views with histories of another length."""
        other = copy(self)
        other.window, other._offsets = window, torch.arange(-window, 1, device=self._home)
        return other

    def pay(self, number: int, rewards: PerAgent) -> None:
        """Replace the rewards of an episode that is held.

        Args:
            number: Of the episode.
            rewards: Of its steps.
        """
        row, length = self._book[self._live.start + number - self.oldest, :2].tolist()
        table = self._tables["rewards"]
        table[torch.arange(row, row + length, device=table.device) % self._rows] = rewards.to(table)
        table[self._rows] = table[0]

    def _push(self, episode: Episode) -> None:
        length = len(episode)
        if length > self.capacity:
            raise DataError(
                f"An episode of {length:,} steps does not fit into a replay of {self.capacity:,} rows: "
                "raise --replay-capacity."
            )
        if self._with_state and episode.state is None:
            raise DataError("The replay is to hold the global state, and an episode comes without one.")
        while self.steps + length > self.capacity:
            self._drop()
        self._reserve(length + 1)
        seen = episode.end_seen is None or bool(episode.end_seen)
        needed = {"avail_actions": episode.avail_actions, "mask": episode.mask, "ends": None if seen else True}
        self.columns |= {name for name, value in needed.items() if value is not None}
        counts = self._write(episode, seen)
        if self._live.stop == len(self._book):
            live = self._book[self._live]
            self._book = np.concatenate([live, np.zeros((max(len(live), 64), 5), np.int64)])
            self._live = slice(0, len(live))
        self._book[self._live.stop] = (self._next_row, length, *counts, seen)
        self._live = slice(self._live.start, self._live.stop + 1)
        self._next_row += length + 1
        self.steps, self.count = self.steps + length, self.count + 1

    def _drop(self) -> None:
        self.steps -= int(self._book[self._live.start, LENGTH])
        self._live = slice(self._live.start + 1, self._live.stop)
        self.oldest += 1

    def _write(self, episode: Episode, seen: bool) -> tuple[int, int]:
        """Write an episode behind the newest, and count its steps in which something counts."""
        length, there = len(episode), episode.mask
        values: dict[str, Tensor | None] = {
            name: getattr(episode, name)
            for name in ("obs", "actions", "rewards", "terminations", "truncations", "mask", "avail_actions")
        }
        if self._with_state:
            values["state"] = episode.state
        counts = (length, length)
        if self.columns & {"mask", "ends"}:
            there = torch.ones(length, self.spec.n_agents, dtype=torch.bool) if there is None else there
            values["mask"] = there if "mask" in self.columns else None
            values["ranks"], counts = _ranks(episode, there, seen)
        if "avail_actions" in self.columns and episode.avail_actions is None:
            values["avail_actions"] = self.spec.present("act").expand(length + 1, -1, -1)
        for name, value in values.items():
            if value is not None:
                self._put(name, value)
        return counts

    def _put(self, name: str, value: Tensor) -> None:
        if name not in self._tables:
            self._tables[name] = self._allocate(value.shape[1:], value.dtype, self._rows)
            self._fill(name)
            self._open_tables()
        table, start = self._tables[name], self._next_row % self._rows
        before = min(len(value), self._rows - start)
        table[start : start + before] = value[:before].to(table.device)
        if before < len(value):
            table[: len(value) - before] = value[before:].to(table.device)
        if before < len(value) or start == 0:
            table[self._rows] = table[0]  # so that what lies behind the last row can be read as its successor

    def _fill(self, name: str) -> None:
        """Write into a column that comes late what it says of the episodes before."""
        table, rows = self._tables[name], self._rows
        if name == "mask":
            table.fill_(True)
        elif name == "avail_actions":
            table[:] = self.spec.present("act").to(table.device)
        elif name == "ranks":
            for row, length in self._book[self._live, :2].tolist():
                places = torch.arange(row, row + length, device=table.device) % rows
                table[places] = torch.arange(length, dtype=table.dtype, device=table.device).unsqueeze(-1)

    def _reserve(self, rows: int) -> None:
        """Make room for rows behind the newest: episodes shorter than the longest take more rows than was thought."""
        held = 0 if self.steps == 0 else self._next_row - int(self._book[self._live.start, ROW])
        if held + rows <= self._rows:
            return
        grown = self._rows
        while held + rows > grown:
            grown = self.capacity + 2 * (grown - self.capacity)
        for name, table in self._tables.items():
            larger = self._allocate(table.shape[1:], table.dtype, grown)
            for piece in torch.split(torch.arange(self._next_row - held, self._next_row, device=table.device), 1 << 18):
                larger[piece % grown] = table[piece % self._rows]
            larger[grown] = larger[0]
            self._tables[name] = larger
        self._rows = grown
        self._open_tables()

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype, rows: int) -> Tensor:
        whole = (rows + 1, *shape)
        if self._folder is None:
            return torch.zeros(whole, dtype=dtype, device=self._home)
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".ring.", suffix=".part") as file:
            # Taken now: where a disk is full, writing into a mapped hole would end the process without a word.
            os.posix_fallocate(file.fileno(), 0, prod(whole) * dtype.itemsize)
            table = torch.from_file(file.name, shared=True, size=prod(whole), dtype=dtype).view(whole)
        expect_random_reads(table)
        return table

    def _open_tables(self) -> None:
        """Give the views their tables."""
        empty = torch.zeros(0, device=self._home)
        for name in ("obs", "actions", "rewards", "terminations", "truncations"):
            setattr(self, f"_{name}", self._tables.get(name, empty))
        self._state, self._avail = self._tables.get("state"), self._tables.get("avail_actions")
        self._mask = self._tables.get("mask")

    def _index(self) -> None:
        """Compute where the episodes begin and end in the order of positions."""
        live = self._book[self._live]
        end = np.cumsum(live[:, LENGTH])
        first = end - live[:, LENGTH]
        self._end, self._first, self._row_shift, self._row = (
            torch.from_numpy(column).to(self._home)
            for column in (end, first, live[:, ROW] - first, live[:, ROW].copy())
        )
        self._ends_seen = torch.from_numpy(live[:, SEEN] > 0).to(self._home) if "ends" in self.columns else None

    def _episode_at(self, index: Rows) -> Rows:
        return torch.searchsorted(self._end, index.contiguous(), right=True)

    def _places(self, index: Rows) -> tuple[Rows, Rows]:
        row = (index + self._row_shift[self._episode_at(index)]) % self._rows
        return row, row

    def draw(self, count: int, generator: torch.Generator, needs: Needs | None = None) -> Rows:
        """See `TransitionBuffer.draw`."""
        if needs is None or not self._partial(needs):
            return self._lots(len(self), count, generator)
        column = JOINT if needs.joint else OWN
        counts = self._counts(column)
        ends = np.cumsum(counts)
        lots = self._lots(int(ends[-1]), count, generator)
        end, begin = (torch.from_numpy(array).to(self._home) for array in (ends, ends - counts))
        episode = torch.searchsorted(end, lots, right=True)
        rows = (self._row[episode] + lots - begin[episode]) % self._rows
        return self._first[episode] + self._tables["ranks"][rows, column - OWN]

    def draw_first(self, count: int, generator: torch.Generator, needs: Needs | None = None) -> Rows:
        """See `TransitionBuffer.draw_first`."""
        first = self._first
        if needs is not None and self._partial(needs):
            first = first[torch.from_numpy(self._counts(JOINT if needs.joint else OWN) > 0).to(self._home)]
        return first[self._lots(len(first), count, generator)]

    def _counts(self, column: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]] = self._book[self._live, column]
        if not counts.any():
            raise DataError("No step of the replay says what followed it, which this algorithm must know.")
        return counts


def _ranks(episode: Episode, there: Tensor, seen: bool) -> tuple[Tensor, tuple[int, int]]:
    """Offsets of the steps in which something counts, for each agent or for the team, and how many there are."""
    after = torch.cat([there[1:], torch.full_like(there[:1], seen)])
    known = there & after
    ranks, counts = torch.zeros(len(episode), 2, dtype=torch.int32), []
    for column, needs in enumerate((Needs(), Needs(joint=True))):
        offsets = countable(there, known, episode.terminations, needs).any(-1).nonzero().flatten()
        ranks[: len(offsets), column] = offsets.int()
        counts.append(len(offsets))
    return ranks, (counts[0], counts[1])
