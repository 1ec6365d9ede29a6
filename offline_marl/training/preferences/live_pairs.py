"""Pairs of segments of what a run has just played: which are worth a question, and copies of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from offline_marl.core.seeding import derive
from offline_marl.core.types import Batch, Episode, Spec
from offline_marl.preferences.labels import AskedPair
from offline_marl.preferences.pairs import (
    POOL,
    Candidates,
    Copies,
    Pair,
    SegmentKey,
    Strategy,
    choose,
    doubt,
    draw_candidates,
    features_of,
    keys_of,
)
from offline_marl.preferences.reward_model import RewardModel
from offline_marl.training.sources.recorded import lengthened
from offline_marl.training.sources.replay import with_same_fields

Episodes = Mapping[int, Episode]
"""Episodes as they were played, by their numbers."""


class LivePairs:
    """Chooser of pairs among the newest episodes; an episode shorter than a segment is one segment as a whole.

    Args:
        run_id: Names the run in keys.
        spec: The team.
        length: Steps of a segment.
        strategy: Which pairs are chosen.
        seed: Decides, with the round, what is drawn.
        to_end: Whether segments may run into an episode's termination, at most half of them being lost. Segments of one
            length alone leave open where rewards begin, and with it what it is worth to survive.
    """

    def __init__(
        self, run_id: str, spec: Spec, length: int, strategy: Strategy, seed: int, to_end: bool = False
    ) -> None:
        self.run_id, self.spec, self.length, self.strategy, self.seed = run_id, spec, length, strategy, seed
        self.to_end = to_end

    def choose(
        self,
        episodes: Episodes,
        count: int,
        session: int,
        model: RewardModel,
        asked: Sequence[AskedPair],
        fewer: bool = True,
    ) -> list[AskedPair]:
        """The pairs of a round; where there are not twice as many left, fewer than `count`, or none.

        Args:
            episodes: Candidates are segments of these.
            count: Pairs.
            session: Number of the round.
            model: Whose doubt decides, where the strategy is not uniform.
            asked: Pairs of former rounds, which are not asked about again.
            fewer: Whether a round of fewer is better than none, as where no more episodes will be candidates.
        """
        numbers = list(episodes)
        places = {number: place for place, number in enumerate(numbers)}
        lengths = torch.tensor([self._reach(episodes[number]) for number in numbers], dtype=torch.int64)
        taken = frozenset(
            frozenset((places[side.episode], side.start) for side in (one.pair.first, one.pair.second))
            for one in asked
            if one.pair.first.episode in places and one.pair.second.episode in places
        )
        segments = int((lengths - self.length + 1).sum())
        room = (segments * (segments - 1) // 2 - len(taken)) // 2
        if room < (1 if fewer else count):
            return []
        count = min(count, room)
        generator = torch.Generator().manual_seed(derive(self.seed, "pairs", session))
        wanted = count if self.strategy == "uniform" else min(POOL * count, room)
        pool = draw_candidates(lengths, self.length, wanted, generator, taken=taken)
        pairs = [self._pair(pool, row, numbers, episodes) for row in range(len(pool))]
        if self.strategy == "uniform":
            return [AskedPair(pair, session, "train", self.strategy) for pair in pairs]
        scores, features = self._doubts(pairs, episodes, model)
        chosen = choose(scores, features, count).tolist()
        return [AskedPair(pairs[row], session, "train", self.strategy, float(scores[row])) for row in chosen]

    def _pair(self, pool: Candidates, row: int, numbers: Sequence[int], episodes: Episodes) -> Pair:
        sides = zip(pool.episodes[row].tolist(), pool.starts[row].tolist(), strict=True)
        first, second = (self.key(numbers[place], start, len(episodes[numbers[place]])) for place, start in sides)
        return Pair(first, second)

    def key(self, number: int, start: int, steps: int) -> SegmentKey:
        """Key of the segment that begins at this step of an episode of so many."""
        return SegmentKey.of_run(self.run_id, number, start, min(self.length, steps - start))

    def _reach(self, episode: Episode) -> int:
        """Steps up to which segments may reach, behind an episode's end too: so long it would be, for their starts."""
        terminated = bool(episode.terminations[-1].any()) and not bool(episode.truncations[-1].any())
        return max(len(episode) + (self.length // 2 if self.to_end and terminated else 0), self.length)

    def _doubts(self, pairs: list[Pair], episodes: Episodes, model: RewardModel) -> tuple[torch.Tensor, torch.Tensor]:
        copies = self.copy(pairs, episodes)
        rows = {key: row for row, key in enumerate(copies.keys)}
        sides = torch.tensor([[rows[pair.first], rows[pair.second]] for pair in pairs])
        scores = model.scores(copies.segments.to(model.mean.device)).sum(-1).cpu()
        likely = torch.sigmoid(scores[:, sides[:, 0]] - scores[:, sides[:, 1]])
        looks = features_of(copies.segments, self.spec)
        looks = (looks - looks.mean(0)) / looks.std(0, correction=0).clamp(min=1e-6)
        return doubt(self.strategy, likely), looks[sides].flatten(1)

    def copy(self, pairs: Sequence[Pair], episodes: Episodes) -> Copies:
        """Copies of the segments of pairs."""
        keys = tuple(keys_of(pairs))
        return Copies(self.spec, keys, self.cut(keys, episodes))

    def cut(self, keys: Sequence[SegmentKey], episodes: Episodes) -> Batch:
        """Segments of these keys, padded to `length`, with the environment's rewards."""
        pieces = [_piece(episodes[key.episode], key.start, key.length) for key in keys]
        return Batch.cat([lengthened(piece, self.length) for piece in with_same_fields(pieces, self.spec)])

    def unlabelled(self, episodes: Episodes, count: int, generator: torch.Generator) -> Batch:
        """So many segments that nobody is asked about."""
        numbers = list(episodes)
        rooms = torch.tensor([self._reach(episodes[number]) - self.length + 1 for number in numbers])
        lots = torch.randint(int(rooms.sum()), (count,), generator=generator)
        ends = rooms.cumsum(0)
        places = torch.searchsorted(ends, lots, right=True)
        starts = (lots - (ends - rooms)[places]).tolist()
        drawn = [(numbers[place], start) for place, start in zip(places.tolist(), starts, strict=True)]
        return self.cut([self.key(number, start, len(episodes[number])) for number, start in drawn], episodes)


def _piece(episode: Episode, start: int, length: int) -> Batch:
    """One segment as a batch of one row; `next_obs` is `obs`, as in all copies."""
    part = slice(start, start + length)

    def held(name: str) -> Any:
        value = getattr(episode, name)
        return None if value is None else value[part].unsqueeze(0)

    names = ("obs", "actions", "rewards", "terminations", "truncations", "state", "avail_actions", "mask")
    values = {name: held(name) for name in names}
    if values["mask"] is None:
        values["mask"] = torch.ones_like(values["terminations"])
    return Batch(**values, next_obs=values["obs"])


def episodes_of(batch: Batch) -> list[Episode]:
    """The episodes of segments `[episode, time]` that are whole episodes, padded."""
    assert batch.mask is not None
    lengths = batch.mask.any(-1).sum(-1).tolist()
    return [_episode(batch.map(lambda value, row=row: value[row]), length) for row, length in enumerate(lengths)]


def _episode(row: Batch, length: int) -> Episode:
    def seen(name: str) -> Any:
        now, after = getattr(row, name), getattr(row, f"next_{name}")
        return None if now is None else torch.cat([now[:length], after[length - 1 : length]]).cpu()

    cut = replace(row, history=None, next_history=None, next_actions=None, next_mask=None)
    done = {name: getattr(cut, name)[:length].cpu() for name in ("actions", "rewards", "terminations", "truncations")}
    assert row.mask is not None
    mask = row.mask[:length].cpu()
    return Episode(
        **done,
        obs=seen("obs"),
        state=seen("state"),
        avail_actions=seen("avail_actions"),
        mask=None if bool(mask.all()) else mask,
    )
