from __future__ import annotations

import math

import hand
import pytest
import torch
from coordination import one_convention, play_once, rewarded_point, train_on

KINDS = ["continuous", "discrete"]


def learner_by_hand(kind: str, **settings):
    """Target Q (3, 0) and (2, 1), so that the least is (2, 0); Q (1, 1) and (2, -1); V (1, 3).

    The policies' densities are those of choices at odds 1 : 3 and 1 : 1, or of standard normals at 0.
    """
    fields = {"expectile": 0.8, "temperature": 0.5, "max_weight": 1.2, **settings}
    learner = hand.learner_of("iql", hand.DISCRETE if kind == "discrete" else hand.CONTINUOUS, **fields)
    hand.answer(learner.value, [[1.0], [3.0]])
    if kind == "discrete":  # only the choices made count: 1 and 0
        hand.answer(learner.target_critic, [[9.0, 3.0, 9.0], [0.0, 9.0, 9.0], [9.0, 2.0, 9.0], [1.0, 9.0, 9.0]])
        hand.answer(learner.critic, [[9.0, 1.0, 9.0], [1.0, 9.0, 9.0], [9.0, 2.0, 9.0], [-1.0, 9.0, 9.0]])
        hand.answer(learner.actor, [[0.0, math.log(3.0), -99.0], [0.0, 0.0, 0.0]])
    else:
        hand.answer(learner.target_critic, [[3.0], [0.0], [2.0], [1.0]])
        hand.answer(learner.critic, [[1.0], [1.0], [2.0], [-1.0]])
        hand.answer(learner.actor, [[0.0] * 4] * 2)
    return learner


def batch_by_hand(kind: str):
    if kind == "discrete":
        return hand.batch_of(hand.DISCRETE, torch.tensor([[1, 0]] * 2))
    return hand.batch_of(hand.CONTINUOUS, torch.zeros(2, 2, 2))


NORMAL = -0.5 * math.log(2 * math.pi)
LOG_PROBS = {"discrete": (math.log(0.75), math.log(0.5)), "continuous": (2 * NORMAL, NORMAL)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_three_losses_by_hand(kind):
    """Advantages are (1, -3): weights .8 and .2 of the expectile, e^.5 cut at 1.2 and e^-1.5 of the policy.

    Targets are r + V / 2, and r where it is over: (1.5, 2) and (.5, .5). Squared errors of both copies, in the same
    order: .25 + .25, 1 + 9, .25 + 2.25, .25 + 2.25.
    """
    metrics = learner_by_hand(kind).update(batch_by_hand(kind))
    first, second = LOG_PROBS[kind]
    assert float(metrics["loss/value"]) == pytest.approx((0.8 * 1 + 0.2 * 9) / 2)
    assert float(metrics["loss/actor"]) == pytest.approx(-(1.2 * first + math.exp(-1.5) * second) / 2, rel=1e-5)
    assert float(metrics["loss/critic"]) == pytest.approx((0.5 + 10 + 2.5 + 2.5) / 4)
    assert (float(metrics["q/mean"]), float(metrics["advantage/mean"])) == (1.0, -1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_entries_that_are_masked_have_no_part_in_any_loss(kind):
    metrics = learner_by_hand(kind).update(hand.without_the_ended(batch_by_hand(kind)))
    first, second = LOG_PROBS[kind]
    assert float(metrics["loss/value"]) == pytest.approx((2 * 0.8 + 1.8) / 3)
    assert float(metrics["loss/actor"]) == pytest.approx(-(2 * 1.2 * first + math.exp(-1.5) * second) / 3, rel=1e-5)
    assert float(metrics["loss/critic"]) == pytest.approx((0.5 + 2.5 + 2.5) / 3)


def test_a_targets_cap_holds_for_each_agent():
    """At caps (.75, 1) targets are (.75, 1) and (.5, .5); of the first row .0625 + 1.5625 and 0 + 4."""
    learner = learner_by_hand("continuous")
    learner.best.copy_(torch.tensor([0.75, 1.0]))
    found = learner.update(batch_by_hand("continuous"))["loss/critic"]
    assert float(found) == pytest.approx((1.625 + 4 + 2.5 + 2.5) / 4)


@pytest.mark.parametrize("kind", KINDS)
def test_each_network_learns_from_its_own_loss_alone(kind):
    """By the last biases: the slopes of the losses above, with what they may not differentiate held."""
    learner = learner_by_hand(kind)
    learner.update(batch_by_hand(kind))
    value = learner.value.net.stack.layers[-1].bias.grad[:, 0, 0]
    torch.testing.assert_close(value, torch.tensor([-2 * 0.8 * 1 / 2, 2 * 0.2 * 3 / 2]))  # -dE/dV, half of the entries
    made = learner.critic.net.stack.layers[-1].bias.grad[:, 0]
    q = made[[0, 1, 2, 3], [1, 0, 1, 0]] if kind == "discrete" else made[:, 0]
    # 2 (Q - target) over both rows, a quarter each: of copy 1 (-.5 + .5, -1 + .5), of copy 2 (.5 + 1.5, -3 - 1.5)
    torch.testing.assert_close(q, torch.tensor([0.0, -0.25, 1.0, -2.25]))
    actor = learner.actor.net.stack.layers[-1].bias.grad[:, 0]
    if kind == "discrete":
        weights = torch.tensor([1.2, math.exp(-1.5)])
        slopes = torch.tensor([[0.25, 0.75 - 1, 0.0], [0.5 - 1, 0.5, 0.0]]) * weights.unsqueeze(-1) / 2
        torch.testing.assert_close(actor, slopes, rtol=1e-5, atol=1e-6)
    else:  # at its own mean, a density does not rise by the mean, and falls by the log-std
        torch.testing.assert_close(actor[0], torch.tensor([0.0, 0.0, 0.6, 0.6]))


def test_the_target_critic_moves_by_tau():
    learner, batch = hand.learner_and_batch("iql", "continuous")
    before, _ = hand.before_and_after(learner, batch)
    for old, new, source in zip(
        before.target_critic.parameters(), learner.target_critic.parameters(), learner.critic.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.7 * old + 0.3 * source)


@pytest.mark.slow
def test_values_on_a_one_step_game_are_the_exact_mean_and_expectile():
    data = one_convention()
    learner = train_on("iql", data, steps=2400, expectile=0.8, tau=0.05)
    spec, obs = data.spec, data.obs[:1]
    for i in range(spec.n_agents):
        mine = data.actions[:, i]
        exact_q = torch.stack([data.rewards[mine == choice, i].mean() for choice in range(spec.act_dims[i])])
        choices = torch.tensor([[c] * spec.n_agents for c in range(spec.act_dims[i])])
        q = learner.critic(learner.inputs(obs.expand(len(choices), -1, -1)), choices)[:, :, i]
        torch.testing.assert_close(q.mean(0), exact_q, rtol=0, atol=0.04)
        lowest, highest = 0.0, 1.0
        for _ in range(60):  # the expectile's defining equation, by bisection
            middle = (lowest + highest) / 2
            error = exact_q[mine] - middle
            pull = torch.where(error < 0, 0.2, 0.8) * error
            lowest, highest = (middle, highest) if pull.mean() > 0 else (lowest, middle)
        v = learner.value(learner.inputs(obs))[0, i]
        torch.testing.assert_close(v, torch.tensor(middle), rtol=0, atol=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bc", "iql", "ma-iql"])
def test_one_convention_in_the_data_is_followed(name):
    data = one_convention()
    assert data.returns().mean() < 0.8, "the data itself should be far from the optimum"
    assert play_once(train_on(name, data, steps=1500), data) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iql", "ma-iql"])
def test_the_best_continuous_action_is_found_among_random_ones(name):
    data, best = rewarded_point()
    learner = train_on(name, data, steps=2400, temperature=10.0)
    torch.testing.assert_close(learner.act(data.obs[:1])[0, :, 0], best, rtol=0, atol=0.15)
    cloned = train_on("bc", data, steps=500)
    assert (cloned.act(data.obs[:1])[0, :, 0] - best).abs().max() > 0.3, "cloning should not find it"
