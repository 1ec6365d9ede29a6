from __future__ import annotations

import naive
import pytest
import torch
from coordination import one_convention, play_once, rewarded_point, train_on

KINDS = ["continuous", "discrete"]


def losses_by_loops(before, batch):
    """Value, actor and critic loss agent by agent, with what the update may not differentiate cut off."""
    config, spec = before.config, before.spec
    with torch.no_grad():
        target_q = naive.q_values(before.target_critic, spec, batch.obs, batch.actions)
        next_v = naive.values(before.value, spec, batch.next_obs)
    q = naive.q_values(before.critic, spec, batch.obs, batch.actions)
    v = naive.values(before.value, spec, batch.obs)
    log_probs = naive.log_probs(before.actor, spec, batch)
    value, actor, critic, least, gains = [], [], [], [], []
    for i in range(spec.n_agents):
        smaller = torch.minimum(target_q[0][i], target_q[1][i])
        advantage = smaller - v[i]
        least.append(smaller)
        gains.append(advantage.detach())
        value.append(naive.expectile(advantage, config.expectile))
        weight = (config.temperature * advantage.detach()).exp().clamp(max=config.max_weight)
        actor.append(-weight * log_probs[i])
        going = 1 - batch.terminations[:, i].float()
        target = batch.rewards[:, i] + config.gamma * going * next_v[i]
        critic.append((q[0][i] - target) ** 2 + (q[1][i] - target) ** 2)
    means = (torch.stack(terms).mean() for terms in (value, actor, critic, least, gains))
    return dict(zip(("loss/value", "loss/actor", "loss/critic", "q/mean", "advantage/mean"), means, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_three_losses_equal_their_loops_over_agents(kind):
    learner, batch = naive.learner_and_batch("iql", kind, expectile=0.8, temperature=2.0)
    before, metrics = naive.before_and_after(learner, batch)
    expected = losses_by_loops(before, batch)
    torch.testing.assert_close(metrics, {name: value.detach() for name, value in expected.items()})


@pytest.mark.parametrize("kind", KINDS)
def test_each_network_learns_from_its_own_loss_alone(kind):
    learner, batch = naive.learner_and_batch("iql", kind)
    before, _ = naive.before_and_after(learner, batch)
    expected = losses_by_loops(before, batch)
    for name in ("value", "actor", "critic"):
        gradients = naive.gradients(expected[f"loss/{name}"], getattr(before, name))
        torch.testing.assert_close(naive.taken(getattr(learner, name)), gradients, rtol=1e-4, atol=1e-5)


def test_no_action_weighs_more_than_the_ceiling():
    learner, batch = naive.learner_and_batch("iql", "continuous", temperature=50.0, max_weight=2.0)
    before, metrics = naive.before_and_after(learner, batch)
    torch.testing.assert_close(metrics["loss/actor"], losses_by_loops(before, batch)["loss/actor"].detach())
    cloned = naive.log_probs(before.actor, before.spec, batch)
    assert metrics["loss/actor"].abs() <= 2.0 * torch.stack(cloned).abs().mean()


def test_the_target_critic_moves_by_tau():
    learner, batch = naive.learner_and_batch("iql", "continuous")
    before, _ = naive.before_and_after(learner, batch)
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
