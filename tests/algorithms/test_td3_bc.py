from __future__ import annotations

import copy

import naive
import pytest
import torch
from coordination import own_rewards, train_on
from worlds import CONTINUOUS

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import ConfigError, build

CRITICS = ["independent", "centralised"]
VARIANTS = [{}, {"window": 3}, {"share_parameters": True}]


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("critic", CRITICS)
def test_both_losses_and_all_gradients_equal_their_loops(critic, variant, with_mask):
    """The policy's gradient is the true one, through the critic; the critic's is that of its own loss alone."""
    learner, batch = naive.learner_and_batch("td3-bc", "continuous", rows=10, critic=critic, policy_every=1, **variant)
    batch = naive.masked(batch) if with_mask else batch
    generator = naive.same_draws(learner)
    before, metrics = naive.before_and_after(learner, batch)
    features = before.inputs(batch.obs, batch.history)
    expected = {"loss/critic": naive.td_loss(before, batch, features, naive.td3_target(before, batch, generator))}
    expected["loss/actor"] = naive.td3_bc_loss(before, batch, features)
    for name, value in expected.items():
        torch.testing.assert_close(metrics[name], value.detach())
    total = sum(expected.values())
    for name in naive.modules(learner):
        gradients = naive.gradients(total, getattr(before, name))
        torch.testing.assert_close(naive.taken(getattr(learner, name)), gradients, rtol=1e-4, atol=1e-5)
    alone = naive.gradients(expected["loss/critic"], before.critic)
    torch.testing.assert_close(naive.taken(learner.critic), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("critic", CRITICS)
def test_the_target_equals_its_loop_over_ended_cut_and_running_rows(critic):
    learner, batch = naive.learner_and_batch(
        "td3-bc", "continuous", rows=40, critic=critic, target_noise=0.6, noise_clip=0.4
    )
    assert batch.terminations.any() and batch.truncations.any() and not batch.terminations.all()
    generator = naive.same_draws(learner)
    expected = naive.td3_target(learner, batch, generator)
    torch.testing.assert_close(learner.target(batch), expected)
    torch.testing.assert_close(expected[batch.terminations], batch.rewards[batch.terminations])
    assert bool((expected != batch.rewards)[batch.truncations].all()), "a truncation keeps the bootstrap"


def test_the_target_never_exceeds_its_bound():
    learner, batch = naive.learner_and_batch("td3-bc", "continuous", rows=40)
    free = learner.target(batch).amax(0)
    learner.cap_targets(free - 0.1, (free - 0.1).mean())
    generator = naive.same_draws(learner)
    expected = naive.td3_target(learner, batch, generator)
    found = learner.target(batch)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.amax(0), free - 0.1)


def test_without_noise_the_target_draws_its_actions_from_the_target_policy():
    learner, batch = naive.learner_and_batch("td3-bc", "continuous", target_noise=0.0)
    with torch.no_grad():
        next_q = learner.target_critic(batch.next_obs, learner.target_policy(batch.next_obs)).amin(0)
    going = (~batch.terminations).float()
    torch.testing.assert_close(learner.target(batch), batch.rewards + 0.99 * going * next_q)


@pytest.mark.parametrize("critic", CRITICS)
def test_the_slope_is_the_gradient_by_an_agents_own_action_alone(critic):
    learner, batch = naive.learner_and_batch("td3-bc", "continuous", critic=critic)
    features = learner.inputs(batch.obs)
    own = learner.policy(features)
    q, slope = learner.slope(features, batch.actions, own)
    step = 1e-3
    for i in range(CONTINUOUS.n_agents):
        for c in range(CONTINUOUS.act_dims[i]):
            ends = []
            for sign in (1, -1):
                double = naive.frozen(learner.critic).double()
                moved = own.detach().double().clone()
                moved[:, i, c] += sign * step
                ends.append(double(features.double(), batch.actions.double(), moved)[0, :, i])
            torch.testing.assert_close(slope[:, i, c].double(), (ends[0] - ends[1]) / (2 * step), rtol=1e-2, atol=1e-3)
    assert not q.requires_grad and not slope.requires_grad


def test_the_size_of_an_agents_values_does_not_move_its_balance():
    """lambda is each agent's own: ten times agent 1's Q is the same policy gradient."""
    learner, batch = naive.learner_and_batch("td3-bc", "continuous", policy_every=1)
    other = copy.deepcopy(learner)
    with torch.no_grad():
        last = other.critic.net.stack.layers[-1]
        for copy_ in range(2):
            last.weight[copy_ * 3 + 1] *= 10
            last.bias[copy_ * 3 + 1] *= 10
    learner.update(batch)
    other.update(batch)
    torch.testing.assert_close(naive.taken(other.policy), naive.taken(learner.policy))


def test_a_policy_without_a_value_term_clones():
    learner, batch = naive.learner_and_batch("td3-bc", "continuous", policy_every=1, alpha=0.0)
    before, metrics = naive.before_and_after(learner, batch)
    cloning = naive.mean(naive.distances(before, before.policy(batch.obs), batch.actions))
    torch.testing.assert_close(metrics["loss/actor"], cloning.detach())
    torch.testing.assert_close(naive.taken(learner.policy), naive.gradients(cloning, before.policy))


@pytest.mark.parametrize("name", ["td3-bc", "cql", "omar"])
def test_policy_and_targets_move_only_at_their_turn(name):
    learner, batch = naive.learner_and_batch(name, "continuous", policy_every=3)
    assert learner.updates == 3
    for turn in (True, False, False, True, False):
        before, metrics = naive.before_and_after(learner, batch)
        for part in ("policy", "target_policy", "target_critic"):
            pairs = zip(getattr(before, part).parameters(), getattr(learner, part).parameters(), strict=True)
            assert all(torch.equal(old, new) for old, new in pairs) != turn, part
        assert any(
            not torch.equal(old, new)
            for old, new in zip(before.critic.parameters(), learner.critic.parameters(), strict=True)
        )
        assert turn or metrics["loss/actor"] == before.actor_loss, "the policy's last loss stays in view"


def test_targets_move_by_tau():
    learner, batch = naive.learner_and_batch("td3-bc", "continuous", policy_every=1, window=3)
    before, _ = naive.before_and_after(learner, batch)
    for part in ("policy", "critic", "inputs"):
        old, source = getattr(before, f"target_{part}").parameters(), getattr(learner, part).parameters()
        for was, now, end in zip(old, getattr(learner, f"target_{part}").parameters(), source, strict=True):
            torch.testing.assert_close(now, 0.7 * was + 0.3 * end)


def test_exploring_adds_noise_inside_the_box_and_off_the_padding():
    learner, batch = naive.learner_and_batch("td3-bc", "continuous", explore_noise=0.5)
    generator = naive.same_draws(learner)
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
