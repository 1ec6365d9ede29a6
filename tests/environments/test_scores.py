from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds import SPECS, PointEnv

from offline_marl.collection.tiers import Tier
from offline_marl.core.reference import Reference
from offline_marl.environments import scores
from offline_marl.environments.episodes import episode_seeds, play
from offline_marl.environments.scores import summarize


class Recorder:
    """Acts by a fixed rule on its obs and history, and keeps all it was given."""

    def __init__(self, spec, window):
        self.spec, self.window, self.calls = spec, window, []

    def act(self, obs, *, history=None, avail_actions=None, explore=False):
        self.calls.append((obs, history, avail_actions, explore))
        pull = obs[..., :1] + (0 if history is None else history.sum((-1, -2)).unsqueeze(-1))
        if self.spec.discrete:
            return (pull[..., 0] > 0).long()
        return torch.tanh(pull).expand(*obs.shape[:-1], self.spec.act_dim) * self.spec.present("act")


def by_hand(seed: int, spec, window: int) -> float:
    """The return of one episode of PointEnv played alone."""
    env, policy = PointEnv(spec, 1), Recorder(spec, window)
    obs = env.reset([seed]).obs
    past = [np.zeros((spec.n_agents, spec.step_dim), np.float32)] * window
    total = 0.0
    while True:
        history = torch.from_numpy(np.stack(past[-window:], axis=1))[None] if window else None
        actions = policy.act(torch.from_numpy(obs), history=history).numpy()
        done = np.eye(spec.act_dim, dtype=np.float32)[actions[0]] if spec.discrete else actions[0]
        past.append(np.concatenate([obs[0], done], axis=-1))
        seen, rewards, terminations, truncations = env.step(actions)
        obs = seen.obs
        total += rewards.mean()
        if terminations[0] or truncations[0]:
            return total


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("kind", sorted(SPECS))
def test_returns_do_not_depend_on_how_many_copies_run_side_by_side(kind, window):
    spec, seeds = SPECS[kind], episode_seeds(0, 7)
    alone = [by_hand(seed, spec, window) for seed in seeds]
    for copies in (1, 3, 7, 20):
        found = play(Recorder(spec, window), PointEnv(spec, copies), seeds).returns
        np.testing.assert_allclose(found, alone, rtol=1e-5)


def test_actions_are_greedy_unless_exploring_is_asked_for():
    for explore in (False, True):
        policy = Recorder(SPECS["continuous"], 0)
        play(policy, PointEnv(policy.spec, 2), [1, 2], explore=explore)
        assert {call[3] for call in policy.calls} == {explore}


def test_available_actions_and_histories_reach_the_policy():
    policy = Recorder(SPECS["discrete"], 2)
    play(policy, PointEnv(policy.spec, 2), [1, 2])
    obs, history, avail, _ = policy.calls[0]
    assert obs.dtype == torch.float32 and not history.any() and avail.dtype == torch.bool
    assert policy.calls[1][1][:, :, -1].any() and not policy.calls[1][1][:, :, 0].any()


def test_evaluation_seeds_are_distinct_small_and_decided_by_the_seed():
    seeds = episode_seeds(0, 500)
    assert len(set(seeds)) == 500 and all(0 <= seed < 2**31 for seed in seeds)
    assert seeds == episode_seeds(0, 500) and seeds[:10] == episode_seeds(0, 10)
    assert not set(seeds) & set(episode_seeds(1, 500))


def test_the_interval_covers_the_true_mean_about_nineteen_times_in_twenty():
    draws = np.random.default_rng(1).normal(3.0, 2.0, size=(200, 30))
    covered = [score.low <= 3.0 <= score.high for score in map(summarize, draws)]
    assert 0.88 <= np.mean(covered) <= 0.99


def test_the_interval_is_the_same_at_each_call_and_around_the_mean():
    returns = np.random.default_rng(0).normal(size=20)
    one, other = summarize(returns), summarize(returns)
    assert (one.low, one.high) == (other.low, other.high) and one.low < one.mean < one.high
    alone = summarize(np.array([2.5]))
    assert alone.low == alone.mean == alone.high == 2.5


@pytest.mark.parametrize("count", [1, 2, 9, 100, 257])
@pytest.mark.parametrize("block", [1, 700, 2**21])
def test_the_interval_is_that_of_one_table_whatever_is_drawn_at_once(monkeypatch, count, block):
    returns = np.random.default_rng(count).normal(size=count)
    monkeypatch.setattr(scores, "RESAMPLES", 301)
    monkeypatch.setattr(scores, "BLOCK", block)
    draws = np.random.default_rng(0).integers(count, size=(301, count))
    low, high = np.percentile(returns[draws].mean(1), [2.5, 97.5])
    score = summarize(returns)
    assert (score.low, score.high) == (low, high)


@pytest.mark.long
def test_the_interval_of_many_episodes_is_that_of_one_table_and_takes_little_memory():
    returns = np.random.default_rng(0).normal(size=2_000)
    draws = np.random.default_rng(0).integers(2_000, size=(10_000, 2_000))
    low, high = np.percentile(returns[draws].mean(1), [2.5, 97.5])
    del draws
    tracemalloc.start()
    score = summarize(returns)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (score.low, score.high) == (low, high) and most < 50e6


def test_normalized_returns_are_zero_for_random_and_a_hundred_for_expert():
    reference = Reference(random=-10.0, expert=-5.0)
    score = summarize(np.array([-10.0, -5.0]), reference)
    assert score.normalized[0] == pytest.approx(50.0)
    assert score.row()["normalized_return"] == pytest.approx(50.0) and score.row()["return"] == -7.5
    bare = summarize(np.array([-10.0, -5.0]))
    assert bare.normalized is None and bare.row()["normalized_return"] is None
    assert "normalized return 50.0" in str(score) and str(bare).startswith("return -7.500")


def test_one_episode_is_printed_without_an_interval_and_stored_with_one():
    alone = summarize(np.array([-5.0]))
    assert str(alone) == "return -5.000, 1 episode" and repr(alone) == "Score(return -5.000, 1 episode)"
    scaled = summarize(np.array([-5.0]), Reference(random=-10.0, expert=-5.0))
    assert str(scaled) == "normalized return 100.0 (return -5.000, 1 episode)"
    assert "low" not in scaled._repr_html_() and "return" in scaled._repr_html_()
    assert (scaled.row()["return_low"], scaled.row()["normalized_high"], scaled.row()["episodes"]) == (-5.0, 100.0, 1)
    tier = Tier("poor", 10, alone, 0.25, Path("poor.h5"))
    assert str(tier) == "poor.h5: step 10, return -5.000, 0.25 of the way from random to expert"
    two = summarize(np.array([-5.0, -5.0]), Reference(random=-10.0, expert=-5.0))
    assert str(two) == "normalized return 100.0 [100.0, 100.0] (return -5.000 [-5.000, -5.000], 2 episodes)"
    assert "return low" in two._repr_html_()
