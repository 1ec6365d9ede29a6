"""Rewards that change while a run plays: what is new, what members say, and how it is shared out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from worlds import world

from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch
from offline_marl.datasets.normalize import obs_statistics
from offline_marl.preferences.reward_model import RewardModel, RewardModelConfig
from offline_marl.training.preferences.labelled import Judged, Labelled
from offline_marl.training.preferences.live_reward import LiveReward, StateEntropy, visited_steps
from offline_marl.training.sources.replay import whole_episode

DATA = world("continuous", 6)
EPISODES = [DATA.episode(number, int(DATA.lengths[:number].sum())) for number in range(6)]


@pytest.fixture
def model() -> RewardModel:
    with seeded_globally(0, "test"):
        return RewardModel(RewardModelConfig(hidden=(8,), members=2), DATA.spec, *obs_statistics(DATA))


def visited(scale: float = 1.0, shift: float = 0.0) -> StateEntropy:
    entropy = StateEntropy(2, "cpu")
    entropy.visit(torch.cat([visited_steps(each) for each in EPISODES[:4]]) * scale + shift, 0, 4)
    return entropy


def test_what_is_new_is_the_same_in_any_units() -> None:
    batch = whole_episode(EPISODES[5])
    shifted = replace(batch, next_obs=batch.next_obs * 1000 + 50)
    told, again = visited()(batch, False), visited(1000, 50)(shifted, False)
    assert torch.allclose(told, again, atol=1e-3) and float(told.std()) > 0.01


def test_a_far_state_is_newer_than_a_near_one() -> None:
    batch = whole_episode(EPISODES[0])
    far = replace(batch, next_obs=batch.next_obs + 5)
    assert bool((visited()(far, False) > visited()(batch, True)).all())


def test_nothing_is_new_before_anything_was_seen() -> None:
    assert not bool(StateEntropy(3, "cpu")(whole_episode(EPISODES[0]), False).any())


def test_only_episodes_that_were_visited_pass_over_themselves() -> None:
    reward = LiveReward("novelty", None, visited())
    reward.about(3)
    assert reward.visited
    reward.about(4)
    assert not reward.visited


def test_a_teams_reward_is_the_mean_over_agents_and_its_own_part_the_members_mean(model: RewardModel) -> None:
    batch = whole_episode(EPISODES[1])
    members = model.predict(batch)
    own = LiveReward("learned", model, visited(), "own")
    assert torch.allclose(own(batch), members.mean(0))
    team = LiveReward("learned", model, visited())
    assert torch.allclose(team(batch), members.mean((0, -1)).unsqueeze(-1).expand(batch.rewards.shape))


def test_a_teams_reward_is_of_those_that_labels_speak_of(model: RewardModel) -> None:
    batch = whole_episode(EPISODES[1])
    reward = LiveReward("learned", model, visited())
    every = reward(batch)
    reward.agents = (1,)
    told = model.predict(batch)[..., 1].mean(0)
    assert torch.allclose(reward(batch), told.unsqueeze(-1).expand(batch.rewards.shape))
    again = LiveReward("learned", model, visited())
    again.load_state_dict(reward.state_dict())
    assert torch.equal(again(batch), reward(batch)) and not torch.equal(again(batch), every)


@pytest.mark.parametrize(("targets", "agents"), [([1, 1], (1,)), ([0, 2], (0, 2)), ([0, -1], None), ([0, 1, 2], None)])
def test_labels_say_of_whom_they_speak(targets: list[int], agents: tuple[int, ...] | None) -> None:
    told = torch.tensor(targets)
    labels = Labelled(whole_episode(EPISODES[0]), torch.zeros(len(told), 2), torch.ones(len(told)), told, ())
    assert labels.agents == agents
    rated = Judged(*(torch.tensor([value]) for value in (0, 5, 2, 0)))
    assert replace(labels, targets=torch.tensor([1]), judged=rated).agents == (1, 2), "ratings speak of agents, too"


def test_doubt_costs_by_caution_and_is_measured_after_the_sum_over_agents(model: RewardModel) -> None:
    batch = whole_episode(EPISODES[1])
    together = model.predict(batch).mean(-1, keepdim=True)
    spread = together.std(0, correction=0).expand(batch.rewards.shape)
    plain, careful = (LiveReward("learned", model, visited(), caution=each) for each in (0.0, 2.0))
    assert torch.allclose(careful(batch), plain(batch) - 2 * spread)
    plain.scale = 4.0
    assert torch.allclose(plain.doubt(batch), spread / 4)
    rows = Batch(**{name: getattr(batch, name)[0] for name in ("obs", "actions", "rewards", "next_obs", "terminations",
                                                                "truncations")})  # fmt: skip
    assert torch.allclose(plain.doubt(rows), spread[0] / 4), "single steps are told as segments are"


def test_the_scale_is_the_deviation_of_what_is_paid(model: RewardModel) -> None:
    reward = LiveReward("learned", model, visited())
    batches = [whole_episode(each) for each in EPISODES]
    before = torch.cat([reward(batch).flatten() for batch in batches])
    reward.measure(batches)
    assert reward.scale == pytest.approx(float(before.double().std(correction=0)), rel=1e-5)
    after = torch.cat([reward(batch).flatten() for batch in batches])
    assert float(after.std(correction=0)) == pytest.approx(1.0, rel=1e-4)


def test_the_environments_own_reward_and_none(model: RewardModel) -> None:
    batch = whole_episode(EPISODES[2])
    assert torch.equal(LiveReward("environment", model, visited())(batch), batch.rewards)
    assert not bool(LiveReward("nothing", model, visited())(batch).any())
