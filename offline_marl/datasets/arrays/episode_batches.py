"""Padded episode batches `[episode, time + 1, ...]`, as PyMARL keeps them, as flat rows without the padding.

The last row of an episode holds only what was seen: its action never happened. Tables are read a few episodes at a
time, so that they may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline_marl.core.files import PIECE
from offline_marl.core.types import ActionKind, DataError, Spec

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class EpisodeBatch:
    """Arrays of padded episodes, or tables in files, all with axes `[episode, time + 1, ...]`.

    What is done may lack the last row. `called` maps a field's name to what the user calls it.
    """

    actions: Any
    """Choices `[..., agent]` or `[..., agent, 1]`, one-hot rows of them, or floats `[..., agent, act]`."""
    rewards: Any
    """`[...]`, `[..., 1]`, `[..., agent]` or `[..., agent, 1]`, as the flags are."""
    obs: Any = None
    """`[..., agent, obs]`; without it every agent sees the state."""
    state: Any = None
    avail_actions: Any = None
    filled: Any = None
    """True for the steps of an episode and for the row after the last one; without it the flags say."""
    terminations: Any = None
    truncations: Any = None
    choices: int = 0
    """How many an agent has, if known; else as many as `avail_actions` allow for, or as were made."""
    called: Mapping[str, str] = field(default_factory=dict)

    def name(self, field: str) -> str:
        """What the user calls a field, in quotation marks."""
        return f"'{self.called.get(field, field)}'"


@dataclass(frozen=True)
class Unpadded:
    """Some rows of each episode of a padded table, one episode after another."""

    table: Any
    counts: npt.NDArray[np.int64]
    """Rows of each episode."""
    first: int = 0
    """The row of an episode that its rows begin with."""
    change: Callable[[Values], Values] = lambda rows: rows
    width: tuple[int, ...] | None = None
    """Axes behind the rows after the change; without it, those of the table."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        width = self.table.shape[2:] if self.width is None else self.width
        return (int(self.counts.sum()), *map(int, width))

    def __getitem__(self, rows: slice, /) -> Values:
        start, stop, _ = rows.indices(self.shape[0])
        ends = np.cumsum(self.counts)
        episode = int(np.searchsorted(ends, start, "right"))
        begin = int(ends[episode] - self.counts[episode]) if episode < len(ends) else start
        last = int(np.searchsorted(ends, max(start, stop - 1), "right")) + 1
        pieces = list(self._read(episode, min(last, len(ends)) if stop > start else episode))
        if not pieces:
            return self.change(np.asarray(self.table[0:1])[:, 0])[:0]
        return self.change(np.concatenate(pieces)[start - begin : stop - begin])

    def _read(self, episode: int, last: int) -> Any:
        row = int(np.prod(self.table.shape[1:], dtype=np.int64)) * 8
        together = max(1, PIECE // max(row, 1))
        for some in range(episode, last, together):
            counts = self.counts[some : min(some + together, last)]
            stop = self.first + int(counts.max())
            block = np.asarray(self.table[some : some + len(counts), self.first : stop])
            yield block[np.arange(block.shape[1]) < counts[:, None]]


@dataclass(frozen=True)
class FlatEpisodes:
    """Flat steps of padded episodes; `seen(name, 1)` is what followed them."""

    batch: EpisodeBatch
    spec: Spec
    lengths: npt.NDArray[np.int64]
    """Steps of each episode; 0 where it is nothing but padding."""
    actions: Unpadded
    rewards: npt.NDArray[np.float32]
    """`step agent`, as the flags are."""
    terminations: npt.NDArray[np.bool_]
    truncations: npt.NDArray[np.bool_]
    rule: str
    """How ends are known."""

    def seen(self, name: str, first: int = 0, last: bool = False) -> Unpadded | None:
        """What was seen before each step (`first` 0) or after it (1), or before all and after the last one (`last`)."""
        table = getattr(self.batch, name)
        counts = self.lengths + (self.lengths > 0) if last else self.lengths
        if name == "obs" and table is None:
            shape = (self.spec.n_agents, self.spec.obs_dim)
            return Unpadded(self.batch.state, counts, first, lambda v: np.repeat(v[:, None], shape[0], axis=1), shape)
        if name == "avail_actions" and not self.spec.discrete:
            return None
        return None if table is None else Unpadded(table, counts, first)


def unpad(batch: EpisodeBatch, clock: int | None = None) -> FlatEpisodes:
    """Find the episodes in a batch.

    Args:
        batch: The arrays.
        clock: Steps after which the clock ends an episode: what terminates then was cut. Without it a termination is
            taken as the task's.

    Raises:
        DataError: Shapes that do not fit together, or an end that contradicts `filled`; names field and episode.
    """
    time, agents = _axes(batch)
    ended = [_flags(batch, name, time, agents) for name in ("terminations", "truncations")]
    over, cut = (np.logical_or.accumulate(values, axis=1) for values in ended)
    lengths, note = _lengths(batch, time, np.asarray((over | cut).all(-1)))
    if not lengths.any():
        raise DataError(f"{batch.name('filled')} and the flags leave no episode with a step in it.")
    counts = np.arange(time)[None] < lengths[:, None]
    at_end = np.arange(time)[None] == lengths[:, None] - 1
    if clock is not None:
        # Agents that were done before stay terminated: only what ended with the clock was cut.
        before = np.concatenate([np.zeros_like(over[:, :1]), over[:, :-1]], axis=1)
        late = (at_end & (lengths >= clock)[:, None])[..., None] & ~before
        cut, over = cut | (over & late), over & ~late
    cut = (cut & ~over) | (at_end[..., None] & ~over)
    actions, act_dims, kind = _actions(batch, lengths, agents)
    state = 0 if batch.state is None else batch.state.shape[2]
    width = state if batch.obs is None else batch.obs.shape[3]
    rewards = _column(batch, "rewards", time, agents)
    _refuse_paid(batch, rewards, lengths)
    return FlatEpisodes(
        batch,
        Spec((width,) * agents, act_dims, state, kind),
        lengths,
        actions,
        rewards[counts],
        over[counts],
        cut[counts],
        _rule(batch, clock) + note,
    )


def _rule(batch: EpisodeBatch, clock: int | None) -> str:
    flag = batch.name("terminations").strip("'")
    task = "taken as the task's" if clock is None else f"the task's before {clock:,} steps, then the clock's"
    return f"{flag}, {task}; what it does not end, the clock's"


def _axes(batch: EpisodeBatch) -> tuple[int, int]:
    """Rows of an episode, and agents."""
    for name, axes in (("obs", "agent, width"), ("state", "width"), ("avail_actions", "agent, choice")):
        table = getattr(batch, name)
        count = 2 + len(axes.split(", "))
        if table is not None and (len(table.shape) != count or 0 in table.shape):
            message = f"should have axes [episode, time + 1, {axes}], it has shape {tuple(table.shape)}."
            raise DataError(f"{batch.name(name)} {message}")
    seen = batch.state if batch.obs is None else batch.obs
    if seen is None:
        raise DataError(f"There should be {batch.name('obs')} or {batch.name('state')}.")
    if len(batch.actions.shape) not in {3, 4} or 0 in batch.actions.shape:
        raise DataError(
            f"{batch.name('actions')} should have axes [episode, time + 1, agent, 1], it has shape "
            f"{tuple(batch.actions.shape)}."
        )
    episodes, time = (int(count) for count in seen.shape[:2])
    agents = int(batch.actions.shape[2])
    for name in ("obs", "avail_actions", "actions", "state"):
        table = getattr(batch, name)
        if table is None:
            continue
        rows = {time, time - 1} if name == "actions" else {time}
        if table.shape[0] != episodes or table.shape[1] not in rows:
            raise DataError(
                f"{batch.name(name)} is of {table.shape[0]} episodes with {table.shape[1]} rows each, what was seen "
                f"of {episodes} with {time}."
            )
        if name != "state" and table.shape[2] != agents:
            raise DataError(f"{batch.name(name)} is of {table.shape[2]} agents, {batch.name('actions')} of {agents}.")
    return time, agents


def _column(batch: EpisodeBatch, name: str, time: int, agents: int) -> npt.NDArray[np.float32]:
    """`episode time agent`, with a row of zeros at the end where what is done lacks it."""
    table = getattr(batch, name)
    episodes = batch.actions.shape[0]
    lead, rest = tuple(table.shape[:2]), tuple(table.shape[2:])
    if lead not in {(episodes, time), (episodes, time - 1)} or rest not in {(), (1,), (agents,), (agents, 1)}:
        raise DataError(
            f"{batch.name(name)} should be one number a row, or a row and agent, of {episodes} episodes with {time} "
            f"rows each; it has shape {tuple(table.shape)}."
        )
    values = np.zeros((episodes, time, agents), np.float32)
    values[:, : lead[1]] = np.asarray(table[0:episodes], np.float32).reshape(*lead, -1)
    return values


def _flags(batch: EpisodeBatch, name: str, time: int, agents: int) -> npt.NDArray[np.bool_]:
    if getattr(batch, name) is None:
        return np.zeros((batch.actions.shape[0], time, agents), np.bool_)
    values = _column(batch, name, time, agents)
    if not np.isin(values, (0, 1)).all():
        raise DataError(f"{batch.name(name)} should hold true and false, or 1 and 0.")
    return values.astype(np.bool_)


def _lengths(batch: EpisodeBatch, time: int, ended: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], str]:
    """Steps of each episode, and what more there is to say of them."""
    by_flag = np.where(ended.any(1), ended.argmax(1) + 1, time)
    if batch.filled is None:
        if batch.terminations is None and batch.truncations is None:
            raise DataError(f"Nothing says where episodes end: there is no {batch.name('filled')}, and no flag.")
        _refuse_last(batch, by_flag == time, np.asarray(ended.any(1)))
        return np.minimum(by_flag, time - 1), f"; {batch.called.get('filled', 'filled')} is not there"
    filled = _flags(batch, "filled", time, 1)[..., 0]
    if batch.filled.shape[1] != time:
        raise DataError(
            f"{batch.name('filled')} has {batch.filled.shape[1]} rows an episode, what was seen {time}: it should be "
            "true for an episode's steps and for the row after the last one."
        )
    gaps = np.flatnonzero((filled[:, 1:] & ~filled[:, :-1]).any(1))
    if len(gaps):
        raise DataError(
            f"{batch.name('filled')} has a gap in episode {int(gaps[0])}: its rows should be the first ones."
        )
    rows = filled.sum(1)
    _refuse_last(batch, by_flag == rows, np.asarray(ended.any(1)))
    lengths = np.minimum(np.maximum(rows - 1, 0), by_flag)
    after = int((rows - 1 - lengths).clip(0).sum())
    return lengths, f"; {after} filled rows after a termination are left out" if after else ""


def _refuse_last(batch: EpisodeBatch, at_last: npt.NDArray[np.bool_], ended: npt.NDArray[np.bool_]) -> None:
    wrong = np.flatnonzero(at_last & ended)
    if len(wrong):
        raise DataError(
            f"Episode {int(wrong[0])} ends at its last row: {batch.name('terminations')} should stand one row before "
            "that, because the last row holds only what was seen then, and its action never happened."
        )


def _refuse_paid(batch: EpisodeBatch, rewards: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> None:
    """Refuse rewards of actions that never happened, where `filled` says that there is no such row."""
    after = rewards[np.arange(len(lengths)), lengths]
    paid = np.flatnonzero((np.nan_to_num(after) != 0).any(-1) & (lengths > 0))
    if len(paid):
        raise DataError(
            f"{batch.name('rewards')} pays episode {int(paid[0])} {float(after[paid[0]].max()):.6g} in the row after "
            "its last step, whose action never happened: it should be 0 there."
        )


def _actions(
    batch: EpisodeBatch, lengths: npt.NDArray[np.int64], agents: int
) -> tuple[Unpadded, tuple[int, ...], ActionKind]:
    table, width = batch.actions, batch.actions.shape[3] if len(batch.actions.shape) == 4 else 1
    known = batch.choices or (0 if batch.avail_actions is None else int(batch.avail_actions.shape[3]))
    if batch.choices and batch.avail_actions is not None and batch.choices != batch.avail_actions.shape[3]:
        raise DataError(
            f"{batch.name('avail_actions')} is of {batch.avail_actions.shape[3]} choices, where agents have "
            f"{batch.choices}."
        )
    whole = np.asarray(table[0:1]).dtype.kind in "biu"
    if not whole and not known:
        if len(table.shape) == 3:
            raise DataError(f"{batch.name('actions')} of floats should have axes [episode, time + 1, agent, act].")
        _refuse_one_hot(batch, Unpadded(table, lengths))
        return Unpadded(table, lengths), (width,) * agents, "continuous"

    def chosen(rows: Values) -> Values:
        flat = rows.reshape(len(rows), agents, width)
        if width > 1 and not is_one_hot(flat):
            raise DataError(f"{batch.name('actions')} should be one choice a row and agent, or one-hot rows of them.")
        picked: Values = flat.argmax(-1) if width > 1 else flat[..., 0]
        if not (picked == np.floor(picked)).all():
            raise DataError(f"{batch.name('actions')} should be whole numbers, which choices are.")
        return picked.astype(np.int64)

    made = Unpadded(table, lengths, 0, chosen, (agents,))
    most = width if width > 1 else 0
    if not known and not most:
        most = 1 + max(int(made[rows].max()) for rows in _parts(made))
    return made, (known or max(most, 1),) * agents, "discrete"


def _refuse_one_hot(batch: EpisodeBatch, table: Unpadded) -> None:
    if table.shape[-1] > 1 and all(is_one_hot(table[rows]) for rows in _parts(table)):
        raise DataError(
            f"{batch.name('actions')} holds one-hot rows of floats: give the choices themselves, whole numbers, as "
            "actions.argmax(-1)."
        )


def _parts(table: Unpadded) -> list[slice]:
    count = max(1, PIECE // max(1, 8 * int(np.prod(table.table.shape[2:], dtype=np.int64))))
    return [slice(start, start + count) for start in range(0, table.shape[0], count)]


def is_one_hot(values: Values) -> bool:
    """Whether each last axis is a one among zeros."""
    return bool(((values == 0) | (values == 1)).all() and (values.sum(-1) == 1).all())


def flat_fields_of(batch: EpisodeBatch) -> dict[str, Any]:
    """Fields of a data set of arrays in memory, by name, its spec included.

    Raises:
        DataError: See `unpad`.
    """
    flat = unpad(batch)
    seen = {name: flat.seen(name, last=True) for name in ("obs", "state", "avail_actions")}
    kinds = {"obs": torch.float32, "state": torch.float32, "avail_actions": torch.bool}
    tables = {name: _tensor(rows[:], kinds[name]) for name, rows in seen.items() if rows is not None}
    return {
        **tables,
        "actions": _tensor(flat.actions[:], torch.int64 if flat.spec.discrete else torch.float32),
        "rewards": torch.from_numpy(flat.rewards),
        "terminations": torch.from_numpy(flat.terminations),
        "truncations": torch.from_numpy(flat.truncations),
        "lengths": torch.from_numpy(flat.lengths[flat.lengths > 0]),
        "spec": flat.spec,
    }


def _tensor(rows: Values, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(rows.astype(rows.dtype.newbyteorder("="))).to(dtype)
