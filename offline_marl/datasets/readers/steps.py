"""Flat steps, one row each, as most published formats have them, and their streaming into our layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline_marl.core.files import PIECE, Streamed
from offline_marl.core.types import DataError, Spec
from offline_marl.datasets.arrays import owned
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.episode_index import Lengths, followed, last_steps, lengths_of
from offline_marl.datasets.files import save_fields
from offline_marl.datasets.mistakes import refuse_no_end

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


class Table(Protocol):
    """Rows that are read when they are asked for: an array, a part of a file, or several of them in a row."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        ...

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]:
        """These rows."""
        ...


@dataclass(frozen=True)
class Steps:
    """Flat steps of one body or of a team, one episode after another."""

    obs: Table
    """`steps obs` of one body; of a team `steps agent obs`, zero-padded to the widest."""
    actions: Table
    """`steps act`; of a team `steps agent act`, or choices `steps agent`."""
    rewards: Floats
    """`steps`, or `steps agent`."""
    terminations: Flags
    """`steps`, or `steps agent`."""
    truncations: Flags
    """As `terminations`; also true where an episode ends for a reason that no flag told."""
    next_obs: Table | None = None
    """What followed each step; None where that is the next row."""
    state: Table | None = None
    """`steps state`, of a team."""
    next_state: Table | None = None
    """Goes with `next_obs`."""
    avail_actions: Table | None = None
    """`steps agent choice`, of a team."""
    next_avail_actions: Table | None = None
    """Goes with `next_obs`; without it the last row of an episode is repeated."""
    spec: Spec | None = None
    """Of a team; None for one body."""

    def recording(self, metadata: Mapping[str, Any]) -> Recording | Dataset:
        """The data, in memory; see `streamed` for what becomes of last steps.

        Raises:
            DataError: Tables are not of one length, or no step says what followed.
        """
        fields, completed = self.streamed(metadata)
        whole = {name: _whole(value) for name, value in fields.items()}
        if self.spec is None:
            return Recording(**whole, metadata=completed)
        return Dataset(**whole, spec=self.spec, metadata=completed)

    def streamed(self, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of the recording or data set, the large ones to be written piece by piece, and its metadata.

        Without `next_obs` an episode that was cut loses its last step, of which nobody knows what followed;
        `dropped_steps` in the metadata counts them. One that terminated repeats its last row.

        Raises:
            DataError: See `recording`.
        """
        self._refuse_unequal()
        refuse_no_end(self.terminations, self.truncations, "The flags that end episodes")
        terminations, truncations, lengths = self._ends()
        last, dropped = last_steps(lengths), dict[str, int]()
        keep = torch.ones(len(self.rewards), dtype=torch.bool)
        left = lengths
        if self.next_obs is None:
            over = terminations[last] if terminations.dim() == 1 else terminations[last].all(-1)
            keep, left = followed(lengths, over)
            dropped["dropped_steps"] = int((~keep).sum())
            if not bool((left > 0).any()):
                raise DataError("No step of it says what followed.")
        finals = torch.zeros_like(keep)
        finals[last[left > 0]] = True
        left = left[left > 0]
        ends = last_steps(left)
        terminations, truncations = terminations[keep], truncations[keep]
        truncations[ends] |= ~terminations[ends]
        rewards = owned(self.rewards).float()[keep]
        done = {"rewards": rewards, "terminations": terminations, "truncations": truncations}
        if self.spec is not None:
            done = {name: _for_all(value, self.spec) for name, value in done.items()}
        return {**self._tables(Rows(keep, finals)), **done, "lengths": left}, {**metadata, **dropped}

    def _refuse_unequal(self) -> None:
        steps = len(self.rewards)
        for name in (
            "obs",
            "actions",
            "next_obs",
            "state",
            "next_state",
            "avail_actions",
            "next_avail_actions",
            "terminations",
        ):
            table = getattr(self, name)
            if table is not None and table.shape[0] != steps:
                raise DataError(f"'{name}' has {table.shape[0]} rows, 'rewards' {steps}.")
        if not steps:
            raise DataError("A data set needs at least one episode, and each episode at least one step.")

    def _tables(self, rows: Rows) -> dict[str, Streamed]:
        discrete = self.spec is not None and self.spec.discrete
        tables = {
            "state" if self.spec is None else "obs": rows.seen(self.obs, self.next_obs, torch.float32),
            "actions": rows.done(self.actions, torch.int64 if discrete else torch.float32),
        }
        if self.state is not None:
            tables["state"] = rows.seen(self.state, self.next_state, torch.float32)
        if self.avail_actions is not None:
            tables["avail_actions"] = rows.seen(self.avail_actions, self.next_avail_actions, torch.bool)
        return tables

    def _ends(self) -> tuple[Tensor, Tensor, Lengths]:
        """Both flags, of which exactly one is set at the end of each episode, and the lengths."""
        terminations, truncations = owned(self.terminations), owned(self.truncations)
        ended = terminations | truncations
        lengths = lengths_of(ended if ended.dim() == 1 else ended.all(-1))
        last = last_steps(lengths)
        truncations = truncations & ~terminations
        truncations[last] |= ~terminations[last]
        return terminations, truncations, lengths


def save_steps(
    path: Path, steps: Steps, metadata: Mapping[str, Any], tick: Callable[[int], object] | None = None
) -> str:
    """Write the data in our layout piece by piece, whole or not at all.

    Returns:
        Its checksum.
    """
    fields, completed = steps.streamed(metadata)
    return save_fields(path, {**fields, "metadata": completed}, steps.spec, tick)


@dataclass(frozen=True)
class Rows:
    """The rows of a table of steps that become rows of ours."""

    keep: Tensor
    """Bool per step: whether it stays."""
    finals: Tensor
    """Bool per step: whether a row for what was seen last comes after it, or in its place if it does not stay."""

    def done(self, table: Table, dtype: torch.dtype) -> Streamed:
        """The rows of what is done."""

        def pieces() -> Iterator[Tensor]:
            for part in parts(table):
                yield _cast(table[part], dtype)[self.keep[part]]

        return Streamed(dtype, (int(self.keep.sum()), *table.shape[1:]), pieces)

    def seen(self, table: Table, after: Table | None, dtype: torch.dtype) -> Streamed:
        """The rows of what is seen, last ones out of `after`, or else repeated."""

        def pieces() -> Iterator[Tensor]:
            for part in parts(table):
                counts = self.keep[part].long() + self.finals[part]
                rows = _cast(table[part], dtype).repeat_interleave(counts, dim=0)
                ended = self.finals[part]
                if after is not None and bool(ended.any()):
                    rows[(torch.cumsum(counts, 0) - 1)[ended]] = _cast(after[part], dtype)[ended]
                yield rows

        return Streamed(dtype, (int(self.keep.sum() + self.finals.sum()), *table.shape[1:]), pieces)


@dataclass(frozen=True)
class Altered:
    """A table of which each piece is changed as it is read; rows stay rows."""

    table: Table
    change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
    width: tuple[int, ...]
    """Of a row, after the change."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        return (self.table.shape[0], *self.width)

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]:
        return self.change(self.table[rows])


def parts(table: Table) -> Iterator[slice]:
    """Slices over all rows, none much larger than `PIECE`."""
    width = int(np.prod(table.shape[1:], dtype=np.int64)) * 4
    count = max(1, PIECE // max(width, 1))
    for start in range(0, table.shape[0], count):
        yield slice(start, min(start + count, table.shape[0]))


def breaks(obs: Table, next_obs: Table) -> Flags:
    """Steps after which the row that follows is not what followed: an episode ended there."""
    ended = np.zeros(obs.shape[0], dtype=np.bool_)
    for part in parts(obs):
        ahead = np.asarray(obs[part.start + 1 : part.stop + 1], np.float32)
        after = np.asarray(next_obs[part], np.float32)[: len(ahead)]
        with np.errstate(invalid="ignore", over="ignore"):  # infinite ones are refused later
            near = np.abs(after - ahead) <= 1e-5 + 1e-5 * np.abs(ahead)
        ended[part.start : part.start + len(ahead)] = ~near.all(axis=tuple(range(1, near.ndim)))
    return ended


def every(steps: int, ended: Flags) -> Flags:
    """Steps at which a clock of so many steps ends an episode, counted from each end."""
    lengths = np.diff(np.append(-1, np.append(np.flatnonzero(ended), len(ended) - 1)))
    first = np.cumsum(lengths) - lengths
    age = np.arange(len(ended)) - np.repeat(first, lengths)
    over: Flags = age % steps == steps - 1
    return over


def _cast(values: npt.NDArray[Any], dtype: torch.dtype) -> Tensor:
    # Arrays out of files may be read-only or of the other byte order, which torch does not take.
    native = np.require(values, values.dtype.newbyteorder("="), ["C", "W"])
    return torch.from_numpy(native).to(dtype)


def _for_all(values: Tensor, spec: Spec) -> Tensor:
    """[steps, agent] of what may be one column for all."""
    if values.dim() == 1:
        return values.unsqueeze(-1).expand(-1, spec.n_agents)
    if values.shape[1:] != (spec.n_agents,):
        raise DataError(f"Rewards and ends are of {values.shape[1]} agents, observations of {spec.n_agents}.")
    return values


def _whole(value: Tensor | Streamed) -> Tensor:
    return torch.cat(list(value.pieces())) if isinstance(value, Streamed) else value.contiguous()
