from __future__ import annotations

import math
from dataclasses import replace

import hand
import pytest
import torch
from coordination import one_convention, play_once, rewarded_point, train_on
from torch.utils.flop_counter import FlopCounterMode

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import ConfigError, build

KINDS = ["continuous", "discrete"]
NORMAL = -0.5 * math.log(2 * math.pi)
LOG_PROBS = {"discrete": (math.log(0.75), math.log(0.5)), "continuous": (2 * NORMAL, NORMAL)}
Z = {"monotonic": (2 * (3 - 1) / 4, 1 * (1 - 3) / 4), "vdn": ((3 - 1) / 4, (1 - 3) / 4)}
SCALED = {"monotonic": (2 * 1 / 4, 1 * 3 / 4), "vdn": (1 / 4, 3 / 4)}
"""w'_i V_i / alpha."""
TEAMS = {"monotonic": (3 * 1 + 1 * -2 + 0.5, 2 * 2 + 1 * -4 + 1.5), "vdn": (1.0 - 2.0, 2.0 - 4.0)}
"""Q_tot and the target V_tot of what follows."""


def learner_by_hand(kind: str, mixer: str = "monotonic", **settings):
    """Target Q (3, 1), Q (1, -2), V (1, 3), target V (2, -4); weights (3, 1), bias .5, in the target (2, 1) and 1.5."""
    spec = hand.DISCRETE if kind == "discrete" else hand.CONTINUOUS
    learner = hand.learner_of("omiga", spec, **{"alpha": 4.0, "mixer": mixer, "mixer_hidden": [4], **settings})
    hand.answer(learner.value, [[1.0], [3.0]])
    hand.answer(learner.target_value, [[2.0], [-4.0]])
    if kind == "discrete":  # only the choices made count: 1 and 0
        hand.answer(learner.target_critic, [[9.0, 3.0, 9.0], [1.0, 9.0, 9.0]])
        hand.answer(learner.critic, [[9.0, 1.0, 9.0], [-2.0, 9.0, 9.0]])
        hand.answer(learner.actor, [[0.0, math.log(3.0), -99.0], [0.0, 0.0, 0.0]])
    else:
        hand.answer(learner.target_critic, [[3.0], [1.0]])
        hand.answer(learner.critic, [[1.0], [-2.0]])
        hand.answer(learner.actor, [[0.0] * 4] * 2)
    if mixer == "monotonic":
        hand.answer(learner.mixer, [[-3.0, 1.0, 0.5]])
        hand.answer(learner.target_mixer, [[2.0, -1.0, 1.5]])
    return learner


def batch_by_hand(kind: str):
    """In the second row both agents are over, in the first one of them; the team's rewards are 1.5 and -.5."""
    if kind == "discrete":
        batch = hand.batch_of(hand.DISCRETE, torch.tensor([[1, 0]] * 2))
    else:
        batch = hand.batch_of(hand.CONTINUOUS, torch.zeros(2, 2, 2))
    return replace(batch, terminations=torch.tensor([[False, True], [True, True]]))


@pytest.mark.parametrize("mixer", ["monotonic", "vdn"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_three_losses_by_hand(kind, mixer):
    metrics = learner_by_hand(kind, mixer).update(batch_by_hand(kind))
    z, scaled, (q, next_v) = Z[mixer], SCALED[mixer], TEAMS[mixer]
    most = max(z)
    value = [math.exp(each - most) + math.exp(-most) * pull for each, pull in zip(z, scaled, strict=True)]
    assert float(metrics["loss/value"]) == pytest.approx(sum(value) / 2, rel=1e-5)
    cloned = [-math.exp(each) * log_prob for each, log_prob in zip(z, LOG_PROBS[kind], strict=True)]
    assert float(metrics["loss/actor"]) == pytest.approx(sum(cloned) / 2, rel=1e-5)
    errors = (q - (1.5 + 0.5 * next_v)) ** 2, (q - -0.5) ** 2
    assert float(metrics["loss/critic"]) == pytest.approx(sum(errors) / 2, rel=1e-5)
    assert float(metrics["q/mean"]) == pytest.approx(q)
    assert float(metrics["advantage/mean"]) == pytest.approx(4 * sum(z) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_each_network_learns_from_its_own_loss_alone(kind):
    """Slopes by the last biases, which are what the networks answer."""
    learner = learner_by_hand(kind)
    learner.update(batch_by_hand(kind))
    z, (q, next_v) = Z["monotonic"], TEAMS["monotonic"]
    value = learner.value.net.stack.layers[-1].bias.grad[:, 0, 0]
    # (1 - exp z_i) w'_i / alpha e^-M, half of it for the mean over agents
    slopes = [(1 - math.exp(each)) * w / 4 / math.exp(1) / 2 for each, w in zip(z, (2, 1), strict=True)]
    torch.testing.assert_close(value, torch.tensor(slopes), rtol=1e-5, atol=1e-6)
    error = (q - (1.5 + 0.5 * next_v)) + (q + 0.5)  # twice the sum, over two rows
    made = learner.critic.net.stack.layers[-1].bias.grad[:, 0]
    by_agent = made[[0, 1], [1, 0]] if kind == "discrete" else made[:, 0]
    torch.testing.assert_close(by_agent, error * torch.tensor([3.0, 1.0]), rtol=1e-5, atol=1e-5)
    mixer = learner.mixer.net.layers[-1].bias.grad[0, 0]
    torch.testing.assert_close(mixer, error * torch.tensor([-1.0, -2.0, 1.0]), rtol=1e-5, atol=1e-5)


def test_a_team_is_the_agents_that_are_there():
    """In the first row the first agent alone, who earns 1 / 2 and goes on: Q 3 + .5, V 2 * 2 + 1.5. Only it sets M."""
    batch = replace(batch_by_hand("discrete"), mask=torch.tensor([[True, False], [False, False]]))
    found = learner_by_hand("discrete").update(batch)
    assert float(found["loss/critic"]) == pytest.approx((3.5 - (0.5 + 0.5 * 5.5)) ** 2)
    assert float(found["loss/value"]) == pytest.approx(1 + math.exp(-1) * 0.5)
    assert float(found["loss/actor"]) == pytest.approx(-math.e * math.log(0.75), rel=1e-5)
    assert float(found["q/mean"]) == pytest.approx(3.5)


def test_the_teams_target_is_capped():
    learner = learner_by_hand("continuous")
    learner.best_team.fill_(1.0)  # where the target would be 1.5 + .75
    found = learner.update(batch_by_hand("continuous"))["loss/critic"]
    assert float(found) == pytest.approx(((1.5 - 1.0) ** 2 + 2.0**2) / 2)


def test_no_weight_exceeds_its_limit():
    found = learner_by_hand("discrete", alpha=0.01, max_exponent=2.0).update(batch_by_hand("discrete"))
    expected = -(math.exp(2) * math.log(0.75) + math.exp(-2) * math.log(0.5)) / 2
    assert float(found["loss/actor"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bad", [{"alpha": 0.0}, {"max_exponent": 0.0}, {"mixer": "unconstrained"}], ids=str)
def test_settings_without_a_local_optimum_are_refused(bad):
    with pytest.raises(ConfigError):
        build(algorithms.get("omiga").Config, bad)


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_an_update_multiplies_no_more_than_ma_iqls(kind, window):
    counts = {}
    for name in ("omiga", "ma-iql"):
        learner, batch = hand.learner_and_batch(name, kind, window=window, hidden=[256, 256])
        with FlopCounterMode(display=False) as counter:
            learner.update(batch)
        counts[name] = counter.get_total_flops()
    assert 0 < counts["omiga"] < counts["ma-iql"]


def additive_fit(data):
    """The coordination game's rewards as a sum over agents, `agent choice`, up to what agents may lend each other."""
    one_hot = torch.nn.functional.one_hot(data.actions, 3).flatten(1).double()
    return torch.linalg.lstsq(one_hot, data.rewards[:, :1].double(), driver="gelsd").solution.view(2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["monotonic", "vdn"])
def test_values_and_policies_of_the_coordination_game_are_the_closed_form(mixer):
    """w V_i = alpha log E exp(w Q_i / alpha), and pi_i = mu_i exp(w (Q_i - V_i) / alpha), of the best additive Q."""
    alpha, data = 0.25, one_convention()
    learner = train_on("omiga", data, steps=2400, mixer=mixer, alpha=alpha, tau=0.05)
    obs, choices = data.obs[:1], torch.arange(3)
    features = learner.inputs(obs)
    with torch.no_grad():
        weights = learner.mixer.coefficients(learner.joint(obs))[0][0]
        q = torch.stack([learner.critic(features, choices[[c, c]].unsqueeze(0))[0, 0] for c in range(3)], -1)
        v, chances = learner.value(features)[0], learner.actor(features).log_probs[0].exp()
    fitted, mu = additive_fit(data), torch.stack([(data.actions == c).double().mean(0) for c in range(3)], -1)
    centred = weights.unsqueeze(-1) * q
    centred = centred - (mu * centred).sum(-1, keepdim=True)
    exact = fitted - (mu * fitted).sum(-1, keepdim=True)
    torch.testing.assert_close(centred.double(), exact, rtol=0, atol=0.04)
    soft = alpha * torch.log((mu * (weights.unsqueeze(-1) * q / alpha).exp()).sum(-1)) / weights
    torch.testing.assert_close(v.double(), soft, rtol=0, atol=0.04)
    best = mu * (exact / alpha).exp()
    torch.testing.assert_close(chances.double(), best / best.sum(-1, keepdim=True), rtol=0, atol=0.04)
    assert play_once(learner, data) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "reached"), [(0.02, True), (10.0, False)])
def test_a_small_alpha_finds_the_rewarded_point_and_a_large_one_clones(alpha, reached):
    data, best = rewarded_point()
    learner = train_on("omiga", data, steps=1500, alpha=alpha)
    found = learner.act(data.obs[:1])[0, :, 0]
    distance = float((found - best).abs().max())
    assert distance < 0.1 if reached else distance > 0.25
