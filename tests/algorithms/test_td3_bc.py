from __future__ import annotations

import copy
import math
from dataclasses import replace

import hand
import pytest
import torch
from coordination import own_rewards, train_on
from worlds import CONTINUOUS

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import ConfigError, build

CRITICS = ["independent", "centralised"]


@pytest.mark.parametrize("critic", CRITICS)
def test_both_losses_by_hand(critic):
    """Targets as in implicit Q-learning: least target Q is (2, 0), so (2, 2) and (1, -1).

    Q_1 of the recorded actions: -.5 + 2 and -1.6 - 1.4; the others add a quarter of -.8 and of .5.
    The policy's Q over its own mean size is its sign, but for what the other adds.
    """
    more = (-0.2, 0.125) if critic == "centralised" else (0.0, 0.0)
    metrics = hand.climber(critic=critic).update(hand.batch_of(hand.CONTINUOUS, hand.ACTIONS))
    q = ((1.5 + more[0], -3.0 + more[1]), (2.0, -1.0))
    targets = ((2.0, 2.0), (1.0, -1.0))
    errors = sum(
        (value - target) ** 2 for copy_ in q for row in targets for value, target in zip(copy_, row, strict=True)
    )
    near, far = hand.DISTANCES
    assert float(metrics["loss/critic"]) == pytest.approx(errors / 4, rel=1e-5)
    assert float(metrics["loss/actor"]) == pytest.approx(
        (hand.DISTANCES[0] - 2.5 + hand.DISTANCES[1] + 2.5) / 2, rel=1e-5
    )


def test_entries_that_are_masked_have_no_part_in_either_loss():
    batch = hand.without_the_ended(hand.batch_of(hand.CONTINUOUS, hand.ACTIONS))
    metrics = hand.climber().update(batch)
    errors = (1.5 - 2) ** 2 + (2.0 - 2) ** 2 + (1.5 - 1) ** 2 + (2.0 - 1) ** 2 + (-3.0 + 1) ** 2 + 0.0
    near, far = hand.DISTANCES
    assert float(metrics["loss/critic"]) == pytest.approx(errors / 3, rel=1e-5)
    assert float(metrics["loss/actor"]) == pytest.approx(
        (2 * (hand.DISTANCES[0] - 2.5) + hand.DISTANCES[1] + 2.5) / 3, rel=1e-5
    )


def test_the_size_of_an_agents_values_is_that_of_the_entries_that_count():
    """The second agent's Q is -.875 and -1.125 by what the other did; only the second row counts for it."""
    actions = hand.ACTIONS.clone()
    actions[1, 0] = torch.tensor([0.0, -0.5])
    batch = hand.without_the_ended(hand.batch_of(hand.CONTINUOUS, actions))
    metrics = hand.climber(critic="centralised").update(batch)
    assert float(metrics["loss/actor"]) == pytest.approx((0.625 - 2.5 + 0.125 - 2.5 + 1.0 + 2.5) / 3, rel=1e-5)


@pytest.mark.parametrize("with_mask", [False, True])
def test_the_policys_gradient_by_hand(with_mask):
    """By an output: (d distance - 2.5 / |Q| dQ/da) (1 - a^2), the mean over the entries that count."""
    batch = hand.batch_of(hand.CONTINUOUS, hand.ACTIONS)
    learner = hand.climber()
    learner.update(hand.without_the_ended(batch) if with_mask else batch)
    rows = torch.tensor([[2.0], [1.0]]) / 3 if with_mask else torch.tensor([[2.0], [2.0]]) / 4
    slopes = torch.tensor(
        [
            [(0.5 - 2.5 / 3) * 0.75, (-1.0 + 2.5 / 3) * 0.75],  # 2 (a - a') / 2 entries; Q = 3
            [(2.0 - 2.5 * 2) * 0.96, 0.0],  # 2 (a - a'); |Q| = 1
        ]
    )
    found = learner.policy.net.stack.layers[-1].bias.grad[:, 0]
    torch.testing.assert_close(found, slopes * rows, rtol=1e-4, atol=1e-5)


def test_the_critics_gradient_is_that_of_its_own_loss_alone():
    """By its last biases: 2 (Q - target), a quarter of both rows, although the policy climbs Q_1."""
    learner = hand.climber()
    learner.update(hand.batch_of(hand.CONTINUOUS, hand.ACTIONS))
    found = learner.critic.net.stack.layers[-1].bias.grad[:, 0, 0]
    torch.testing.assert_close(found, torch.tensor([0.0, -3.5, 0.5, -1.5]), rtol=1e-4, atol=1e-5)


def test_the_target_by_hand_over_ended_cut_and_running_rows():
    batch = hand.batch_of(hand.CONTINUOUS, hand.ACTIONS)
    batch = replace(batch, truncations=torch.tensor([[False, False], [True, True]]))
    assert hand.climber().target(batch).tolist() == [[2.0, 2.0], [1.0, -1.0]]


def test_the_targets_noise_is_clipped_and_so_is_the_action():
    """Noise far beyond its bound is .3 either way; the first agent acts .9 and -.9, so that a clip at 1 shows."""
    learner = hand.climber(target_noise=1e6, noise_clip=0.3)
    hand.answer(learner.target_policy, [[math.atanh(0.9), math.atanh(-0.9)], [math.atanh(0.2), 9.0]])
    hand.answer_linearly(learner.target_critic, [[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [0.0, 0.0, 5.0, 5.0])
    batch = hand.batch_of(hand.CONTINUOUS, hand.ACTIONS)
    batch = replace(batch, rewards=torch.zeros(2, 2), terminations=torch.zeros(2, 2, dtype=torch.bool))
    found = torch.stack([2 * learner.target(batch) for _ in range(20)])
    for agent, ends in enumerate(([0.6, 1.0], [-0.1, 0.5])):
        values = sorted({round(float(value), 4) for value in found[..., agent].flatten()})
        assert values == pytest.approx(ends, abs=1e-3)


def test_the_target_never_exceeds_its_bound():
    learner, batch = hand.learner_and_batch("td3-bc", "continuous", rows=40, target_noise=0.0)
    free = learner.target(batch)
    cap = free.amax(0) - 0.1
    learner.cap_targets(cap, cap.mean())
    torch.testing.assert_close(learner.target(batch), torch.minimum(free, cap))


def test_without_noise_the_target_draws_its_actions_from_the_target_policy():
    learner, batch = hand.learner_and_batch("td3-bc", "continuous", target_noise=0.0)
    with torch.no_grad():
        next_q = learner.target_critic(batch.next_obs, learner.target_policy(batch.next_obs)).amin(0)
    going = (~batch.terminations).float()
    torch.testing.assert_close(learner.target(batch), batch.rewards + 0.99 * going * next_q)


@pytest.mark.parametrize("critic", CRITICS)
def test_the_slope_is_the_gradient_by_an_agents_own_action_alone(critic):
    learner, batch = hand.learner_and_batch("td3-bc", "continuous", critic=critic)
    features = learner.inputs(batch.obs)
    own = learner.policy(features)
    q, slope = learner.slope(features, batch.actions, own)
    step = 1e-3
    for i in range(CONTINUOUS.n_agents):
        for c in range(CONTINUOUS.act_dims[i]):
            ends = []
            for sign in (1, -1):
                double = hand.frozen(learner.critic).double()
                moved = own.detach().double().clone()
                moved[:, i, c] += sign * step
                ends.append(double(features.double(), batch.actions.double(), moved)[0, :, i])
            torch.testing.assert_close(slope[:, i, c].double(), (ends[0] - ends[1]) / (2 * step), rtol=1e-2, atol=1e-3)
    assert not q.requires_grad and not slope.requires_grad


def test_the_size_of_an_agents_values_does_not_move_its_balance():
    """lambda is each agent's own: ten times agent 1's Q is the same policy gradient."""
    learner, batch = hand.learner_and_batch("td3-bc", "continuous", policy_every=1)
    other = copy.deepcopy(learner)
    with torch.no_grad():
        last = other.critic.net.stack.layers[-1]
        for copy_ in range(2):
            last.weight[copy_ * 3 + 1] *= 10
            last.bias[copy_ * 3 + 1] *= 10
    learner.update(batch)
    other.update(batch)
    torch.testing.assert_close(hand.taken(other.policy), hand.taken(learner.policy))


def test_a_policy_without_a_value_term_clones():
    learner = hand.climber(alpha=0.0)
    metrics = learner.update(hand.batch_of(hand.CONTINUOUS, hand.ACTIONS))
    assert float(metrics["loss/actor"]) == pytest.approx(sum(hand.DISTANCES) / 2, rel=1e-5)
    found = learner.policy.net.stack.layers[-1].bias.grad[:, 0]
    torch.testing.assert_close(found, torch.tensor([[0.5 * 0.75, -0.75], [2 * 0.96, 0.0]]) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["td3-bc", "cql", "omar"])
def test_policy_and_targets_move_only_at_their_turn(name):
    learner, batch = hand.learner_and_batch(name, "continuous", policy_every=3)
    assert learner.updates == 3
    for turn in (True, False, False, True, False):
        before, metrics = hand.before_and_after(learner, batch)
        for part in ("policy", "target_policy", "target_critic"):
            pairs = zip(getattr(before, part).parameters(), getattr(learner, part).parameters(), strict=True)
            assert all(torch.equal(old, new) for old, new in pairs) != turn, part
        assert any(
            not torch.equal(old, new)
            for old, new in zip(before.critic.parameters(), learner.critic.parameters(), strict=True)
        )
        assert turn or metrics["loss/actor"] == before.actor_loss, "the policy's last loss stays in view"


def test_targets_move_by_tau():
    learner, batch = hand.learner_and_batch("td3-bc", "continuous", policy_every=1, window=3)
    before, _ = hand.before_and_after(learner, batch)
    for part in ("policy", "critic", "inputs"):
        old, source = getattr(before, f"target_{part}").parameters(), getattr(learner, part).parameters()
        for was, now, end in zip(old, getattr(learner, f"target_{part}").parameters(), source, strict=True):
            torch.testing.assert_close(now, 0.7 * was + 0.3 * end)


def test_exploring_adds_noise_inside_the_box_and_off_the_padding():
    learner, batch = hand.learner_and_batch("td3-bc", "continuous", explore_noise=0.5)
    generator = hand.same_draws(learner)
    calm, bold = learner.act(batch.obs), learner.act(batch.obs, explore=True)
    noise = torch.empty(calm.shape).normal_(std=0.5, generator=generator) * CONTINUOUS.present("act")
    torch.testing.assert_close(bold, (calm + noise).clamp(-1, 1))
    assert bool(bold[:, ~CONTINUOUS.present("act")].eq(0).all())


@pytest.mark.parametrize("bad", [{"critic": "central"}, {"policy_every": 0}, {"alpha": -1.0}, {"target_noise": -0.1}])
def test_its_fields_keep_their_bounds(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        build(algorithms.get("td3-bc").Config, bad)


# --- learning ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("critic", CRITICS)
def test_it_balances_the_best_action_with_cloning_as_its_objective_says(critic):
    """Data is uniform in [-1, 1] and Q_i(a) = -1 - (a - b_i)^2, so that E (pi - a)^2 = pi^2 + 1/3.

    pi^2 - lambda Q(pi) is least at pi = lambda b / (1 + lambda), with lambda = alpha / |Q(pi)| a fixed point.
    """
    best, alpha = torch.tensor([0.7, -0.5]), 2.5
    data = own_rewards(lambda actions: -1 - (actions - best).square())
    balanced = best.clone()
    for _ in range(100):
        weight = alpha / (1 + (balanced - best).square())
        balanced = weight * best / (1 + weight)
    learner = train_on("td3-bc", data, steps=1500, critic=critic, alpha=alpha, cosine_steps=1500)
    found = learner.act(data.obs[:1])[0, :, 0]
    torch.testing.assert_close(found, balanced, rtol=0, atol=0.12)
    cloned = train_on("bc", data, steps=500).act(data.obs[:1])[0, :, 0]
    assert bool(((found - best).abs() < 0.6 * (cloned - best).abs()).all()), "far better than cloning, each agent"
