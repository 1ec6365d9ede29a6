from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from observed import Observed

from offline_marl.core.types import Batch, Spec
from offline_marl.worldmodels.base import Prediction, Spread
from offline_marl.worldmodels.facts import measure
from offline_marl.worldmodels.rollout import Caution, Rollout, rollout

SPEC = Spec(obs_dims=(2, 1), act_dims=(1, 1))
FREE = Caution(weight=0.0, reward_weight=0.0, cutoff=math.inf, clip=False)


class Walk(Observed):
    """Agent 0 sees a place and a clock, agent 1 the place; the place moves by the mean action, the reward is the place.

    Two elites disagree by the place beyond 1 (the planted bad region); place 3 terminates, place 9 is not a number.
    """

    spec = SPEC
    window = 2

    def __init__(self) -> None:
        obs = torch.tensor([[[-4.0, 0.0], [-4.0, 0.0]], [[4.0, 9.0], [4.0, 0.0]]])
        rewards, never = torch.tensor([[-4.0, -4.0], [4.0, 4.0]]), torch.zeros(2, 2, dtype=torch.bool)
        self.facts = measure(SPEC, obs, obs, rewards, never)
        self.read: list[torch.Tensor | None] = []

    def predict(self, obs, actions, history=None) -> Prediction:
        self.read.append(history)
        place = obs[:, 0, 0] + actions.mean((1, 2))
        seen = torch.stack([torch.stack([place, obs[:, 0, 1] + 1], -1), torch.stack([place, 0 * place], -1)], 1)
        doubt = (place - 1).clamp(min=0)
        joint = torch.stack([place, obs[:, 0, 1] + 1], -1)
        rewards = place.unsqueeze(-1).expand(-1, 2)
        apart = torch.stack([joint, joint + torch.stack([doubt, 0 * doubt], -1)])
        spread = Spread(apart, torch.stack([rewards, rewards]), None, None, torch.ones(2), torch.ones(2))
        broken = (place - 9).abs() < 1e-3
        seen = torch.where(broken[:, None, None], torch.nan, seen)
        over = ((place - 3).abs() < 1e-3).unsqueeze(-1).expand(-1, 2)
        return Prediction(seen, rewards, over, spread)


class Steady:
    """Every agent moves by `pace`."""

    def __init__(self, pace: float = 1.0, window: int = 0) -> None:
        self.pace, self.window, self.read = pace, window, []

    def act(self, obs, *, history=None, avail_actions=None, explore=False):
        assert explore
        self.read.append(history)
        return torch.full((*obs.shape[:2], 1), self.pace)


def starts(*places: float, window: int = 0) -> Batch:
    place = torch.tensor(places)
    clock = torch.zeros_like(place)
    obs = torch.stack([torch.stack([place, clock], -1), torch.stack([place, clock], -1)], 1)
    flags = torch.zeros(len(places), 2, dtype=torch.bool)
    history = torch.zeros(len(places), 2, window, 3) if window else None
    return Batch(obs, torch.zeros(len(places), 2, 1), torch.zeros(len(places), 2), obs, flags, flags, history=history)


def imagined(*places: float, horizon: int = 4, caution: Caution = FREE, pace: float = 1.0) -> Rollout:
    made = rollout(Walk(), Steady(pace), starts(*places), horizon, caution)
    made.batch.check()
    return made


def test_by_hand() -> None:
    batch = imagined(-4.0, horizon=3).batch
    assert batch.obs[0, :, 0].tolist() == [[-4, 0], [-3, 1], [-2, 2]]
    assert batch.next_obs[0, :, 0].tolist() == [[-3, 1], [-2, 2], [-1, 3]]
    assert batch.rewards[0, :, 1].tolist() == [-3, -2, -1]
    assert batch.truncations[0, :, 0].tolist() == [False, False, True], "the horizon truncates"
    assert not bool(batch.terminations.any())
    assert batch.synthetic is not None and bool(batch.synthetic.all())
    assert batch.mask is not None and bool(batch.mask.all())


def test_a_foreseen_termination_ends_a_row_and_is_no_truncation() -> None:
    made = imagined(1.0, -4.0)
    batch = made.batch
    assert batch.mask[0, :, 0].tolist() == [True, True, False, False]
    assert batch.terminations[0, :, 0].tolist() == [False, True, False, False]
    assert not bool(batch.truncations[0].any())
    assert bool(batch.mask[1].all()) and batch.truncations[1, :, 0].tolist() == [False] * 3 + [True]
    assert not bool(made.cut.any())


def test_rollouts_end_in_the_planted_bad_region() -> None:
    """The two elites' places are d apart, so that the covariance norm is d^2 / 2: it exceeds .4 beyond d = .894."""
    caution = replace(FREE, cutoff=0.4)
    made = imagined(-1.5, -4.0, 0.4, caution=caution, horizon=6)
    # Places after each step: -.5 .5 1.5 2.5(cut) ...; -3 -2 -1 0 1 2(cut at the horizon); 1.4 2.4(cut)
    assert made.batch.mask[..., 0].sum(1).tolist() == [4, 6, 2]
    assert made.cut.tolist() == [True, True, True]
    assert made.batch.truncations[0, :, 0].tolist() == [False, False, False, True, False, False]
    assert not bool(made.batch.terminations.any()), "the model's doubt is no end of the episode"
    assert made.spread[0, 3].item() == pytest.approx(1.5**2 / 2)
    assert not bool(imagined(-1.5, caution=FREE, horizon=6).cut.any())


def test_the_penalty_is_clamped_only_after_the_cut_was_decided() -> None:
    caution = Caution(weight=0.1, reward_weight=0.0, cutoff=0.4, clip=False)
    made = imagined(-1.5, caution=caution, horizon=6)
    # d = .5 at place 1.5: .125; d = 1.5 at place 2.5: 1.125, of which the penalty counts .4
    assert made.batch.rewards[0, 2:4, 0].tolist() == [1.5, 2.5]
    assert made.penalty[0, 2:4].tolist() == pytest.approx([0.1 * 0.125, 0.1 * 0.4])


def test_what_is_not_finite_is_dropped_and_the_step_before_it_still_counts() -> None:
    made = imagined(7.0, -4.0)
    assert made.broken.tolist() == [True, False]
    assert made.batch.mask[0, :, 0].tolist() == [True, False, False, False]
    for value in (made.batch.obs, made.batch.next_obs, made.batch.rewards, made.spread):
        assert bool(value.isfinite().all())


def test_imagined_numbers_stay_in_the_range_of_the_data() -> None:
    batch = imagined(3.5, caution=replace(FREE, clip=True), horizon=3).batch
    assert batch.next_obs[0, :, 0, 0].tolist() == [4.0, 4.0, 4.0]
    assert batch.rewards[0, :, 0].tolist() == [4.0, 4.0, 4.0]
    assert imagined(3.5, horizon=3).batch.rewards[0, :, 0].tolist() == [4.5, 5.5, 6.5]


def test_histories_grow_by_what_was_seen_and_done_and_each_reader_gets_its_own_length() -> None:
    model, policy = Walk(), Steady(0.5, window=3)
    batch = rollout(model, policy, starts(-4.0, window=3), 3, FREE).batch
    assert [read.shape[2] for read in model.read] == [2, 2, 2]
    assert policy.read[2][0, 0].tolist() == [[0, 0, 0], [-4, 0, 0.5], [-3.5, 1, 0.5]]
    assert policy.read[2][0, 1].tolist() == [[0, 0, 0], [-4, 0, 0.5], [-3.5, 0, 0.5]]
    assert torch.equal(batch.history[0, 2], policy.read[2][0])
    assert torch.equal(batch.next_history[:, :2], batch.history[:, 1:])
    assert rollout(Walk(), Steady(), starts(-4.0, window=3), 2, FREE).batch.history is None


def test_one_row_does_not_depend_on_the_rows_beside_it() -> None:
    together, alone = imagined(1.0, 7.0, -4.0, 0.3), imagined(0.3)
    for name in ("obs", "rewards", "mask", "truncations"):
        assert torch.equal(getattr(together.batch, name)[3:], getattr(alone.batch, name))


def test_who_is_away_does_nothing_and_remembers_that() -> None:
    begun = starts(-4.0, window=3)
    begun = replace(begun, obs=begun.obs * torch.tensor([[1.0], [0.0]]), mask=torch.tensor([[True, False]]))
    policy = Steady(window=3)
    batch = rollout(Walk(), policy, begun, 3, FREE, next_actions=True).batch.check()
    assert batch.actions[0, :, :, 0].tolist() == [[1.0, 0.0]] * 3
    assert batch.obs[0, :, 0, 0].tolist() == [-4.0, -3.5, -3.0], "the model reads that agent 1 does nothing"
    assert not bool(policy.read[2][0, 1].any()) and policy.read[2][0, 0, -1].tolist() == [-3.5, 1.0, 1.0]
    assert batch.next_actions[0, :, :, 0].tolist() == [[1.0, 0.0]] * 3


class Narrow(Observed):
    """Allows choice 1 of two alone from the second step on."""

    spec = replace(SPEC, act_dims=(2, 2), action_kind="discrete")
    facts = Walk().facts
    window = 0

    def predict(self, obs, actions, history=None) -> Prediction:
        rewards = torch.zeros(obs.shape[:2])
        avail = torch.tensor([False, True]).expand(*rewards.shape, 2)
        return Prediction(obs, rewards, rewards > 0, None, next_avail_actions=avail)


class Last:
    """Every agent takes the last choice that it is allowed."""

    window = 0

    def act(self, obs, *, history=None, avail_actions=None, explore=False):
        return (avail_actions * torch.arange(2)).argmax(-1)


def test_who_is_away_takes_a_choice_that_is_allowed() -> None:
    begun = starts(0.0, 0.0)
    begun = replace(
        begun,
        actions=torch.zeros(2, 2, dtype=torch.int64),
        avail_actions=torch.ones(2, 2, 2, dtype=torch.bool),
        mask=torch.tensor([[True, False], [True, True]]),
    )
    batch = rollout(Narrow(), Last(), begun, 3, FREE).batch.check()
    assert batch.actions[:, :, 0].tolist() == [[1, 1, 1]] * 2 and batch.actions[:, :, 1].tolist() == [[0] * 3, [1] * 3]
    assert bool(batch.avail_actions.gather(-1, batch.actions.unsqueeze(-1)).all())
    assert batch.avail_actions[0, 1].tolist() == [[False, True], [True, True]]
