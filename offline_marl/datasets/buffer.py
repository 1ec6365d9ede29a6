"""Transitions as tensors on the training device, with the views that learners ask for.

History windows are gathered by arithmetic from episode starts and never cross an episode.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from offline_marl.core.types import Batch, DataError, Needs
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.flat import episode_numbers, starts

Rows = Annotated[Tensor, "batch"]


def refuse_long_window(data: Dataset, window: int) -> None:
    """No history is longer than the longest episode.

    Raises:
        DataError: This one would be.
    """
    longest = int(data.lengths.max())
    if window > longest:
        raise DataError(f"A window of {window} is longer than every episode of the data (at most {longest} steps).")


class TransitionBuffer:
    """All transitions of a data set.

    Args:
        data: The episodes.
        window: Past (obs, action) pairs in each row's history; 0 for none.
        device: Where the tensors live and batches are made.
        state: Whether batches carry the global state, if the data has one.

    Raises:
        DataError: The window is longer than the longest episode.
    """

    def __init__(self, data: Dataset, window: int = 0, device: torch.device | str = "cpu", state: bool = True) -> None:
        refuse_long_window(data, window)
        self.window = window
        self.spec = data.spec
        numbers = episode_numbers(data.lengths)
        first = starts(data.lengths)[numbers]
        self._episode = numbers.to(device)
        self._start = first.to(device)
        self._first = starts(data.lengths).to(device)
        self._end = (first + data.lengths[numbers]).to(device)
        self._obs = data.obs.to(device)
        self._actions = data.actions.to(device)
        self._rewards = data.rewards.to(device)
        self._terminations = data.terminations.to(device)
        self._truncations = data.truncations.to(device)
        self._state = data.state.to(device) if state and data.state is not None else None
        self._avail = None if data.avail_actions is None else data.avail_actions.to(device)
        self._offsets = torch.arange(-window, 1, device=device)

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self._rewards)

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self._obs.device

    @property
    def first(self) -> Rows:
        """Positions of the first steps of the episodes, in order."""
        return self._first

    def draw(self, count: int, generator: torch.Generator) -> Rows:
        """Positions drawn uniformly with replacement."""
        return torch.randint(len(self), (count,), generator=generator, device=self.device)

    def draw_first(self, count: int, generator: torch.Generator) -> Rows:
        """Positions of first steps of episodes, the episodes drawn uniformly with replacement."""
        return self._first[torch.randint(len(self._first), (count,), generator=generator, device=self.device)]

    def transitions(self, index: Rows) -> Batch:
        """The transitions at these positions, `[batch, agent, ...]`."""
        row = index + self._episode[index]
        history, next_history = self._histories(index) if self.window else (None, None)
        return Batch(
            obs=self._obs[row],
            actions=self._actions[index],
            rewards=self._rewards[index],
            next_obs=self._obs[row + 1],
            terminations=self._terminations[index],
            truncations=self._truncations[index],
            state=None if self._state is None else self._state[row],
            next_state=None if self._state is None else self._state[row + 1],
            history=history,
            next_history=next_history,
            avail_actions=None if self._avail is None else self._avail[row],
            next_avail_actions=None if self._avail is None else self._avail[row + 1],
        )

    def segments(self, index: Rows, length: int) -> Batch:
        """Cuts of `length` steps that begin at these positions, `[batch, time, agent, ...]`.

        A cut that reaches the end of its episode is padded with its last step, and `mask` is false there.
        """
        steps = index.unsqueeze(-1) + torch.arange(length, device=index.device)
        inside = steps < self._end[index].unsqueeze(-1)
        steps = torch.minimum(steps, self._end[index].unsqueeze(-1) - 1)
        flat = self.transitions(steps.flatten())
        mask = inside.unsqueeze(-1).expand(-1, -1, self.spec.n_agents)
        return replace(flat.map(lambda value: value.unflatten(0, (len(index), length))), mask=mask)

    def view(self, index: Rows, needs: Needs) -> Batch:
        """Transitions or segments, as `needs` says."""
        return self.transitions(index) if needs.view == "transitions" else self.segments(index, needs.length)

    def _histories(self, index: Rows) -> tuple[Tensor, Tensor]:
        steps = index.unsqueeze(-1) + self._offsets
        inside = steps >= self._start[index].unsqueeze(-1)
        # Steps before the episode are taken from anywhere and blanked.
        taken = steps.clamp(min=0).flatten()
        done = self._actions.index_select(0, taken)
        if self.spec.discrete:
            done = torch.nn.functional.one_hot(done, self.spec.act_dim).to(self._obs.dtype)
        pairs = torch.cat([self._obs.index_select(0, taken + self._episode[taken]), done], dim=-1)
        windows = pairs.view(*steps.shape, *pairs.shape[1:]).masked_fill_(~inside[..., None, None], 0.0).transpose(1, 2)
        return windows[:, :, :-1], windows[:, :, 1:]
