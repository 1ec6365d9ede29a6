"""Pairs of what was just played: within episodes, never twice, and short episodes as a whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from worlds import world

from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch
from offline_marl.datasets.normalize import obs_statistics
from offline_marl.preferences.reward_model import RewardModel, RewardModelConfig
from offline_marl.training.preferences.live_pairs import LivePairs, episodes_of
from offline_marl.training.sources.recorded import lengthened
from offline_marl.training.sources.replay import whole_episode

DATA = world("continuous", 10)
EPISODES = {7 + n: DATA.episode(n, int(DATA.lengths[:n].sum())) for n in range(10)}
"""Of 4 to 8 steps, numbered from 7 on."""


@pytest.fixture(scope="module")
def model() -> RewardModel:
    with seeded_globally(0, "test"):
        return RewardModel(RewardModelConfig(hidden=(8,), members=3), DATA.spec, *obs_statistics(DATA))


@pytest.mark.parametrize("strategy", ["uniform", "disagree", "entropy"])
def test_segments_lie_within_their_episode_and_are_copied_as_they_were(model, strategy) -> None:
    pairs = LivePairs("run", DATA.spec, 6, strategy, 0)
    chosen = pairs.choose(EPISODES, 8, 1, model, [])
    assert len({one.pair.id for one in chosen}) == 8 and {one.strategy for one in chosen} == {strategy}
    copies = pairs.copy([one.pair for one in chosen], EPISODES)
    lengths = set()
    for key, row in zip(copies.keys, range(len(copies.keys)), strict=True):
        episode = EPISODES[key.episode]
        assert key.source == "run:run" and key.start + key.length <= len(episode)
        assert key.length == min(6, len(episode)), "an episode that ended sooner is a segment as a whole"
        lengths.add(key.length)
        cut = slice(key.start, key.start + key.length)
        assert torch.equal(copies.segments.obs[row, : key.length], episode.obs[cut])
        assert torch.equal(copies.segments.rewards[row, : key.length], episode.rewards[cut])
        assert copies.segments.mask is not None and copies.segments.mask[row].any(-1).sum() == key.length
    assert len(lengths) > 1


def test_segments_may_run_into_a_termination_but_not_into_a_time_limit(model) -> None:
    long = DATA.episode(0, 0)
    assert len(long) >= 4
    ended = {
        over: replace(
            long,
            terminations=torch.full_like(long.terminations, over == "fell"),
            truncations=~torch.full_like(long.truncations, over == "fell"),
        )
        for over in ("fell", "in time")
    }
    found = {}
    for over, episode in ended.items():
        pairs = LivePairs("run", DATA.spec, 4, "uniform", 0, to_end=True)
        drawn = [pairs.unlabelled({0: episode}, 200, torch.Generator().manual_seed(seed)) for seed in range(2)]
        found[over] = {int(one) for each in drawn for one in each.mask.any(-1).sum(-1)}
    assert found == {"fell": {2, 3, 4}, "in time": {4}}
    chosen = LivePairs("run", DATA.spec, 4, "uniform", 0, to_end=True).choose({0: ended["fell"]}, 2, 1, model, [])
    assert {one.pair.first.start + one.pair.first.length for one in chosen} <= set(range(4, len(long) + 1))


def test_no_pair_is_asked_about_twice_and_the_last_ones_are_fewer(model) -> None:
    pairs, asked = LivePairs("run", DATA.spec, 8, "uniform", 0), []
    few = {number: EPISODES[number] for number in (7, 8, 9, 10)}  # 6 pairs of whole episodes
    for session in range(1, 6):
        asked += pairs.choose(few, 2, session, model, asked)
    assert len({one.pair.id for one in asked}) == len(asked) == 5, "half of what is left, at most"


def test_a_round_may_wait_for_more_segments_instead(model) -> None:
    pairs, few = LivePairs("run", DATA.spec, 8, "uniform", 0), {number: EPISODES[number] for number in (7, 8, 9, 10)}
    assert pairs.choose(few, 4, 1, model, [], fewer=False) == []
    assert len(pairs.choose(few, 3, 1, model, [], fewer=False)) == len(pairs.choose(few, 4, 1, model, [])) == 3


def test_too_few_segments_give_no_question(model) -> None:
    assert LivePairs("run", DATA.spec, 8, "uniform", 0).choose({7: EPISODES[7]}, 4, 1, model, []) == []


def test_the_same_round_asks_the_same_and_another_one_something_else(model) -> None:
    pairs = LivePairs("run", DATA.spec, 5, "disagree", 3)
    first, again, later = (pairs.choose(EPISODES, 5, session, model, []) for session in (1, 1, 2))
    assert first == again and first != later


def test_doubtful_pairs_are_preferred(model) -> None:
    def doubts(strategy: str) -> float:
        chosen = LivePairs("run", DATA.spec, 5, strategy, 0).choose(EPISODES, 6, 1, model, [])
        copies = LivePairs("run", DATA.spec, 5, strategy, 0).copy([one.pair for one in chosen], EPISODES)
        rows = {key: row for row, key in enumerate(copies.keys)}
        scores = model.scores(copies.segments).sum(-1)
        sides = torch.tensor([[rows[one.pair.first], rows[one.pair.second]] for one in chosen])
        return float(torch.sigmoid(scores[:, sides[:, 0]] - scores[:, sides[:, 1]]).std(0).mean())

    assert doubts("disagree") > 1.2 * doubts("uniform")


def test_unlabelled_segments_are_as_long_as_the_others(model) -> None:
    cut = LivePairs("run", DATA.spec, 6, "uniform", 0).unlabelled(EPISODES, 30, torch.Generator().manual_seed(0))
    assert cut.rewards.shape[:2] == (30, 6) and cut.mask is not None
    assert set(cut.mask.any(-1).sum(-1).tolist()) == {4, 5, 6}


def test_played_segments_become_the_episodes_that_they_are() -> None:
    batch = Batch.cat([lengthened(_masked(whole_episode(episode)), 8) for episode in EPISODES.values()])
    for episode, again in zip(EPISODES.values(), episodes_of(batch), strict=True):
        for name in ("obs", "actions", "rewards", "terminations", "truncations", "state"):
            assert torch.equal(getattr(episode, name), getattr(again, name)), name


def _masked(batch: Batch) -> Batch:
    return replace(batch, mask=torch.ones_like(batch.terminations))
