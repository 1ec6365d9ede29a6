"""Index arithmetic on flat tensors of episodes, without a loop over them."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from offline_marl.core.seeding import derive
from offline_marl.core.types import DataError

Lengths = Annotated[Tensor, "episode"]
"""Int64 steps of each episode."""
AT_ONCE = 1 << 22
"""Numbers looked at together, of arrays that may be larger than memory."""
PerStep = Annotated[Tensor, "steps"]


def starts(lengths: Lengths) -> Annotated[Tensor, "episode"]:
    """The first transition of each episode."""
    return torch.cumsum(lengths, 0) - lengths


def ranges(first: Annotated[Tensor, "range"], counts: Annotated[Tensor, "range"]) -> PerStep:
    """first[0], first[0] + 1, ... counts[0] of them, then the next range."""
    shifts = torch.repeat_interleave(first - starts(counts), counts)
    return torch.arange(len(shifts)) + shifts


def episode_numbers(lengths: Lengths) -> PerStep:
    """The episode that each transition belongs to."""
    return torch.repeat_interleave(torch.arange(len(lengths)), lengths)


def episode_sums(values: PerStep, lengths: Lengths) -> Annotated[Tensor, "episode"]:
    """Sum of each episode's values, in double precision."""
    sums = torch.zeros(len(lengths), dtype=torch.float64)
    ends = torch.cumsum(lengths, 0)
    for first in range(0, len(values), AT_ONCE):
        piece = values[first : first + AT_ONCE]
        numbers = torch.searchsorted(ends, torch.arange(first, first + len(piece)), right=True)
        sums.index_add_(0, numbers, piece.double())
    return sums


def last_steps(lengths: Lengths) -> Annotated[Tensor, "episode"]:
    """The last transition of each episode."""
    return torch.cumsum(lengths, 0) - 1


def lengths_of(ended: PerStep) -> Lengths:
    """Lengths of the episodes that end where `ended` is true; the last step ends the last one whatever it says."""
    ends = ended.clone()
    ends[-1] = True
    last = ends.nonzero().flatten()
    return torch.diff(last, prepend=torch.tensor([-1]))


def add_final_rows(seen: Annotated[Tensor, "steps"], finals: Annotated[Tensor, "episode"], lengths: Lengths) -> Tensor:
    """Rows of what is seen, time+1 an episode, from one row a step and what followed each episode's last step."""
    rows = seen.new_empty((len(seen) + len(finals), *seen.shape[1:]))
    rows[torch.arange(len(seen)) + episode_numbers(lengths)] = seen
    rows[torch.cumsum(lengths + 1, 0) - 1] = finals
    return rows


def episodes_apart(
    lengths: Lengths, fraction: float, seed: int
) -> tuple[Annotated[Tensor, "chosen"], Annotated[Tensor, "chosen"]]:
    """Numbers of the episodes to learn from, and of those to hold out, each in order.

    Args:
        lengths: Of all episodes.
        fraction: Share of episodes that is held out, at least one.
        seed: Decides which.

    Raises:
        DataError: There are fewer than two episodes.
    """
    count = len(lengths)
    if count < 2:
        raise DataError("A data set of one episode cannot be split into training and validation.")
    generator = torch.Generator().manual_seed(derive(seed, "validation"))
    order = torch.randperm(count, generator=generator)
    held_out = min(max(1, round(fraction * count)), count - 1)
    return order[held_out:].sort().values, order[:held_out].sort().values
