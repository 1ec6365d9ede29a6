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
from offline_marl.datasets.arrays.flat import owned
from offline_marl.datasets.arrays.mistakes import refuse_no_end
from offline_marl.datasets.arrays.presence import Ends, blanked, find_ends, free
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.episode_index import last_steps, lengths_of
from offline_marl.datasets.files import save_fields

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
    mask: Flags | None = None
    """`steps agent`, where a format says who is there; else agents are there until their flag, see `presence`."""

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

        Without `next_obs` episodes repeat their last row, of which `ends_seen` then says that nobody saw it.

        Raises:
            DataError: See `recording`.
        """
        self._refuse_unequal()
        refuse_no_end(self.terminations, self.truncations, "The flags that end episodes")
        ends = self._ends()
        finals = torch.zeros(len(self.rewards), dtype=torch.bool)
        finals[last_steps(ends.lengths)] = True
        done = {
            "rewards": owned(self.rewards).float(),
            "terminations": ends.terminations,
            "truncations": ends.truncations,
        }
        if self.spec is not None:
            done = {name: _for_all(value, self.spec) for name, value in done.items()}
        done["rewards"] = blanked(done["rewards"], ends.mask)
        more = {} if ends.mask is None else {"mask": ends.mask}
        about, known = dict(metadata), torch.full((len(ends.lengths),), self.next_obs is not None)
        known[_unseen(about.pop("unseen_ends", []), len(known))] = False
        if not bool(known.all()):
            more["ends_seen"] = known
        rows = Rows(finals, ends.mask, self.spec)
        return {**self._tables(rows), **done, **more, "lengths": ends.lengths}, about

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
            "truncations",
            "mask",
        ):
            table = getattr(self, name)
            if table is not None and table.shape[0] != steps:
                raise DataError(f"'{name}' has {table.shape[0]} rows, 'rewards' {steps}.")
        for name in ("obs", "state", "avail_actions"):
            seen, after = getattr(self, name), getattr(self, f"next_{name}")
            if seen is not None and after is not None and tuple(after.shape) != tuple(seen.shape):
                raise DataError(f"'next_{name}' has shape {tuple(after.shape)}, '{name}' {tuple(seen.shape)}.")
        if self.next_obs is not None and self.state is not None and self.next_state is None:
            raise DataError("'next_obs' is given and 'next_state' is not: nobody knows how each episode's state ended.")
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

    def _ends(self) -> Ends:
        """Ends with exactly one flag each."""
        terminations, truncations = owned(self.terminations).bool(), owned(self.truncations).bool()
        if self.mask is None:
            return find_ends(terminations, truncations & ~terminations)
        mask = owned(self.mask).bool()
        if terminations.dim() == 1:  # the team's, which ends whoever is there
            terminations, truncations = (flags.unsqueeze(-1).expand_as(mask) for flags in (terminations, truncations))
        ended = (terminations | truncations) & mask
        # Who is there says where an episode ends: the next one begins when nobody goes on.
        going = mask & ~ended
        lengths = lengths_of(~going.any(-1))
        return find_ends(terminations, truncations & ~terminations, lengths, mask)


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

    finals: Tensor
    """Bool per step: whether a row for what was seen last comes after it."""
    mask: Tensor | None = None
    """Bool per step and agent: whether an agent is there."""
    spec: Spec | None = None

    def done(self, table: Table, dtype: torch.dtype) -> Streamed:
        """The rows of what is done."""

        def pieces() -> Iterator[Tensor]:
            for part in parts(table):
                rows = _cast(table[part], dtype)
                yield rows if self.mask is None else blanked(rows, self.mask[part])

        return Streamed(dtype, table.shape, pieces)

    def seen(self, table: Table, after: Table | None, dtype: torch.dtype) -> Streamed:
        """The rows of what is seen, last ones out of `after`, or else repeated."""

        def pieces() -> Iterator[Tensor]:
            for part in parts(table):
                ended = self.finals[part]
                counts = 1 + ended.long()
                rows = _cast(table[part], dtype).repeat_interleave(counts, dim=0)
                if after is not None and bool(ended.any()):
                    rows[(torch.cumsum(counts, 0) - 1)[ended]] = _cast(after[part], dtype)[ended]
                yield self._of_present(rows, counts, part)

        return Streamed(dtype, (len(self.finals) + int(self.finals.sum()), *table.shape[1:]), pieces)

    def _of_present(self, rows: Tensor, counts: Tensor, part: slice) -> Tensor:
        if self.mask is None or rows.dim() < 3:  # the state is everybody's
            return rows
        present = self.mask[part].repeat_interleave(counts, dim=0)
        if rows.dtype == torch.bool and self.spec is not None:
            return free(rows, present, self.spec)
        return blanked(rows, present)


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


def _unseen(told: Any, episodes: int) -> list[int]:
    """Numbers of episodes whose end nobody saw, as our writers leave them in other formats."""
    if not isinstance(told, list) or not all(type(number) is int and 0 <= number < episodes for number in told):
        raise DataError(f"The metadata's 'unseen_ends' should be numbers of its {episodes} episodes.")
    return told


def _for_all(values: Tensor, spec: Spec) -> Tensor:
    """[steps, agent] of what may be one column for all."""
    if values.dim() == 1:
        return values.unsqueeze(-1).expand(-1, spec.n_agents)
    if values.shape[1:] != (spec.n_agents,):
        raise DataError(
            f"Rewards and ends should be one number a step, or {spec.n_agents}, one for each agent; there are of shape "
            f"{tuple(values.shape)}."
        )
    return values


def _whole(value: Tensor | Streamed) -> Tensor:
    return torch.cat(list(value.pieces())) if isinstance(value, Streamed) else value.contiguous()
