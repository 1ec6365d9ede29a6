from __future__ import annotations

import naive
import pytest
import torch
from coordination import one_convention, train_on

KINDS = ["continuous", "discrete"]


def mix(mixer, copy: int, values: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Team value of each row: weights and bias from the joint input, agent by agent."""
    if mixer.kind == "vdn":
        return sum(values)
    out = naive.mlp(mixer.net, copy, x)
    weights = [out[:, i].abs() if mixer.kind == "monotonic" else out[:, i] for i in range(len(values))]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) + out[:, -1]


def losses_by_loops(before, batch):
    config, spec = before.config, before.spec
    agents = range(spec.n_agents)
    state = torch.cat([batch.obs[:, i] for i in agents], dim=1)
    next_state = torch.cat([batch.next_obs[:, i] for i in agents], dim=1)
    if spec.discrete:
        done = [torch.eye(spec.act_dim)[batch.actions[:, i]] for i in agents]
    else:
        done = [batch.actions[:, i] for i in agents]
    pair = torch.cat([state, *done], dim=1)
    with torch.no_grad():
        target_q = naive.q_values(before.target_critic, spec, batch.obs, batch.actions)
        team_q = torch.minimum(*(mix(before.target_q_mixer, c, target_q[c], pair) for c in range(2)))
        next_v = mix(before.v_mixer, 0, naive.values(before.value, spec, batch.next_obs), next_state)
        over = batch.terminations.all(1)
        target = batch.rewards.mean(1) + config.gamma * next_v * (1 - over.float())
    v = naive.values(before.value, spec, batch.obs)
    advantage = team_q - mix(before.v_mixer, 0, v, state)
    log_probs = naive.log_probs(before.actor, spec, batch)
    actor = []
    for i in agents:
        own = torch.minimum(target_q[0][i], target_q[1][i]) - v[i]
        share = (advantage if config.weighting == "team" else own).detach()
        actor.append(-(config.temperature * share).exp().clamp(max=config.max_weight) * log_probs[i])
    q = naive.q_values(before.critic, spec, batch.obs, batch.actions)
    errors = [(mix(before.q_mixer, c, q[c], pair) - target) ** 2 for c in range(2)]
    return {
        "loss/value": naive.expectile(advantage, config.expectile).mean(),
        "loss/actor": sum(actor).mean(),
        "loss/critic": (errors[0] + errors[1]).mean(),
        "q/mean": team_q.mean(),
        "advantage/mean": advantage.mean(),
    }


@pytest.mark.parametrize("weighting", ["team", "agent"])
@pytest.mark.parametrize("mixer", ["unconstrained", "monotonic", "vdn"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_three_losses_on_team_values_equal_their_loops(kind, mixer, weighting):
    learner, batch = naive.learner_and_batch("ma-iql", kind, mixer=mixer, weighting=weighting, grad_clip=0)
    before, metrics = naive.before_and_after(learner, batch)
    expected = losses_by_loops(before, batch)
    torch.testing.assert_close(
        metrics, {name: value.detach() for name, value in expected.items()}, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("weighting", ["team", "agent"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_network_learns_from_its_own_loss_alone(kind, weighting):
    learner, batch = naive.learner_and_batch("ma-iql", kind, weighting=weighting, grad_clip=0)
    before, _ = naive.before_and_after(learner, batch)
    expected = losses_by_loops(before, batch)
    owners = {"value": ("value", "v_mixer"), "actor": ("actor",), "critic": ("critic", "q_mixer")}
    for loss, modules in owners.items():
        for name in modules:
            gradients = naive.gradients(expected[f"loss/{loss}"], getattr(before, name))
            torch.testing.assert_close(naive.taken(getattr(learner, name)), gradients, rtol=1e-4, atol=1e-4)


def test_each_module_is_clipped_by_its_own_norm():
    learner, batch = naive.learner_and_batch("ma-iql", "continuous", grad_clip=1e-3)
    learner.update(batch)
    for name in ("value", "v_mixer", "actor", "critic", "q_mixer"):
        norm = torch.cat([gradient.flatten() for gradient in naive.taken(getattr(learner, name))]).norm()
        torch.testing.assert_close(norm, torch.tensor(1e-3), rtol=1e-3, atol=0)


def test_a_team_step_is_over_only_where_it_is_over_for_all_agents():
    learner, batch = naive.learner_and_batch("ma-iql", "continuous")
    batch.terminations[:] = False
    batch.terminations[:, 0] = True
    before, metrics = naive.before_and_after(learner, batch)
    torch.testing.assert_close(metrics["loss/critic"], losses_by_loops(before, batch)["loss/critic"].detach())


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
