from __future__ import annotations

import math
from dataclasses import replace

import hand
import pytest
import torch
from coordination import one_convention, train_on

import offline_marl
from offline_marl import Dataset

KINDS = ["continuous", "discrete"]
OWNERS = ("value", "v_mixer", "critic", "q_mixer")


def learner_by_hand(kind: str, mixer: str, **settings):
    """Target Q (3, 1) and (2, 1); Q (1, 1) and (2, -1); V (1, 3), mixed with these weights and biases.

    Q by (2, -1) + .5 and (1, 1) + 9, target Q by (2, -1) + 1.5 and (1, 1) + 9, V by (1, -2) + 0.
    """
    fields = {"expectile": 0.8, "temperature": 0.5, "max_weight": 2.0, "mixer": mixer, **settings}
    learner = hand.learner_of("ma-iql", hand.DISCRETE if kind == "discrete" else hand.CONTINUOUS, **fields)
    hand.answer(learner.value, [[1.0], [3.0]])
    if kind == "discrete":  # only the choices made count: 1 and 0
        hand.answer(learner.target_critic, [[9.0, 3.0, 9.0], [1.0, 9.0, 9.0], [9.0, 2.0, 9.0], [1.0, 9.0, 9.0]])
        hand.answer(learner.critic, [[9.0, 1.0, 9.0], [1.0, 9.0, 9.0], [9.0, 2.0, 9.0], [-1.0, 9.0, 9.0]])
        hand.answer(learner.actor, [[0.0, math.log(3.0), -99.0], [0.0, 0.0, 0.0]])
    else:
        hand.answer(learner.target_critic, [[3.0], [1.0], [2.0], [1.0]])
        hand.answer(learner.critic, [[1.0], [1.0], [2.0], [-1.0]])
        hand.answer(learner.actor, [[0.0] * 4] * 2)
    if mixer != "vdn":
        hand.answer(learner.q_mixer, [[2.0, -1.0, 0.5], [1.0, 1.0, 9.0]])
        hand.answer(learner.target_q_mixer, [[2.0, -1.0, 1.5], [1.0, 1.0, 9.0]])
        hand.answer(learner.v_mixer, [[1.0, -2.0, 0.0]])
    return learner


def batch_by_hand(kind: str):
    """In the second row both agents are over, in the first one of them."""
    if kind == "discrete":
        batch = hand.batch_of(hand.DISCRETE, torch.tensor([[1, 0]] * 2))
    else:
        batch = hand.batch_of(hand.CONTINUOUS, torch.zeros(2, 2, 2))
    return replace(batch, terminations=torch.tensor([[False, True], [True, True]]))


NORMAL = -0.5 * math.log(2 * math.pi)
LOG_PROBS = {"discrete": (math.log(0.75), math.log(0.5)), "continuous": (2 * NORMAL, NORMAL)}
# mixer: target Q of the team (the least of both), V, advantage, and Q of both copies
TEAMS = {
    "unconstrained": (6 - 1 + 1.5, 1 - 6, 11.5, (2 - 1 + 0.5, 2 - 1 + 9)),
    "monotonic": (6 + 1 + 1.5, 1 + 6, 1.5, (2 + 1 + 0.5, 2 - 1 + 9)),
    "vdn": (2 + 1, 1 + 3, -1.0, (2.0, 1.0)),
}


@pytest.mark.parametrize("weighting", ["team", "agent"])
@pytest.mark.parametrize("mixer", list(TEAMS))
@pytest.mark.parametrize("kind", KINDS)
def test_the_three_losses_on_team_values_by_hand(kind, mixer, weighting):
    """The team's rewards are 1.5 and -.5; only the second row is over for everybody, so its target is -.5.

    Each agent's own advantage is (2 - 1, 1 - 3).
    """
    q, v, advantage, both = TEAMS[mixer]
    metrics = learner_by_hand(kind, mixer, weighting=weighting).update(batch_by_hand(kind))
    level = 0.8 if advantage > 0 else 0.2
    assert float(metrics["loss/value"]) == pytest.approx(level * advantage**2)
    targets = (1.5 + 0.5 * v, -0.5)
    errors = sum((value - target) ** 2 for target in targets for value in both)
    assert float(metrics["loss/critic"]) == pytest.approx(errors / 2)
    shares = (advantage, advantage) if weighting == "team" else (1.0, -2.0)
    weights = [min(math.exp(0.5 * share), 2.0) for share in shares]
    expected = -sum(weight * log_prob for weight, log_prob in zip(weights, LOG_PROBS[kind], strict=True))
    assert float(metrics["loss/actor"]) == pytest.approx(expected, rel=1e-5)
    assert (float(metrics["q/mean"]), float(metrics["advantage/mean"])) == (q, advantage)


def test_a_team_is_the_agents_that_are_there():
    """In the first row the first agent alone: Q' 3 and 2, V 1, Q 1 and 2.

    Its reward is 1 / 2, as returns count it, with V 1 after it: the target is 1. In the second row both, as by hand
    above: advantage -1, errors 2.5 and 1.5.
    """
    batch = replace(batch_by_hand("discrete"), mask=torch.tensor([[True, False], [True, True]]))
    found = learner_by_hand("discrete", "vdn").update(batch)
    cloned = math.exp(0.5) * math.log(0.75), math.exp(-0.5) * (math.log(0.75) + math.log(0.5))
    assert float(found["loss/actor"]) == pytest.approx(-sum(cloned) / 2, rel=1e-5)
    assert float(found["loss/value"]) == pytest.approx((0.8 + 0.2) / 2)
    assert float(found["loss/critic"]) == pytest.approx((0 + 1 + 2.5**2 + 1.5**2) / 2)


@pytest.mark.parametrize("normalized", [False, True])
def test_rows_without_an_agent_do_not_count(normalized):
    """The first row of the test above is left, whatever stands in the second."""
    batch = replace(batch_by_hand("discrete"), mask=torch.tensor([[True, False], [False, False]]))
    found = learner_by_hand("discrete", "vdn", normalize_values=normalized).update(batch)
    assert float(found["loss/actor"]) == pytest.approx(-math.exp(0.5) * math.log(0.75), rel=1e-5)
    scale = 1e-6 if normalized else 1.0  # one row deviates from nothing
    assert float(found["loss/value"]) == pytest.approx(0.8 / scale**2, rel=1e-4)
    assert float(found["loss/critic"]) == pytest.approx(1.0 / scale**2, rel=1e-4)


def test_the_teams_target_is_capped():
    learner = learner_by_hand("continuous", "vdn")
    learner.best_team.fill_(2.0)  # where the target would be 1.5 + 2 = 3.5
    found = learner.update(batch_by_hand("continuous"))["loss/critic"]
    assert float(found) == pytest.approx((0 + 1 + 2.5**2 + 1.5**2) / 2)


@pytest.mark.parametrize("mixer", list(TEAMS))
@pytest.mark.parametrize("kind", KINDS)
def test_each_network_learns_from_its_own_loss_alone(kind, mixer):
    """V's last biases: 2 |level| times minus the mixer's weight; weighting moves the policies and nothing else."""
    _, _, advantage, both = TEAMS[mixer]
    slopes = []
    for weighting in ("team", "agent"):
        learner = learner_by_hand(kind, mixer, weighting=weighting)
        learner.update(batch_by_hand(kind))
        slopes.append([parameter.grad for name in OWNERS for parameter in getattr(learner, name).parameters()])
        actor = learner.actor.net.stack.layers[-1].bias.grad
        slopes[-1].append(actor)
    torch.testing.assert_close(slopes[0][:-1], slopes[1][:-1])
    assert not torch.allclose(slopes[0][-1], slopes[1][-1])
    level = 0.8 if advantage > 0 else 0.2
    weights = {"unconstrained": (1.0, -2.0), "monotonic": (1.0, 2.0), "vdn": (1.0, 1.0)}[mixer]
    value = learner.value.net.stack.layers[-1].bias.grad[:, 0, 0]
    torch.testing.assert_close(value, -2 * level * advantage * torch.tensor(weights), rtol=1e-5, atol=1e-5)
    targets = (1.5 + 0.5 * TEAMS[mixer][1], -0.5)
    made = learner.critic.net.stack.layers[-1].bias.grad[:, 0]
    q = made[[0, 1, 2, 3], [1, 0, 1, 0]] if kind == "discrete" else made[:, 0]
    mixing = {"unconstrained": (2.0, -1.0, 1.0, 1.0), "monotonic": (2.0, 1.0, 1.0, 1.0), "vdn": (1.0,) * 4}[mixer]
    errors = [sum(value - target for target in targets) for value in both]
    expected = torch.tensor(mixing) * torch.tensor([errors[0], errors[0], errors[1], errors[1]])
    torch.testing.assert_close(q, expected, rtol=1e-5, atol=1e-4)


def test_each_module_is_clipped_by_its_own_norm():
    learner, batch = hand.learner_and_batch("ma-iql", "continuous", grad_clip=1e-3)
    learner.update(batch)
    for name in ("value", "v_mixer", "actor", "critic", "q_mixer"):
        norm = torch.cat([gradient.flatten() for gradient in hand.taken(getattr(learner, name))]).norm()
        torch.testing.assert_close(norm, torch.tensor(1e-3), rtol=1e-3, atol=0)


@pytest.mark.slow
def test_with_a_plain_sum_the_team_values_of_the_coordination_game_are_the_best_additive_fit():
    """VDN can only add: Q_tot(a) of the game must be the least-squares additive fit to the reward table."""
    data = one_convention()
    learner = train_on("ma-iql", data, steps=2400, mixer="vdn", tau=0.05)
    one_hot = torch.nn.functional.one_hot(data.actions, 3).flatten(1).double()
    fitted = torch.linalg.lstsq(one_hot, data.rewards[:, :1].double(), driver="gelsd").solution
    joint = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    exact = (torch.nn.functional.one_hot(joint, 3).flatten(1).double() @ fitted)[:, 0].float()
    features = learner.inputs(data.obs[:1].expand(9, -1, -1))
    q = learner.critic(features, joint).sum(-1).mean(0)
    torch.testing.assert_close(q.detach(), exact, rtol=0, atol=0.05)


@pytest.mark.slow
def test_mixers_learn_the_exact_joint_values_that_a_sum_cannot():
    data = one_convention()
    learner = train_on("ma-iql", data, steps=2400, mixer="unconstrained", tau=0.05)
    joint = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    obs = data.obs[:1].expand(9, -1, -1)
    pair = torch.cat([learner.joint(obs), learner.joint_actions(joint)], dim=-1)
    q = learner.q_mixer(learner.critic(learner.inputs(obs), joint), pair).mean(0)
    torch.testing.assert_close(q.detach(), (joint[:, 0] == joint[:, 1]).float(), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("clock", "updates", "fields"),
    [(None, 100_000, {}), (200.0, 100_000, {}), (50.0, 20_000, {}), (50.0, 100_000, {"gamma": 0.9})],
    ids=["some terminate", "longer than it looks", "too few to fall", "within an episode"],
)
def test_only_runs_whose_values_can_fall_beyond_the_clock_are_warned(clock, updates, fields) -> None:
    known = {"tau": 0.005, "gamma": 0.99}
    (said,) = hand.learner_of("ma-iql", hand.CONTINUOUS, **known).cautions(50.0, 100_000)
    assert "after 50 steps, and --gamma 0.99 looks 100 ahead: in 20,000 updates" in said and "--gamma 0.9." in said
    assert hand.learner_of("ma-iql", hand.CONTINUOUS, **{**known, **fields}).cautions(clock, updates) == []


@pytest.mark.parametrize("terminates", [False, True])
def test_the_warning_is_of_what_was_recorded(terminates, tmp_path, capsys) -> None:
    generator = torch.Generator().manual_seed(0)
    obs, actions = (torch.rand(80, 2, 2, generator=generator) for _ in range(2))
    ends = torch.zeros(80, 2, dtype=torch.bool)
    ends[39] = terminates
    data = Dataset.from_arrays(
        obs, actions, torch.rand(80, 2, generator=generator), lengths=[10] * 8, terminations=ends
    )
    fields = {"gamma": 0.98, "tau": 1.0, "hidden": [4], "batch_size": 4, "device": "cpu"}
    offline_marl.train("ma-iql", data, steps=60, out=tmp_path / "run", eval_every=0, **fields)
    assert ("warning: the clock ends episodes after 10 steps" in capsys.readouterr().err) != terminates
