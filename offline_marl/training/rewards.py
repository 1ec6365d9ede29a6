"""Rewards to learn from: replaced, less a penalty, scaled and shifted, alike for recorded, imagined and live rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Protocol

import torch
from torch import Tensor

from offline_marl.core.acting.history import newest, pairs, windows
from offline_marl.core.axes import PerAgent, PerTeam
from offline_marl.core.types import Batch, DataError, History
from offline_marl.datasets import normalize
from offline_marl.datasets.arrays.presence import blanked
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer

ROWS_AT_ONCE = 65_536
"""Recorded steps that are replaced together."""


class Replacement(Protocol):
    """Rewards in place of the environment's, such as those of a model that was learnt from preferences.

    One that reads what came before a segment says how many past pairs by an attribute `window`.
    """

    def __call__(self, batch: Batch) -> PerAgent:
        """Rewards of these rows, which are segments `[batch, time]` in the order of time.

        Recorded and live segments are whole episodes, so that a recurrent model begins anew at time 0; imagined
        ones begin anywhere in an episode, after the `history` that they hold. Where `mask` is false nothing counts.

        Args:
            batch: Its `rewards` are the environment's, or a world model's prediction of them.
        """
        ...


class Rewards:
    """From the rewards of the environment to those that are learnt from.

        learnt = factor * (replacement(rows) - penalty) + bias

    Without a replacement the rewards themselves stand in its place. Recorded rows are converted once, here;
    live and imagined ones as they are made, by `of`. World models are fitted to rewards as recorded and foresee
    them in these units, and so does their penalty for disagreement: both are scaled with the rest. Rewards of
    the environment stay in the data given, for scores and statistics; nothing that is made from `recorded` or
    `of` holds them once they are replaced.

    Args:
        data: Recorded episodes with the environment's rewards.
        scale: The factor, or `range`: 1000 / (best return - worst return) of the recorded episodes, in the rewards
            that replace the recorded ones; the rule of MOMA-PPO's code for ant, halfcheetah and walker2d.
        replacement: Computes the rewards to learn from.
        device: Where the replacement computes.
        bias: Added in the end, to rewards of agents that are there.

    Raises:
        DataError: All episodes return the same, so that there is no range; or a replacement is not finite.
    """

    def __init__(
        self,
        data: Dataset,
        scale: float | str = 1.0,
        replacement: Replacement | None = None,
        device: torch.device | str = "cpu",
        bias: float = 0.0,
    ) -> None:
        self.replacement, self.bias = replacement, bias
        if replacement is not None:
            data = replace(data, rewards=_replaced(data, replacement, device))
        self.factor = _factor(data, scale)
        self.recorded = _line(data, self.factor, bias)
        """The data with the rewards that are learnt from."""

    @property
    def window(self) -> int:
        """Past pairs that a replacement reads where segments begin within an episode; no more than there are."""
        wanted = int(getattr(self.replacement, "window", 0))
        return min(wanted, int(self.recorded.lengths.max()))

    def of(self, batch: Batch, penalty: PerTeam | None = None, before: History | None = None) -> Batch:
        """Segments that were made during training, with the rewards that are learnt from.

        Args:
            batch: Segments `[batch, time]` with the environment's rewards or a model's prediction of them.
            penalty: Taken from every agent's reward, in their units.
            before: The last `window` pairs before segments that begin within an episode.
        """
        rewards = batch.rewards
        if self.replacement is not None:
            asked, past = batch, newest(before, self.window)
            if past is not None:
                steps = pairs(batch.obs, batch.actions, self.recorded.spec)
                asked = replace(batch, history=windows(past, steps), next_history=None)
            rewards = _ask(self.replacement, asked)
        if penalty is not None:
            rewards = rewards - penalty.unsqueeze(-1)
        if self.factor != 1.0:
            rewards = rewards * self.factor
        if self.bias:
            rewards = rewards + self.bias
        if (self.replacement is not None or self.bias) and batch.mask is not None:
            rewards = rewards.masked_fill(~batch.mask, 0.0)
        return batch if rewards is batch.rewards else replace(batch, rewards=rewards)

    def best_values(self, gamma: float) -> tuple[Annotated[Tensor, "agent"], Tensor]:
        """The largest discounted return-to-go of what is learnt from: of each agent, and of the mean over agents."""
        return normalize.best_values(self.recorded, gamma)


@torch.no_grad()
def _ask(replacement: Replacement, batch: Batch) -> PerAgent:
    rewards = replacement(batch).to(batch.rewards)
    if rewards.shape != batch.rewards.shape:
        shapes = f"{tuple(rewards.shape)}, not {tuple(batch.rewards.shape)}"
        raise DataError(f"Rewards in place of the environment's have shape {shapes}: one for each agent at each step.")
    return rewards


def _replaced(data: Dataset, replacement: Replacement, device: torch.device | str) -> Annotated[Tensor, "step agent"]:
    made = []
    for episodes, lengths in zip(whole_episodes(data), _chunks(data.lengths), strict=True):
        rewards = _ask(replacement, episodes.to(device)).cpu()
        made.append(rewards[torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)])
    table = blanked(torch.cat(made), data.mask)
    if not bool(table.isfinite().all()):
        raise DataError("Rewards in place of the recorded ones are not all finite.")
    return table


def whole_episodes(data: Dataset) -> Iterator[Batch]:
    """All recorded episodes as segments, a few at a time, each as long as the longest of these."""
    buffer, count = TransitionBuffer(data), 0
    for lengths in _chunks(data.lengths):
        yield buffer.segments(buffer.first[count : count + len(lengths)], int(lengths.max()))
        count += len(lengths)


def _chunks(lengths: Tensor) -> Sequence[Tensor]:
    """Lengths of a few episodes at a time."""
    return torch.split(lengths, max(ROWS_AT_ONCE // int(lengths.max()), 1))


def _factor(data: Dataset, scale: float | str) -> float:
    if scale != "range":
        return float(scale)
    returns = data.returns()
    spread = float(returns.max() - returns.min())
    if spread <= 0:
        raise DataError("reward_scale = range needs episodes of different returns; here all return the same.")
    return 1000.0 / spread


def _line(data: Dataset, factor: float, bias: float) -> Dataset:
    """The data with `factor * rewards + bias` where agents are there."""
    if factor == 1.0 and not bias:
        return data
    shared = data.rewards.stride(-1) == 0  # one column that stands for all agents stays one
    rewards = (data.rewards[:, :1] if shared else data.rewards) * factor + bias
    return replace(data, rewards=blanked(rewards.expand(data.rewards.shape), data.mask if bias else None))
