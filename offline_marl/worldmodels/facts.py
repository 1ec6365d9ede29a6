"""Facts of a data set that a world model is built from: joint coordinates, their statistics and borders.

Agents often see the same thing. Columns of their observations that are equal in every row of the data
are one joint coordinate, modelled once, of agents that are always there together; padding is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from offline_marl.core.axes import PerAgent
from offline_marl.core.types import History, Obs, Spec

LEAST_STD = 1e-3
"""Numbers that hardly move are divided by no less than this, as policies' inputs are."""
ROWS_AT_ONCE = 65_536
COLUMNS_AT_ONCE = 16

Joint = Annotated[Tensor, "*lead coordinate"]
"""The joint observation: every agent's numbers side by side, each thing once."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Joint coordinates of a data set, with statistics in raw units; all of it is saved with the model."""

    spec: Spec
    pick: Annotated[Tensor, "coordinate"]
    """Int64: the column of `obs.flatten(-2)` that a coordinate is read from."""
    place: Annotated[Tensor, "column"]
    """Int64: the coordinate that stands in a column of `obs.flatten(-2)`; -1 on padding."""
    obs_mean: Annotated[Tensor, "coordinate"]
    obs_std: Annotated[Tensor, "coordinate"]
    change_mean: Annotated[Tensor, "coordinate"]
    """Mean of next_obs - obs; not zero where something drifts, such as a clock."""
    change_std: Annotated[Tensor, "coordinate"]
    """Deviation of next_obs - obs about its mean."""
    reward_mean: Annotated[Tensor, "agent"]
    reward_std: Annotated[Tensor, "agent"]
    low: Annotated[Tensor, "coordinate"]
    """Least value in the data, of obs and next_obs."""
    high: Annotated[Tensor, "coordinate"]
    reward_low: Annotated[Tensor, "agent"]
    reward_high: Annotated[Tensor, "agent"]
    terminates: bool
    """Whether any step of the data terminates."""
    team_rewards: bool
    """Whether agents that are there earn the same in every step of the data."""

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, and whether any step terminates."""
        return {name: getattr(self, name) for name in TENSORS} | {"terminates": torch.tensor(self.terminates)}

    def counts(self, mask: PerAgent) -> Annotated[Tensor, "*lead coordinate"]:
        """From agents (bool) to the coordinates that are read from what they see."""
        return mask.index_select(-1, self.pick // self.spec.obs_dim)

    @property
    def coordinates(self) -> int:
        """Number of joint coordinates."""
        return len(self.pick)

    def join(self, obs: Obs) -> Joint:
        """The joint coordinates of what the agents see."""
        flat = obs.flatten(-2)
        return flat if self._plain else flat.index_select(-1, self.pick)

    def spread_out(self, joint: Joint) -> Obs:
        """What each agent sees of the joint coordinates; zero on padding."""
        columns = joint if self._plain else joint.index_select(-1, self.place.clamp(min=0))
        if len(set(self.spec.obs_dims)) > 1:
            columns = columns.masked_fill(self.place < 0, 0.0)
        return torch.unflatten(columns, -1, (self.spec.n_agents, self.spec.obs_dim))

    def filled(self, obs: Obs, present: PerAgent | None) -> Obs:
        """What the agents see, and the mean where one is away: zeros once it is standardised.

        Args:
            obs: Raw.
            present: Bool, who is there; None for all.
        """
        return obs if present is None else torch.where(present.unsqueeze(-1), obs, self.spread_out(self.obs_mean))

    def filled_history(self, history: History | None, present: PerAgent | None) -> History | None:
        """The past as `filled`, of rows some of whose agents may be away; who sees nothing but zeros there is.

        Args:
            history: Raw pairs; those of steps that never were are zeros of all agents, and stay so.
            present: Bool, who is there now; None where nobody is ever away.
        """
        if present is None or history is None:
            return history
        seen, done = torch.split(history, [self.spec.obs_dim, self.spec.act_dim], dim=-1)
        away = history.ne(0).any(-1, keepdim=True).any(-3, keepdim=True) & ~self.there(history).unsqueeze(-1)
        mean = self.spread_out(self.obs_mean).unsqueeze(-2)
        return torch.cat([torch.where(away, mean, seen), done.masked_fill(away, 0.0)], dim=-1)

    def there(self, history: History) -> Annotated[Tensor, "*lead agent window"]:
        """Bool: which agents see something in each step of the past; who is away, and nobody before it, sees zeros."""
        return history[..., : self.spec.obs_dim].ne(0).any(-1)

    @property
    def shared(self) -> Annotated[Tensor, "agent obs"]:
        """Bool: numbers that move, and that several agents see."""
        viewers = torch.bincount(self.place[self.place >= 0], minlength=self.coordinates)
        moving = (viewers > 1) & (self.change_std > LEAST_STD)
        columns = moving[self.place.clamp(min=0)] & (self.place >= 0)
        return torch.unflatten(columns, -1, (self.spec.n_agents, self.spec.obs_dim))

    def first_told(self, obs: Obs, present: PerAgent) -> Joint:
        """The joint coordinates of what agents say that they see: each is told by the first of those who are there.

        For versions that were drawn apart: their mean would be a number that no agent expects.

        Args:
            obs: Of each agent its own version.
            present: Bool, who is there; what nobody sees who is there is zero.
        """
        known = self.place >= 0
        place, flat = self.place[known], obs.flatten(-2)[..., known]
        there = present.unsqueeze(-1).expand(*present.shape, self.spec.obs_dim).flatten(-2)[..., known]
        if self._plain:
            return flat.masked_fill(~there, 0.0)
        order = torch.arange(len(place), device=obs.device)
        nobody = len(place)
        candidates = torch.where(there, order, nobody)
        first = candidates.new_full((*flat.shape[:-1], self.coordinates), nobody)
        first = first.scatter_reduce(-1, place.expand_as(candidates), candidates, "amin")
        told = flat.gather(-1, first.clamp(max=nobody - 1))
        return told.masked_fill(first == nobody, 0.0)

    @property
    def _plain(self) -> bool:
        """Whether every column is a coordinate of its own, in the same order."""
        return len(self.pick) == len(self.place)


TENSORS = tuple(item.name for item in fields(Facts) if item.name not in {"spec", "terminates", "team_rewards"})
BORDERS = ("low", "high", "reward_low", "reward_high")
DEVIATIONS = ("obs_std", "change_std", "reward_std")


def measure(
    spec: Spec,
    obs: Obs,
    next_obs: Obs,
    rewards: PerAgent,
    terminations: PerAgent,
    mask: PerAgent | None = None,
    next_seen: PerAgent | None = None,
    growing: bool = False,
) -> Facts:
    """The facts of a data set.

    Statistics are float32 from double-precision sums; deviations are at least 1e-3.

    Args:
        spec: Widths and kinds.
        obs: All transitions' observations, `rows agent obs`.
        next_obs: Their successors, in the same order.
        rewards: `rows agent`.
        terminations: Bool, `rows agent`.
        mask: Bool, where an agent is there; statistics are over these rows.
        next_seen: Bool, where its next observation was recorded; statistics of changes are over these rows.
        growing: Whether these are the first rows of many. Then what did not move is not taken for one thing, nor for
            something small, rewards that did not move are not taken for a team's, and an episode may terminate
            although none did.
    """
    now, after = obs.flatten(1), next_obs.flatten(1)
    present = spec.present("obs").flatten().to(now.device)
    tables = [now, after]
    if mask is not None:  # zeros of who is away may equal what another one sees
        tables.append(mask.repeat_interleave(spec.obs_dim, dim=-1))
    original = _originals(tables, present)
    if growing:
        still = (now == now[:1]).all(0) & (after == now[:1]).all(0)
        original = torch.where(still, torch.arange(len(original), device=now.device), original)
    pick = present.logical_and(original == torch.arange(len(original), device=now.device)).nonzero().squeeze(-1)
    place = torch.searchsorted(pick, original).masked_fill(~present, -1)
    known = (pick // spec.obs_dim, mask, next_seen)
    numbers = _statistics(pick, now, after, rewards, known)
    if growing:
        numbers |= {name: numbers[name].masked_fill(numbers[name] <= LEAST_STD, 1.0) for name in DEVIATIONS}
    terminates = growing or bool(terminations.any())
    unpaid = growing and not bool((numbers["reward_low"] < numbers["reward_high"]).any())
    team_rewards = are_alike(rewards, mask) and not unpaid
    return Facts(spec=spec, pick=pick, place=place, terminates=terminates, team_rewards=team_rewards, **numbers)


def restated(
    facts: Facts,
    obs: Obs,
    next_obs: Obs,
    rewards: PerAgent,
    mask: PerAgent | None = None,
    next_seen: PerAgent | None = None,
) -> Facts:
    """The same coordinates and answers, with the statistics and borders of these rows instead; see `measure`."""
    known = (facts.pick // facts.spec.obs_dim, mask, next_seen)
    return replace(facts, **_statistics(facts.pick, obs.flatten(1), next_obs.flatten(1), rewards, known))


def are_alike(rewards: Annotated[Tensor, "row agent"], mask: PerAgent | None = None) -> bool:
    """Whether agents that are there (bool; None for all) earn the same in every row, as those of a team do."""
    low, high = (rewards if mask is None else rewards.masked_fill(~mask, border) for border in (torch.inf, -torch.inf))
    return not bool((low.amin(-1) < high.amax(-1)).any())


def _statistics(
    pick: Tensor, now: Tensor, after: Tensor, rewards: PerAgent, known: tuple[Tensor, PerAgent | None, PerAgent | None]
) -> dict[str, Any]:
    """Statistics and borders over what is `known`: agents of coordinates, who is there, and what was seen next."""
    agents, mask, next_seen = known
    # In blocks of columns, so that a million rows of many agents are not held three times over.
    blocks = []
    for block, own in zip(torch.split(pick, COLUMNS_AT_ONCE), torch.split(agents, COLUMNS_AT_ONCE), strict=True):
        there, seen = (None if each is None else each[:, own] for each in (mask, next_seen))
        blocks.append(_column_facts(now[:, block], after[:, block], there, seen))
    obs_mean, obs_std, change_mean, change_std, low, high = (torch.cat(column) for column in zip(*blocks, strict=True))
    reward_mean, reward_std = _moments(rewards, mask)
    reward_low, reward_high = _borders(rewards, mask)
    return {
        "obs_mean": obs_mean,
        "obs_std": obs_std,
        "change_mean": change_mean,
        "change_std": change_std,
        "reward_mean": reward_mean,
        "reward_std": reward_std,
        "low": low,
        "high": high,
        "reward_low": reward_low,
        "reward_high": reward_high,
    }


def _column_facts(now: Tensor, after: Tensor, there: Tensor | None, seen: Tensor | None) -> tuple[Tensor, ...]:
    low, high = _borders(now, there)
    if seen is None:
        low, high = torch.minimum(low, after.amin(0)), torch.maximum(high, after.amax(0))
    else:
        low = torch.minimum(low, after.masked_fill(~seen, torch.inf).amin(0))
        high = torch.maximum(high, after.masked_fill(~seen, -torch.inf).amax(0))
    return (*_moments(now, there), *_moments(after - now, seen), low, high)


def _borders(values: Annotated[Tensor, "row column"], counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """Least and greatest of each column; 0 of a column in which nothing counts."""
    if counted is None:
        return values.amin(0), values.amax(0)
    low, high = (values.masked_fill(~counted, sign * torch.inf) for sign in (1, -1))
    known = counted.any(0)
    return low.amin(0).masked_fill(~known, 0.0), high.amax(0).masked_fill(~known, 0.0)


def _moments(values: Annotated[Tensor, "row column"], counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    if counted is None:
        mean = values.mean(0, dtype=torch.float64)
        variance = (values - mean.to(values.dtype)).square().mean(0, dtype=torch.float64)
    else:
        rows = counted.sum(0).clamp(min=1)
        mean = (values * counted).sum(0, dtype=torch.float64) / rows
        variance = ((values - mean.to(values.dtype)).square() * counted).sum(0, dtype=torch.float64) / rows
    return mean.to(values.dtype), variance.sqrt().clamp(min=LEAST_STD).to(values.dtype)


def _originals(tables: Sequence[Tensor], present: Annotated[Tensor, "column"]) -> Annotated[Tensor, "column"]:
    """The first column that equals each one in every row of all tables; itself for padding."""
    hashes = torch.stack([_hash(table, seed) for seed, table in enumerate(tables, 1)]).sum(0)
    original = torch.arange(len(present), device=present.device)
    left = present.nonzero().squeeze(-1)
    while len(left):
        # The first of those left with the same hash; equal hashes are then verified, so a collision costs a round.
        alike = hashes[left].unsqueeze(0) == hashes[left].unsqueeze(1)
        first = left[alike.int().argmax(-1)]
        equal = torch.ones_like(left, dtype=torch.bool)
        for table in tables:
            for rows in torch.split(table, ROWS_AT_ONCE):
                equal &= (rows[:, left] == rows[:, first]).all(0)
        equal |= left == first  # a column of NaN, too, is itself
        original[left[equal]] = first[equal]
        left = left[~equal]
    return original


def _hash(table: Annotated[Tensor, "row column"], seed: int) -> Annotated[Tensor, "column"]:
    """Sum over rows of each number's bits times a random integer, modulo 2^64: exact in any order of summing."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(table.shape[1], dtype=torch.int64, device=table.device)
    for rows in torch.split(table, ROWS_AT_ONCE):
        weights = torch.randint(-(2**62), 2**62, (len(rows), 1), generator=generator).to(table.device)
        # + 0.0 makes one of the two zeros, which are equal but differ in their bits.
        total += ((rows.double() + 0.0).view(torch.int64) * weights).sum(0)
    return total
