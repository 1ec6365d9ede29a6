"""Statistics of a data set: coverage of its space, duplicates, quantiles of returns.

Large fields are read in chunks; what is compared row by row is compared by 64-bit hashes of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline_marl.core.types import Spec
from offline_marl.datasets.arrays.presence import rows_seen
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.episode_index import episode_sums
from offline_marl.datasets.validate import CHUNK, SEEN, chunks, unequal_rewards

SAMPLE = 10_000
"""Rows that coverage is measured on, drawn with a fixed seed."""
CELLS = 32
"""Cells along each side of the grid of two principal components."""
SPAN = 3.0
"""Standard deviations to either side of the mean that the grid reaches; what lies beyond counts in its outer cells."""
ROUNDING = 1e-5
"""Deviation of a second component, beside that of the first, below which it is the rounding of float32."""
BINS = 20
"""Parts of [-1, 1] in which each action is looked for."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Coverage:
    """Rows of observations on their first two principal components.

    The grid has `CELLS` x `CELLS` cells, reaches `SPAN` standard deviations of each component, and holds at most
    `SAMPLE` rows; its scale is the set's own: shares tell how evenly a set fills its space, not how large that is.
    """

    points: Annotated[Tensor, "row 2"]
    """In standard deviations of each component."""
    counts: Annotated[Tensor, "cell cell"]
    variance: float
    """Share of the observations' variance, each column scaled to 1, that the two components hold."""

    @property
    def share(self) -> float:
        """Share of the cells that hold a row."""
        return float((self.counts > 0).double().mean())


def returns_of(data: Recording | Dataset) -> Annotated[Tensor, "episode"]:
    """Summed reward of each episode, averaged over agents."""
    if isinstance(data, Recording):
        return episode_sums(data.rewards, data.lengths)
    sums = torch.zeros(len(data.lengths), dtype=torch.float64)
    ends = torch.cumsum(data.lengths, 0)
    for first, rewards in chunks(data.rewards):
        episode = torch.searchsorted(ends, torch.arange(first, first + len(rewards)), right=True)
        sums.index_add_(0, episode, rewards.double().mean(-1))
    return sums


def reward_kind(data: Recording | Dataset) -> str:
    """What recorders write as `reward`: `team` where all agents always got the same, as on one body, else `own`."""
    if isinstance(data, Recording):
        return "team"
    if data.mask is not None:
        return "own" if unequal_rewards(data)[0] else "team"
    return "team" if all(bool((piece == piece[:, :1]).all()) for _, piece in chunks(data.rewards)) else "own"


def quantiles(values: Tensor) -> dict[str, float]:
    """Of a distribution, by names such as `q25`."""
    numbers = torch.quantile(values.double(), torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
    return {f"q{round(100 * level):02d}": value for level, value in zip(QUANTILES, numbers, strict=True)}


def coverage(data: Recording | Dataset) -> Coverage:
    """How the observations (of a recording, the states) fill the plane of their first two principal components."""
    seen = data.state if isinstance(data, Recording) else data.obs
    known = rows_seen(data)
    if known is None:
        rows = _sample(len(seen))
        there = None
    else:
        some = (known if known.dim() == 1 else known.any(-1)).nonzero().flatten()
        rows = some[_sample(len(some))]
        there = None if known.dim() == 1 else known[rows]
    table = seen[rows].flatten(1).double()
    if there is not None:
        # Whoever is away lies at its own mean, where it moves no component.
        wide = there.unsqueeze(-1).expand(seen[rows].shape).flatten(1)
        mean = (table * wide).sum(0) / wide.sum(0).clamp(min=1)
        table = torch.where(wide, table, mean)
    deviation = table.std(0, correction=0)
    table = ((table - table.mean(0)) / deviation.clamp(min=1e-12))[:, deviation > 1e-8]
    if table.shape[1] == 0:
        table = torch.zeros(len(rows), 1, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(table.T @ table / len(table))
    values, vectors = values[-2:].flip(0).clamp(min=0), vectors[:, -2:].flip(1)
    # A component's sign is anybody's choice: its largest entry is positive here.
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    deviations = values.sqrt()
    # Beside a line, what is left to its second component is rounding, which no scale makes a plane of.
    moves = deviations > ROUNDING * deviations[0]
    points = torch.where(moves, table @ vectors / deviations.clamp(min=1e-12), 0.0)
    if points.shape[1] == 1:
        points = torch.cat([points, torch.zeros_like(points)], dim=1)
    cells = ((points / SPAN + 1) / 2 * CELLS).floor().clamp(0, CELLS - 1).long()
    counts = torch.bincount(cells[:, 0] * CELLS + cells[:, 1], minlength=CELLS**2).view(CELLS, CELLS)
    return Coverage(points, counts, float(values.sum() / max(table.shape[1], 1)))


def action_counts(data: Recording | Dataset) -> list[Annotated[Tensor, "action bin"]]:
    """Of each agent: of each of its actions, how often it lies in each of `BINS` parts of [-1, 1].

    Of choices, one row: how often each was made. A recording is one agent.
    """
    counts: list[Tensor] = []
    for number, (first, piece) in enumerate(chunks(data.actions)):
        for agent, actions in enumerate(_by_agent(data, piece, first)):
            if actions.is_floating_point():
                cells = ((actions + 1) / 2 * BINS).floor().clamp(0, BINS - 1).long().T
                bins = torch.zeros(len(cells), BINS, dtype=torch.int64)
                agent_counts = bins.scatter_add_(1, cells, torch.ones_like(cells))
            else:
                agent_counts = torch.bincount(actions, minlength=_spec(data).act_dims[agent])[None]
            if number:
                counts[agent] += agent_counts
            else:
                counts.append(agent_counts)
    return counts


def action_ranges(data: Recording | Dataset) -> list[list[float]]:
    """Least and greatest action of each agent; of choices, their numbers."""
    pieces = [_by_agent(data, piece, first) for first, piece in chunks(data.actions)]
    ends = [[actions.aminmax() if len(actions) else None for actions in agents] for agents in pieces]
    borders = [[pair for pair in agent_ends if pair is not None] for agent_ends in zip(*ends, strict=True)]
    return [
        [float(min(low for low, _ in pairs)), float(max(high for _, high in pairs))] if pairs else [0.0, 0.0]
        for pairs in borders
    ]


def duplicates(data: Recording | Dataset) -> dict[str, int]:
    """How many transitions, and how many whole episodes, repeat an earlier one bit for bit.

    A transition is all that is held of it: what was seen before and after, what was done, rewards and flags.
    """
    steps, ends = _step_hashes(data), torch.cumsum(data.lengths, 0).numpy()
    episodes = _stirred(data.lengths.numpy().astype(np.uint64))
    for begin in range(0, len(steps), CHUNK):
        numbers = np.arange(begin, min(begin + CHUNK, len(steps)))
        owner = np.searchsorted(ends, numbers, side="right")
        place = (numbers - (ends - data.lengths.numpy())[owner]).astype(np.uint64)
        # Summed, because an episode may lie in two pieces; its steps are told apart by their place.
        np.add.at(episodes, owner, _stirred(steps[begin : begin + CHUNK] ^ _stirred(place)))
    return {"transitions": _repeats(steps), "episodes": _repeats(episodes)}


def _repeats(hashes: Hashes) -> int:
    """How many repeat another one; sorts them where they are."""
    hashes.sort()
    before, after = hashes[:-1], hashes[1:]
    pieces = [slice(first, first + CHUNK) for first in range(0, len(after), CHUNK)]
    return sum(int(np.count_nonzero(before[piece] == after[piece])) for piece in pieces)


def _sample(rows: int) -> Tensor:
    if rows <= SAMPLE:
        return torch.arange(rows)
    lots = np.random.default_rng(0).choice(rows, SAMPLE, replace=False)
    return torch.from_numpy(np.sort(lots))


def _spec(data: Any) -> Spec:
    spec: Spec = data.spec
    return spec


def _by_agent(data: Recording | Dataset, actions: Tensor, first: int) -> list[Tensor]:
    """What each agent does in steps from `first` on, without those in which it is away."""
    if isinstance(data, Recording):
        return [actions]
    if data.spec.discrete:
        parts = list(actions.unbind(1))
    else:
        parts = [actions[:, agent, :width] for agent, width in enumerate(data.spec.act_dims)]
    if data.mask is None:
        return parts
    there = data.mask[first : first + len(actions)]
    return [part[there[:, agent]] for agent, part in enumerate(parts)]


def _step_hashes(data: Any) -> Hashes:
    seen: Hashes = np.zeros(int((data.lengths + 1).sum()), np.uint64)
    done: Hashes = np.zeros(int(data.lengths.sum()), np.uint64)
    for name in ("obs", "state", "avail_actions", "actions", "rewards", "terminations", "truncations"):
        value = getattr(data, name, None)
        if value is not None:
            _hash_into(seen if name in SEEN else done, value)
    ends = torch.cumsum(data.lengths, 0).numpy()
    for begin in range(0, len(done), CHUNK):
        piece = slice(begin, begin + CHUNK)
        steps = np.arange(begin, min(begin + CHUNK, len(done)))
        rows = steps + np.searchsorted(ends, steps, side="right")
        done[piece] = _stirred(done[piece] ^ seen[rows])
        done[piece] = _stirred(done[piece] ^ seen[rows + 1])
    return done


def _hash_into(hashes: Hashes, value: Tensor) -> None:
    """Stir each row of `value` into its hash, four bytes at a time."""
    for begin, piece in chunks(value):
        table = piece.reshape(len(piece), -1).contiguous().numpy()
        words = table.view(np.uint32) if table.itemsize >= 4 else table.astype(np.uint32)
        row = hashes[begin : begin + len(piece)]
        for word in np.ascontiguousarray(words.T):
            row[:] = _stirred(row ^ word)


def _stirred(values: Hashes) -> Hashes:
    """Spreads every bit over all 64 of them: xorshift and multiplication, with wrap-around."""
    values = (values + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(32)
    values *= np.uint64(0xC4CEB9FE1A85EC53)
    values ^= values >> np.uint64(29)
    return values
