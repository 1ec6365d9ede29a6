"""Transitions as tensors on the training device, with the views that learners ask for.

History windows are gathered by arithmetic from episode starts and never cross an episode.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from offline_marl.core.acting.history import pairs
from offline_marl.core.axes import PerAgent
from offline_marl.core.files import expect_random_reads
from offline_marl.core.types import Batch, DataError, Needs
from offline_marl.datasets.base import ROWS_AT_ONCE, Chosen, Dataset
from offline_marl.datasets.columns import Columns
from offline_marl.datasets.episode_index import Lengths, starts

Rows = Annotated[Tensor, "batch"]


def refuse_long_window(lengths: Lengths, window: int, setting: str = "") -> None:
    """No history is longer than the longest episode.

    Args:
        lengths: Steps of each episode.
        window: Pairs of the history.
        setting: What asks for so many, such as "frame_stack of 4"; a window unless said.

    Raises:
        DataError: This one would be.
    """
    longest = int(lengths.max())
    if window > longest:
        setting = setting or f"window of {window}"
        raise DataError(f"A {setting} is longer than every episode of the data (at most {longest} steps).")


class TransitionBuffer:
    """All transitions of a data set, or of some of its episodes; nothing of it is copied on the CPU.

    Args:
        data: The episodes.
        window: Past (obs, action) pairs in each row's history; 0 for none.
        device: Where batches are made.
        state: Whether batches carry the global state, if the data has one.
        episodes: Numbers of the episodes whose transitions these are, in order; all unless said.
        stays: Leave the data where it is, such as on disk, draw there, and send each batch to `device`.

    Raises:
        DataError: The window is longer than the longest episode of the data.
    """

    def __init__(
        self,
        data: Dataset,
        window: int = 0,
        device: torch.device | str = "cpu",
        state: bool = True,
        episodes: Chosen | None = None,
        stays: bool = False,
    ) -> None:
        lengths = data.lengths if episodes is None else data.lengths[episodes]
        refuse_long_window(data.lengths, window)
        self.window, self.spec, self._target = window, data.spec, torch.device(device)
        home = "cpu" if stays else device
        # Positions count the steps of these episodes; a step lies `shift` behind its position, its row further.
        numbers = torch.arange(len(lengths)) if episodes is None else episodes
        shift = starts(data.lengths)[numbers] - starts(lengths)
        self._shift = None if episodes is None else shift.to(home)
        self._row_shift = (shift + numbers).to(home)
        # Four bytes a step: the one array here that a set larger than memory still needs whole.
        self._episode = torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), lengths).to(home)
        self._first = starts(lengths).to(home)
        self._end = torch.cumsum(lengths, 0).to(home)
        self._obs = data.obs.to(home) if isinstance(data.obs, Tensor) else data.obs
        self._actions = data.actions.to(home) if isinstance(data.actions, Tensor) else data.actions
        self._rewards = data.rewards.to(home)
        self._terminations = data.terminations.to(home)
        self._truncations = data.truncations.to(home)
        self._state = data.state.to(home) if state and data.state is not None else None
        self._avail = None if data.avail_actions is None else data.avail_actions.to(home)
        mask = data.mask
        if mask is None and _apart(data.terminations):
            mask = torch.ones(1, 1, dtype=torch.bool).expand(data.terminations.shape)
        self._mask = None if mask is None else mask.to(home)
        known = None if data.ends_seen is None else data.ends_seen[numbers]
        self._ends_seen = None if known is None or bool(known.all()) else known.to(home)
        self._usable: dict[bool, tuple[Rows, Rows]] = {}
        self._offsets = torch.arange(-window, 1, device=home)
        if stays:
            columns = (data.obs, data.actions, data.rewards, data.terminations, data.truncations, data.state, data.mask)
            for column in columns:
                if column is not None:
                    expect_random_reads(column.table if isinstance(column, Columns) else column)

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self._episode)

    @property
    def device(self) -> torch.device:
        """Where positions are drawn."""
        return self._first.device

    @property
    def first(self) -> Rows:
        """Positions of the first steps of the episodes, in order."""
        return self._first

    def masks(self, needs: Needs) -> bool:
        """Whether transitions hold a mask: agents are away in some, or it is unknown what followed them."""
        return self._mask is not None or (needs.next_obs and self._ends_seen is not None)

    def draw(self, count: int, generator: torch.Generator, needs: Needs | None = None) -> Rows:
        """Positions drawn uniformly with replacement, of all steps or of those in which something counts for `needs`.

        Raises:
            DataError: Nothing counts in any step.
        """
        if needs is None or not self._partial(needs):
            return self._lots(len(self), count, generator)
        positions = self._countable(needs)[0]
        return positions[self._lots(len(positions), count, generator)]

    def draw_first(self, count: int, generator: torch.Generator, needs: Needs | None = None) -> Rows:
        """Positions of first steps of episodes, the episodes drawn uniformly with replacement; see `draw`."""
        first = self._first if needs is None or not self._partial(needs) else self._countable(needs)[1]
        return first[self._lots(len(first), count, generator)]

    def _lots(self, size: int, count: int, generator: torch.Generator) -> Rows:
        return torch.randint(size, (count,), generator=generator, device=self.device)

    def _partial(self, needs: Needs) -> bool:
        """Whether nothing may count in some steps."""
        return needs.next_obs and (self._mask is not None or self._ends_seen is not None)

    def _countable(self, needs: Needs) -> tuple[Rows, Rows]:
        """Positions of steps in which something counts, and first steps of episodes that hold such."""
        if needs.joint not in self._usable:
            found = []
            for index in torch.split(torch.arange(len(self), device=self.device), ROWS_AT_ONCE):
                step, _ = self._places(index)
                mask, seen = self._presence(index, step)
                counted = countable(mask, seen, _taken(self._terminations, step), needs)
                found.append(index[counted.any(-1)])
            positions = torch.cat(found)
            if not len(positions):
                raise DataError(
                    "No step of the data says what followed it, which this algorithm must know: give 'next_obs', or "
                    "longer episodes with the row after their last step."
                )
            episodes = torch.unique(self._episode_at(positions)).long()
            self._usable[needs.joint] = positions, self._first[episodes]
        return self._usable[needs.joint]

    def _presence(self, index: Rows, step: Rows) -> tuple[Tensor | None, Tensor | None]:
        """Where agents are there, and where it is known what they saw next; None where that is everywhere."""
        if self._mask is None and self._ends_seen is None:
            return None, None
        episode = self._episode_at(index)
        last = (index + 1 == self._end[episode]).unsqueeze(-1)
        known = torch.ones_like(last) if self._ends_seen is None else self._ends_seen[episode].unsqueeze(-1)
        if self._mask is None:
            return None, (~last | known).expand(-1, self.spec.n_agents)
        mask = self._mask.index_select(0, step)
        stays = self._mask.index_select(0, step + ~last.squeeze(-1))
        return mask, mask & torch.where(last, known, stays)

    def _next_present(self, index: Rows, step: Rows, stays: PerAgent) -> PerAgent:
        """Where agents are there in the next step, late-comers among them; behind an episode's end, those that stay."""
        assert self._mask is not None
        last = index + 1 == self._end[self._episode_at(index)]
        return torch.where(last.unsqueeze(-1), stays, self._mask.index_select(0, step + ~last))

    def transitions(self, index: Rows, next_actions: bool = False) -> Batch:
        """The transitions at these positions, `[batch, agent, ...]`, with what is done after them if asked for."""
        step, row = self._places(index)
        after = row + 1
        history, next_history = self._histories(index) if self.window else (None, None)
        avail, state = self._avail, self._state
        following, follows = self._following(index, step) if next_actions else (None, None)
        mask, next_seen = self._presence(index, step)
        terminations = _taken(self._terminations, step)
        batch = Batch(
            obs=self._obs.index_select(0, row),
            actions=self._actions.index_select(0, step),
            rewards=_taken(self._rewards, step),
            next_obs=self._obs.index_select(0, after),
            terminations=terminations,
            truncations=_taken(self._truncations, step),
            state=None if state is None else state.index_select(0, row),
            next_state=None if state is None else state.index_select(0, after),
            history=history,
            next_history=next_history,
            avail_actions=None if avail is None else avail.index_select(0, row),
            next_avail_actions=None if avail is None else avail.index_select(0, after),
            next_actions=following,
            next_mask=follows,
            mask=mask,
            next_present=None if mask is None else self._next_present(index, step, mask & ~terminations),
            next_seen=next_seen,
        )
        return batch if self._target == self.device else batch.to(self._target)

    def _episode_at(self, index: Rows) -> Rows:
        """The episode, in order, that each position is of."""
        return self._episode.index_select(0, index)

    def _places(self, index: Rows) -> tuple[Rows, Rows]:
        """The step of the data at each position, and the row that was seen before it."""
        episode = self._episode_at(index)
        row = index + self._row_shift.index_select(0, episode)
        return index if self._shift is None else index + self._shift.index_select(0, episode), row

    def _following(self, index: Rows, step: Rows) -> tuple[Tensor, Tensor]:
        """Actions of the steps after these, zero where the episode ends, and where it does not."""
        inside = index + 1 < self._end[self._episode_at(index)]
        actions = self._actions.index_select(0, step + inside)
        actions = actions.masked_fill(~inside.view(-1, *[1] * (actions.dim() - 1)), 0)
        follows = inside.unsqueeze(-1).expand(-1, self.spec.n_agents)
        return actions, follows if self._mask is None else follows & self._mask.index_select(0, step + inside)

    def segments(self, index: Rows, length: int, burn_in: int = 0, next_actions: bool = False) -> Batch:
        """Cuts whose counted steps begin at these positions, `[batch, time, agent, ...]`; see `Needs.burn_in`.

        A cut that reaches the end of its episode is padded with its last step, and `mask` is false there.
        """
        episode = self._episode_at(index)
        begin, time = torch.maximum(index - burn_in, self._first[episode]), burn_in + length
        steps = begin.unsqueeze(-1) + torch.arange(time, device=index.device)
        end, start = self._end[episode].unsqueeze(-1), index.unsqueeze(-1)
        counted = ((start <= steps) & (steps < start + length) & (steps < end)).to(self._target)
        steps = torch.minimum(steps, end - 1)
        flat = self.transitions(steps.flatten(), next_actions)
        mask = counted.unsqueeze(-1).expand(-1, -1, self.spec.n_agents)
        cuts = flat.map(lambda value: value.unflatten(0, (len(index), time)))
        if cuts.mask is None or cuts.next_present is None:
            return replace(cuts, mask=mask)
        return replace(cuts, mask=mask & cuts.mask, next_present=mask & cuts.next_present)

    def view(self, index: Rows, needs: Needs) -> Batch:
        """Transitions, segments that begin here, or the whole episodes that these steps are of, as `needs` says.

        Where next observations are read, `mask` is false for agents of whom nobody knows what they saw next, unless
        they terminated.
        """
        batch = self._viewed(index, needs)
        if not needs.next_obs or batch.next_seen is None:
            return batch
        mask = countable(batch.mask, batch.next_seen, batch.terminations, needs)
        present = torch.ones_like(mask) if batch.mask is None else batch.mask
        return replace(batch, mask=mask, present=present, next_seen=None)

    def _viewed(self, index: Rows, needs: Needs) -> Batch:
        if needs.view == "transitions":
            return self.transitions(index, needs.next_actions)
        if needs.length:
            return self.segments(index, needs.length, needs.burn_in, needs.next_actions)
        episode = self._episode_at(index)
        first = self._first[episode]
        return self.segments(first, int((self._end[episode] - first).max()), next_actions=needs.next_actions)

    def _histories(self, index: Rows) -> tuple[Tensor, Tensor]:
        steps = index.unsqueeze(-1) + self._offsets
        inside = steps >= self._first[self._episode_at(index)].unsqueeze(-1)
        # Steps before the episode are taken from anywhere and blanked.
        step, row = self._places(steps.clamp(min=0).flatten())
        flat = pairs(self._obs.index_select(0, row), self._actions.index_select(0, step), self.spec)
        windows = flat.view(*steps.shape, *flat.shape[1:]).masked_fill_(~inside[..., None, None], 0.0).transpose(1, 2)
        return windows[:, :, :-1], windows[:, :, 1:]


def countable(mask: Tensor | None, next_seen: Tensor | None, terminations: Tensor, needs: Needs) -> Tensor:
    """Bool per agent: it is there, and its target is known."""
    there = torch.ones_like(terminations) if mask is None else mask
    if next_seen is None:
        return there
    known = next_seen | terminations
    return there & ((known | ~there).all(-1, keepdim=True) if needs.joint else known)


def _apart(terminations: Tensor) -> bool:
    """Whether one agent terminates in a step in which another does not."""
    return terminations.stride(1) != 0 and bool((terminations != terminations[:, :1]).any())


def _taken(values: Tensor, index: Rows) -> Tensor:
    """Rows of `step agent`; one column that stands for all agents is taken once."""
    if values.stride(1):
        return values.index_select(0, index)
    return values[:, 0].index_select(0, index).unsqueeze(-1).expand(-1, values.shape[1]).contiguous()
