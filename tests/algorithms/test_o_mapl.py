from __future__ import annotations

import itertools
import math
from dataclasses import replace

import hand
import pytest
import torch
from torch import Tensor

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.core.config import ConfigError, build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch, Spec

KINDS = ["continuous", "discrete"]
TEAM = -1


def learner_by_hand(kind: str, mixer: str = "monotonic", **settings):
    """Q (2, 4), V (1, 3), target V (2, -4); weights (3, 1) and bias .5, in the target (2, 1) and 1.5."""
    spec = hand.DISCRETE if kind == "discrete" else hand.CONTINUOUS
    fields = {"alpha": 4.0, "mixer": mixer, "mixer_hidden": [4], "reward_penalty": 0.25, **settings}
    learner = hand.learner_of("o-mapl", spec, **fields)
    hand.answer(learner.value, [[1.0], [3.0]])
    hand.answer(learner.target_value, [[2.0], [-4.0]])
    if kind == "discrete":
        for network in (learner.critic, learner.target_critic):
            hand.answer(network, [[9.0, 2.0, 9.0], [4.0, 9.0, 9.0]])
        hand.answer(learner.actor, [[0.0, math.log(3.0), -99.0], [0.0, 0.0, 0.0]])
    else:
        for network in (learner.critic, learner.target_critic):
            hand.answer(network, [[2.0], [4.0]])
        hand.answer(learner.actor, [[0.0] * 4] * 2)
    if mixer == "monotonic":
        hand.answer(learner.mixer, [[-3.0, 1.0, 0.5]])
        hand.answer(learner.target_mixer, [[2.0, -1.0, 1.5]])
    return learner


def pair_by_hand(kind: str, label: float = 1.0, target: int = TEAM) -> Batch:
    """Two segments of two steps: the first ends its episode for both; of the second only one step counts."""
    lead = (1, 2, 2, 2)
    actions = torch.zeros(*lead, 2) if kind == "continuous" else torch.tensor([1, 0]).expand(lead)
    ended = torch.zeros(lead, dtype=torch.bool)
    ended[0, 0, 1] = True
    mask = torch.ones(lead, dtype=torch.bool)
    mask[0, 1, 1] = False
    obs = torch.zeros(*lead, 2)
    return Batch(
        obs,
        actions,
        torch.full(lead, 99.0),
        obs,
        ended,
        torch.zeros_like(ended),
        mask=mask,
        preference=torch.tensor([label]),
        subject=torch.tensor([target]),
    ).check()


# rho of a step that goes on, and of one that ends: gamma is .5
TEAMS = {"monotonic": (3 * 2 + 4 + 0.5 - 0.5 * (4 - 4 + 1.5), 10.5), "vdn": (6 - 0.5 * (2 - 4), 6.0)}
OWN = {"monotonic": ((6 - 0.5 * 4, 6.0), (4 - 0.5 * -4, 4.0)), "independent": ((2 - 0.5 * 2, 2.0), (4 - 0.5 * -4, 4.0))}
OWN["vdn"] = OWN["independent"]


def loss_of(margin: float, label: float) -> float:
    chance = 1 / (1 + math.exp(-margin))
    return -label * math.log(chance) - (1 - label) * math.log(1 - chance)


@pytest.mark.parametrize("label", [1.0, 0.0, 0.5])
@pytest.mark.parametrize("mixer", list(TEAMS))
@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_the_team_by_hand(kind, mixer, label):
    """The first segment's sum is rho + rho_end, the second's rho alone."""
    metrics = learner_by_hand(kind, mixer).update(pair_by_hand(kind, label))
    goes_on, ends = TEAMS[mixer]
    told = loss_of(goes_on + ends - goes_on, label)
    assert float(metrics["loss/preferences"]) == pytest.approx(told, rel=1e-5, abs=1e-6)
    square = (goes_on**2 + ends**2 + goes_on**2) / 3
    assert float(metrics["loss/critic"]) == pytest.approx(told + 0.25 * square, rel=1e-5)
    assert float(metrics["accuracy"]) == (label if label != 0.5 else 0.0)
    assert float(metrics["margin/mean"]) == pytest.approx((2 * label - 1) * ends)


@pytest.mark.parametrize("agent", [0, 1])
@pytest.mark.parametrize("mixer", list(OWN))
def test_labels_of_an_agent_speak_of_its_own_part_by_hand(mixer, agent):
    metrics = learner_by_hand("discrete", mixer).update(pair_by_hand("discrete", 0.0, agent))
    _, ends = OWN[mixer][agent]
    assert float(metrics["loss/preferences"]) == pytest.approx(loss_of(ends, 0.0), rel=1e-5)


def test_labels_of_the_team_are_explained_by_each_agent_where_they_are_independent():
    metrics = learner_by_hand("discrete", "independent").update(pair_by_hand("discrete"))
    steps = [step for goes_on, ends in OWN["independent"] for step in (goes_on, ends, goes_on)]
    told = sum(loss_of(ends, 1.0) for _, ends in OWN["independent"]) / 2
    assert float(metrics["loss/preferences"]) == pytest.approx(told, rel=1e-5)
    square = sum(step**2 for step in steps) / 6
    assert float(metrics["loss/critic"]) == pytest.approx(told + 0.25 * square, rel=1e-5)


def without_some(kind: str) -> Batch:
    """Of segments of one step: in the first the second agent is away, in the second the first agent leaves for good."""
    pair = pair_by_hand(kind).map(lambda value: value[:, :, :1] if value.dim() > 1 else value)
    mask, over = torch.ones(1, 2, 1, 2, dtype=torch.bool), torch.zeros(1, 2, 1, 2, dtype=torch.bool)
    mask[0, 0, 0, 1], over[0, 1, 0, 0] = False, True
    return replace(pair, mask=mask, terminations=over)


@pytest.mark.parametrize("kind", KINDS)
def test_agents_that_are_away_or_over_add_nothing_to_the_teams_reward(kind):
    found = learner_by_hand(kind).update(without_some(kind))
    rewards = 3 * 2 + 0.5 - 0.5 * (2 * 2 + 1.5), 10.5 - 0.5 * (-4 + 1.5)
    told = loss_of(rewards[0] - rewards[1], 1.0)
    assert float(found["loss/preferences"]) == pytest.approx(told, rel=1e-5)
    assert float(found["loss/critic"]) == pytest.approx(told + 0.25 * sum(r**2 for r in rewards) / 2, rel=1e-5)


def test_independent_agents_end_on_their_own():
    """Without a mask too: the first agent earns 1 and then 2, as it is over; the second 6 both times."""
    batch = without_some("discrete")
    found = learner_by_hand("discrete", "independent").update(replace(batch, mask=None))
    told = (loss_of(1.0 - 2.0, 1.0) + loss_of(0.0, 1.0)) / 2
    assert float(found["loss/preferences"]) == pytest.approx(told, rel=1e-5)
    team = learner_by_hand("discrete", "vdn").update(replace(batch, mask=None))
    assert float(team["margin/mean"]) == pytest.approx(0.0), "a team goes on while one of its agents does"


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_policies_are_omigas_on_the_steps_of_both_segments(kind):
    learner = learner_by_hand(kind)
    pair = pair_by_hand(kind)
    found = learner.update(pair)
    omiga = hand.learner_of("omiga", learner.spec, alpha=4.0, mixer_hidden=[4])
    for name in ("value", "target_value", "critic", "target_critic", "actor", "mixer", "target_mixer"):
        getattr(omiga, name).load_state_dict(getattr(learner_by_hand(kind), name).state_dict())
    expected = omiga.update(pair.flatten())
    for name in ("loss/value", "loss/actor", "advantage/mean"):
        torch.testing.assert_close(found[name], expected[name])


def test_implied_rewards_are_those_that_the_labels_are_fitted_with():
    learner, pair = learner_by_hand("discrete"), pair_by_hand("discrete")
    goes_on, ends = TEAMS["monotonic"]
    rewards = learner.rewards(replace(pair, mask=None))
    torch.testing.assert_close(rewards.sum(-1), torch.tensor([[[goes_on, ends], [goes_on, goes_on]]]))
    own = learner_by_hand("discrete", "independent").rewards(replace(pair, mask=None))
    torch.testing.assert_close(own[0, 0, 0], torch.tensor([1.0, 6.0]))


@pytest.mark.parametrize("mixer", ["monotonic", "vdn", "independent"])
def test_recorded_rewards_are_not_read(mixer):
    ends = []
    for reward in (0.0, 7.0):
        learner = learner_by_hand("continuous", mixer)
        batch = pair_by_hand("continuous")
        ends.append(learner.update(replace(batch, rewards=torch.full_like(batch.rewards, reward))))
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    "bad", [{"clip_target": True}, {"reward_scale": 2.0}, {"reward_scale": "range"}, {"reward_bias": 1.0}], ids=str
)
def test_settings_of_rewards_are_refused(bad):
    with pytest.raises(ConfigError, match="o-mapl reads no rewards"):
        build(algorithms.get("o-mapl").Config, bad)


# --- a table of rewards -----------------------------------------------------------------------------------------------
GAME = torch.tensor([[0.0, 0.2, 0.4], [0.1, 0.9, 1.1], [0.5, 1.0, 1.5]])
"""What the team earns for each joint choice of two agents, in a game of one step."""


def every_comparison(table: Tensor) -> Batch:
    """All pairs of joint choices; labels are the probability that the first is preferred by the table."""
    joint = torch.tensor(list(itertools.product(range(3), repeat=2)))
    pairs = torch.tensor(list(itertools.product(range(9), repeat=2)))
    actions = joint[pairs].unsqueeze(2)
    earned = table.flatten()[pairs]
    ended = torch.ones(actions.shape, dtype=torch.bool)
    obs = torch.ones(*actions.shape, 1)
    return Batch(
        obs,
        actions,
        torch.zeros(actions.shape),
        obs,
        ended,
        ~ended,
        mask=ended,
        preference=torch.sigmoid(earned[:, 0] - earned[:, 1]),
        subject=torch.full((len(pairs),), TEAM),
    ).check()


def trained(batch: Batch, steps: int, **settings) -> Algorithm:
    kind = algorithms.get("o-mapl")
    fields = {"hidden": [32], "lr": 1e-2, "cosine_steps": steps, "tau": 0.05, "reward_penalty": 0.0, "alpha": 0.5}
    with seeded_globally(0, "initialisation"):
        learner = kind(build(kind.Config, {**fields, **settings}), Spec((1, 1), (3, 3), action_kind="discrete"))
    for _ in range(steps):
        learner.update(batch)
    return learner


def implied_table(learner: Algorithm) -> Tensor:
    joint = torch.tensor(list(itertools.product(range(3), repeat=2)))
    obs, ended = torch.ones(9, 2, 1), torch.ones(9, 2, dtype=torch.bool)
    batch = Batch(obs, joint, torch.zeros(9, 2), obs, ended, ~ended)
    return learner.rewards(batch).sum(-1).view(3, 3)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["monotonic", "vdn"])
def test_an_additive_reward_is_recovered_but_for_its_mean(mixer):
    """Comparisons tell differences alone, and these a sum over agents can hold."""
    table = torch.tensor([0.0, 0.5, 1.5]).unsqueeze(-1) + torch.tensor([0.3, 1.0, 0.0])
    found = implied_table(trained(every_comparison(table), 400, mixer=mixer))
    torch.testing.assert_close(found - found.mean(), table - table.mean(), rtol=0, atol=0.02)


@pytest.mark.slow
def test_other_rewards_are_recovered_in_order_and_the_best_choice_is_made():
    learner = trained(every_comparison(GAME), 400)
    found = implied_table(learner)
    ranks = GAME.flatten().argsort()
    assert found.flatten()[ranks[-1]] == found.max() and found.flatten()[ranks[0]] == found.min()
    apart = GAME.flatten().unsqueeze(-1) - GAME.flatten()
    wide = apart > 0.5
    assert bool(((found.flatten().unsqueeze(-1) - found.flatten())[wide] > 0).all())
    assert learner.act(torch.ones(1, 2, 1)).tolist() == [[2, 2]]


def test_the_penalty_draws_rewards_to_zero_and_leaves_their_order():
    few = {"hidden": [8], "lr": 5e-2}
    free, held = (
        implied_table(trained(every_comparison(GAME), 60, reward_penalty=weight, **few)) for weight in (0.0, 0.5)
    )
    assert 0 < float(held.std()) < 0.5 * float(free.std()) and float(held.mean().abs()) < 0.1
    for found in (free, held):
        assert found.argmax() == 8 and found.argmin() == 0


def walk(sees: Tensor, moves: Tensor) -> Tensor:
    """Where one goes on a line of three places: left by 0, right by 1."""
    return (sees + 2 * moves - 1).clamp(0, 2)


@pytest.mark.slow
def test_rewards_of_several_steps_are_told_apart_from_values():
    """On a line of three places the place in the middle pays; comparisons are of two steps, which end no episode.

    What is implied is the reward, not the value: what comes after the last step is taken away.
    """
    pay = torch.tensor([0.0, 1.0, 0.0])
    walks = torch.tensor(list(itertools.product(range(3), range(2), range(2))))  # first place, two moves
    places = [walks[:, 0]]
    for step in range(2):
        places.append(walk(places[-1], walks[:, 1 + step]))
    sees = torch.nn.functional.one_hot(torch.stack(places, 1), 3).float()
    earned = pay[torch.stack(places, 1)[:, 1:]].sum(1)
    pairs = torch.tensor(list(itertools.product(range(len(walks)), repeat=2)))
    lead = (len(pairs), 2, 2, 1)
    flags = torch.zeros(lead, dtype=torch.bool)
    batch = Batch(
        sees[:, :-1][pairs].unsqueeze(-2).expand(*lead, 3),
        walks[:, 1:][pairs].unsqueeze(-1).expand(lead),
        torch.zeros(lead),
        sees[:, 1:][pairs].unsqueeze(-2).expand(*lead, 3),
        flags,
        flags,
        mask=~flags,
        preference=torch.sigmoid(4 * (earned[pairs[:, 0]] - earned[pairs[:, 1]])),
        subject=torch.full((len(pairs),), TEAM),
    ).check()
    kind = algorithms.get("o-mapl")
    fields = {"hidden": [32], "lr": 1e-2, "cosine_steps": 800, "tau": 0.05, "reward_penalty": 0.02, "alpha": 1.0}
    with seeded_globally(0, "initialisation"):
        spec = Spec((3,), (2,), action_kind="discrete")
        learner = kind(build(kind.Config, {**fields, "gamma": 0.9}), spec)
    for _ in range(800):
        learner.update(batch)
    rewards = learner.rewards(batch).sum(-1)
    went = torch.stack(places, 1)[:, 1:][pairs]
    middle, elsewhere = rewards[went == 1].mean(), rewards[went != 1].mean()
    print(f"implied reward of the middle {middle:.3f}, of other places {elsewhere:.3f}")
    assert middle - elsewhere > 1.0
    assert learner.act(torch.eye(3).unsqueeze(1))[[0, 2], 0].tolist() == [1, 0], "both ends lead to the middle"
