"""Presence of agents in episodes, from flags that are set once or repeated; an episode ends when all have left."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from offline_marl.core.types import DataError, Spec
from offline_marl.datasets.episode_index import (
    Lengths,
    add_final_rows,
    episode_numbers,
    last_steps,
    lengths_of,
    starts,
)

PerAgent = Annotated[Tensor, "steps agent"]


@dataclass(frozen=True)
class Ends:
    """Ends of episodes and of each agent's part in them."""

    terminations: PerAgent
    """Bool, true at an agent's own last step alone; of one body without the axis of agents."""
    truncations: PerAgent
    """The same; what no flag ends was cut."""
    lengths: Lengths
    mask: PerAgent | None
    """Bool, true where an agent is there; None where all are everywhere."""


def find_ends(
    terminations: PerAgent, truncations: PerAgent, lengths: Lengths | None = None, mask: PerAgent | None = None
) -> Ends:
    """Ends of the episodes of a team, or of one body where flags have one axis.

    An agent's first flag in an episode is its last step there. A flag may be true once, as in PettingZoo, or repeated
    until the episode ends; the last step of an episode may carry everybody's.

    Args:
        terminations: Bool; left as it is.
        truncations: Bool; left as it is.
        lengths: Where they are known; else an episode ends as soon as all agents have left.
        mask: Where agents are there as far as it is known, such as of agents who come later; it needs `lengths`.

    Raises:
        DataError: An agent ends more than once in an episode, or comes back.
    """
    ended = terminations | truncations
    if ended.dim() == 1:
        lengths = lengths_of(ended) if lengths is None else lengths
        truncations = truncations.clone()
        last = last_steps(lengths)
        truncations[last] |= ~ended[last]
        return Ends(terminations.clone(), truncations, lengths, None)
    ended = ended if mask is None else ended & mask
    if lengths is None:
        together = ended.all(-1)
        lengths = lengths_of(together) if torch.equal(together, ended.any(-1)) else _lengths(ended)
    last, number = last_steps(lengths), episode_numbers(lengths)
    present = _present(ended, lengths, number)
    _refuse_second_ends(ended & ~present, ended & present, lengths, number)
    if mask is not None:
        _refuse_comebacks(mask, lengths, number)
        present = present & mask
    over, cut = terminations & present, truncations & present
    # Whoever is gone in the next step without a flag was cut, and so is who is there when recording stops.
    stays = torch.zeros_like(present)
    stays[:-1] = present[1:]
    stays[last] = False
    return Ends(over, cut | (present & ~stays & ~over & ~cut), lengths, None if bool(present.all()) else present)


def comebacks(mask: PerAgent, lengths: Lengths) -> PerAgent:
    """Bool, true where an agent is there after it was away, and had been there before in its episode."""
    first = starts(lengths)
    before = torch.zeros_like(mask)
    before[1:] = mask[:-1]
    before[first] = False
    comes = mask & ~before
    so_far = torch.cumsum(comes, 0, dtype=torch.int32)
    earlier = (so_far - comes.int())[first][episode_numbers(lengths)]
    return comes & (so_far - earlier > 1)


def leaves_early(terminations: PerAgent, truncations: PerAgent, lengths: Lengths) -> bool:
    """Whether flags end some agent before its episode's last step, while others go on."""
    ended = terminations | truncations
    ended[last_steps(lengths)] = False
    return bool((ended.any(-1) & ~ended.all(-1)).any())


def rows_mask(mask: PerAgent, lengths: Lengths) -> Annotated[Tensor, "rows agent"]:
    """Presence in each row of what is seen; in an episode's last row, of those who took its last step."""
    return add_final_rows(mask, mask[last_steps(lengths)], lengths)


def rows_seen(data: Any) -> Tensor | None:
    """Bool for each row of what is seen, or row and agent: it was recorded, of an agent that is there; None for all."""
    known: Tensor | None = None
    if data.ends_seen is not None and not bool(data.ends_seen.all()):
        known = torch.ones(int((data.lengths + 1).sum()), dtype=torch.bool)
        known[(torch.cumsum(data.lengths + 1, 0) - 1)[~data.ends_seen]] = False
    mask = getattr(data, "mask", None)
    if mask is None:
        return known
    there = rows_mask(mask, data.lengths)
    return there if known is None else there & known.unsqueeze(-1)


def blanked(values: Tensor, present: Annotated[Tensor, "row agent"] | None) -> Tensor:
    """Values `row agent ...` that are 0 where an agent is away."""
    if present is None:
        return values
    return values.masked_fill(~present.view(*present.shape, *[1] * (values.dim() - 2)), 0)


def with_presence(fields: Mapping[str, Any], ends: Ends) -> dict[str, Any]:
    """Fields of a data set by name, with these ends, and zeros where agents are away."""
    held = {**fields, "terminations": ends.terminations, "truncations": ends.truncations}
    held |= {"lengths": ends.lengths, "mask": ends.mask}
    if ends.mask is None:
        return held
    present = rows_mask(ends.mask, ends.lengths)
    held |= {name: blanked(held[name], ends.mask) for name in ("actions", "rewards")}
    held["obs"] = blanked(held["obs"], present)
    if held.get("avail_actions") is not None:
        held["avail_actions"] = free(held["avail_actions"], present, held["spec"])
    return held


def free(avail_actions: Annotated[Tensor, "row agent choice"], present: PerAgent, spec: Spec) -> Tensor:
    """Choices with all of them allowed where an agent is away: what it does there is 0."""
    return avail_actions | (~present.unsqueeze(-1) & spec.present("act"))


def _lengths(ended: PerAgent) -> Lengths:
    """Lengths of episodes that end where the last agent's first flag is."""
    flags = [column.nonzero().flatten().tolist() for column in ended.unbind(-1)]
    total, first, ends = len(ended), 0, list[int]()
    while first < total:
        nexts = [bisect_left(column, first) for column in flags]
        last = max(column[at] if at < len(column) else total - 1 for column, at in zip(flags, nexts, strict=True))
        ends.append(last)
        first = last + 1
    return torch.diff(torch.tensor(ends), prepend=torch.tensor([-1]))


def _present(ended: PerAgent, lengths: Lengths, number: Tensor) -> PerAgent:
    """True until an agent's first flag in its episode, that step included."""
    before = torch.cumsum(ended, 0, dtype=torch.int32) - ended.int()
    return before == before[starts(lengths)][number]


def _refuse_second_ends(later: PerAgent, first: PerAgent, lengths: Lengths, number: Tensor) -> None:
    """Flags after an agent's first one are none, or all until the episode's last step, which may have one in any case.

    Raises:
        DataError: An agent ends twice.
    """
    if not bool(later.any()):
        return
    later = later.clone()
    last = last_steps(lengths)
    later[last] = False
    counts = torch.zeros(len(lengths), later.shape[1], dtype=torch.int64).index_add_(0, number, later.long())
    steps = torch.arange(len(first)).unsqueeze(-1)
    own = torch.zeros_like(counts).index_add_(0, number, first * steps)
    room = (last.unsqueeze(-1) - own - 1).clamp(min=0)
    wrong = (counts > 0) & (counts != room)
    if bool(wrong.any()):
        episode, agent = wrong.nonzero()[0].tolist()
        raise DataError(
            f"Agent {agent} ends more than once in episode {episode} ({int(lengths[episode])} steps), while others go "
            "on: an agent that has left stays away until all have left; give 'lengths' if episodes end elsewhere."
        )


def _refuse_comebacks(mask: PerAgent, lengths: Lengths, number: Tensor) -> None:
    """Refuse a mask in which an agent is there again after it has left.

    Raises:
        DataError: One is.
    """
    again = comebacks(mask, lengths).nonzero()
    if len(again):
        step, agent = again[0].tolist()
        episode = int(number[step])
        place = f"episode {episode}, step {step - int(starts(lengths)[episode])}"
        raise DataError(f"Agent {agent} comes back in {place}: an agent that has left stays away until all have left.")
