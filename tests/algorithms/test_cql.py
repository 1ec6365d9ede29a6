from __future__ import annotations

import copy
import math
from dataclasses import replace

import naive
import pytest
import torch
from coordination import judge, one_convention, own_rewards, play_once, train_on
from worlds import CONTINUOUS, DISCRETE, SPECS

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import ConfigError, build
from offline_marl.core.types import DataError
from offline_marl.losses import conservative

KINDS = [("independent", "own"), ("centralised", "own"), ("centralised", "joint"), ("centralised", "counterfactual")]
SETTINGS = {"cql_alpha": 0.8, "cql_temperature": 0.7, "cql_samples": 4, "cql_noise": 0.3, "sharpness": 0.5}
DISCRETE_SETTINGS = {"cql_alpha": 0.8, "cql_temperature": 0.7}


# --- continuous, by loops ---------------------------------------------------------------------------------------------
def draws(before, batch, features, generator):
    """Each draw's actions, `row agent act`, and [row][agent] log densities: uniform, around here, around there."""
    config, spec = before.config, before.spec
    with torch.no_grad():
        here = naive.tanh_actions(before.policy, spec, features)
        there = naive.tanh_actions(before.policy, spec, before.inputs(batch.next_obs, batch.next_history))
    shape = (config.cql_samples, *here.shape)
    flat = torch.empty(shape).uniform_(-1, 1, generator=generator)
    bell = torch.empty(2, *shape).normal_(generator=generator)
    normal = torch.distributions.Normal(0.0, config.cql_noise)
    for centre, shakes in ((None, flat), (here, bell[0]), (there, bell[1])):
        for shake in shakes:
            actions, log_densities = torch.zeros_like(here), []
            for row in range(len(batch)):
                log_densities.append([])
                for i, width in enumerate(spec.act_dims):
                    total = 0.0
                    for c in range(width):
                        if centre is None:
                            actions[row, i, c] = shake[row, i, c]
                            total += math.log(0.5)
                        else:
                            off = config.cql_noise * shake[row, i, c]
                            actions[row, i, c] = max(-1.0, min(1.0, float(centre[row, i, c] + off)))
                            total += float(normal.log_prob(off))
                    log_densities[-1].append(total)
            yield actions, log_densities


def weights_by_loops(before, batch, features) -> list[list[float]]:
    """[row][agent] n softmax_i(-sharpness d_i), d_i in units of the noise."""
    config = before.config
    with torch.no_grad():
        found = []
        for agents in naive.distances(before, naive.tanh_actions(before.policy, before.spec, features), batch.actions):
            odds = [math.exp(-config.sharpness * float(d) / config.cql_noise**2) for d in agents]
            found.append([len(odds) * odd / sum(odds) for odd in odds])
    return found


def continuous_gap(before, batch, features, generator) -> torch.Tensor:
    """Mean over what counts of sum_k (T log (1/N) sum_draws exp(Q_k / T) / mu - Q_k of the data)."""
    config, spec = before.config, before.spec
    judged = []
    for actions, log_densities in draws(before, batch, features, generator):
        q = (
            naive.q_values(before.critic, spec, features, actions)
            if config.cql_actions == "joint"
            else naive.q_values(before.critic, spec, features, batch.actions, actions)
        )
        judged.append((q, log_densities))
    data = naive.q_values(before.critic, spec, features, batch.actions)
    weights = weights_by_loops(before, batch, features)
    temperature = config.cql_temperature
    gaps = []
    for row in range(len(batch)):
        gaps.append([])
        for i in range(spec.n_agents):
            gap = 0.0
            for k in range(2):
                numbers = []
                for q, log_densities in judged:
                    log_mu = sum(log_densities[row]) if config.cql_actions == "joint" else log_densities[row][i]
                    numbers.append(q[k][i][row] - temperature * log_mu)
                level = naive.soft_maximum(numbers, temperature) - temperature * math.log(len(numbers))
                gap = gap + level - data[k][i][row]
            gaps[-1].append(gap * (weights[row][i] if config.cql_actions == "counterfactual" else 1.0))
    return naive.mean(gaps, batch.mask)


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("variant", [{}, {"window": 3}, {"share_parameters": True}], ids=str)
@pytest.mark.parametrize(("critic", "kind"), KINDS)
def test_the_gap_and_all_gradients_equal_their_loops(critic, kind, variant, with_mask):
    settings = {**SETTINGS, "critic": critic, "cql_actions": kind, "policy_every": 1, **variant}
    learner, batch = naive.learner_and_batch("cql", "continuous", **settings)
    batch = naive.masked(batch) if with_mask else batch
    generator = naive.same_draws(learner)
    before, metrics = naive.before_and_after(learner, batch)
    features = before.inputs(batch.obs, batch.history)
    expected = {
        "loss/critic": naive.td_loss(before, batch, features, naive.td3_target(before, batch, generator)),
        "loss/gap": continuous_gap(before, batch, features, generator),
        "loss/actor": naive.td3_bc_loss(before, batch, features),
    }
    for name, value in expected.items():
        torch.testing.assert_close(metrics[name], value.detach())
    total = expected["loss/critic"] + 0.8 * expected["loss/gap"] + expected["loss/actor"]
    for name in naive.modules(learner):
        gradients = naive.gradients(total, getattr(before, name))
        torch.testing.assert_close(naive.taken(getattr(learner, name)), gradients, rtol=1e-4, atol=1e-5)
    if not variant.get("window"):
        alone = naive.gradients(expected["loss/actor"], before.policy)
        torch.testing.assert_close(naive.taken(learner.policy), alone, rtol=1e-4, atol=1e-5)


def test_counterfactual_weights_equal_their_loops_and_sum_to_the_number_of_agents():
    learner, batch = naive.learner_and_batch(
        "cql", "continuous", **SETTINGS, critic="centralised", cql_actions="counterfactual"
    )
    weights = learner.weights(batch, batch.obs)
    torch.testing.assert_close(weights, torch.tensor(weights_by_loops(learner, batch, batch.obs)))
    torch.testing.assert_close(weights.sum(-1), torch.full((len(batch),), 3.0))
    distance = learner.distance(learner.policy(batch.obs), batch.actions)
    assert torch.equal(weights.argmax(-1), distance.argmin(-1)), "who stays nearest the data weighs most"


def test_without_sharpness_counterfactual_is_own():
    ends = []
    for kind in ("own", "counterfactual"):
        settings = {**SETTINGS, "critic": "centralised", "cql_actions": kind, "sharpness": 0.0}
        learner, batch = naive.learner_and_batch("cql", "continuous", **settings)
        ends.append((learner.update(batch), naive.taken(learner.critic)))
    torch.testing.assert_close(ends[0], ends[1])


def test_own_and_joint_are_two_algorithms():
    ends = []
    for kind in ("own", "joint"):
        learner, batch = naive.learner_and_batch(
            "cql", "continuous", **SETTINGS, critic="centralised", cql_actions=kind
        )
        ends.append(learner.update(batch)["loss/gap"])
    assert abs(float(ends[0] - ends[1])) > 1e-2


def test_without_a_weight_the_gap_is_only_watched():
    ends = []
    for name, settings in (("cql", {"cql_alpha": 0.0}), ("td3-bc", {})):
        learner, batch = naive.learner_and_batch(name, "continuous", target_noise=0.0, policy_every=1, **settings)
        ends.append((learner.update(batch), naive.taken(learner.critic), naive.taken(learner.policy)))
    assert ends[0][0].pop("loss/gap").isfinite()
    torch.testing.assert_close(ends[0], ends[1])


def test_draws_lie_in_the_box_and_off_the_padding():
    learner, batch = naive.learner_and_batch("cql", "continuous", cql_samples=50, cql_noise=0.5)
    actions, log_density = learner.draw(batch, batch.obs)
    assert actions.shape == (150, len(batch), 3, 2) and log_density.shape == (150, len(batch), 3)
    assert actions.abs().max() <= 1 and bool(actions[..., ~CONTINUOUS.present("act")].eq(0).all())
    for i, width in enumerate(CONTINUOUS.act_dims):
        torch.testing.assert_close(log_density[:50, :, i], torch.full((50, len(batch)), -width * math.log(2.0)))
    policy = learner.policy(batch.obs)
    middle = actions[50:100].mean(0) - policy
    inside = policy.abs().lt(0.3) & CONTINUOUS.present("act")
    assert middle[inside].abs().max() < 0.3


def test_the_uniform_draws_alone_converge_to_the_integral_of_the_critic():
    """T log int exp(Q / T) of a trained-on critic, agent by agent, by a fine grid over the box."""
    learner, batch = naive.learner_and_batch("cql", "continuous", rows=2, cql_samples=20_000, critic="centralised")
    with torch.no_grad():
        actions, log_density = (made[:20_000] for made in learner.draw(batch, batch.obs))
        q = learner.critic(batch.obs, batch.actions, actions).movedim(1, -1)
        found = conservative.sampled_soft_maximum(q, log_density.movedim(0, -1).expand_as(q), 0.7)
        side = torch.linspace(-1, 1, 401)
        middles = (side[1:] + side[:-1]) / 2
        for i, width in enumerate(CONTINUOUS.act_dims):
            grid = torch.cartesian_prod(*[middles] * width).view(-1, width)
            own = batch.actions.expand(len(grid), -1, -1, -1).clone()
            own[:, :, i, :width] = grid.unsqueeze(1)
            values = learner.critic(batch.obs, batch.actions, own)[..., i]
            cell = width * math.log(float(side[1] - side[0]))
            exact = 0.7 * (torch.logsumexp(values / 0.7, dim=1) + cell)
            torch.testing.assert_close(found[..., i], exact, rtol=0, atol=0.03)


# --- discrete, by loops -----------------------------------------------------------------------------------------------
def tables(critic, spec, features) -> list[list[torch.Tensor]]:
    """Q[copy][agent], `row choice`."""
    return [
        [naive.mlp(critic.net.stack, k * spec.n_agents + i, features[:, i]) for i in range(spec.n_agents)]
        for k in range(2)
    ]


def double_target(before, batch) -> torch.Tensor:
    """r + gamma min_k Q'_k(o', argmax_available Q_1(o'))."""
    spec = before.spec
    with torch.no_grad():
        online, target = (tables(critic, spec, batch.next_obs) for critic in (before.critic, before.target_critic))
    found = torch.empty(len(batch), spec.n_agents)
    for row in range(len(batch)):
        for i, width in enumerate(spec.act_dims):
            can = [c for c in range(width) if batch.next_avail_actions[row, i, c]]
            greedy = max(can, key=lambda c: float(online[0][i][row, c]))
            future = min(float(target[k][i][row, greedy]) for k in range(2))
            going = 0.0 if batch.terminations[row, i] else 1.0
            found[row, i] = float(batch.rewards[row, i]) + before.config.gamma * going * future
    return found


def discrete_gap(before, batch) -> torch.Tensor:
    spec, temperature = before.spec, before.config.cql_temperature
    q = tables(before.critic, spec, batch.obs)
    gaps = []
    for row in range(len(batch)):
        gaps.append([])
        for i, width in enumerate(spec.act_dims):
            can = [c for c in range(width) if batch.avail_actions[row, i, c]]
            levels = [naive.soft_maximum([q[k][i][row, c] for c in can], temperature) for k in range(2)]
            gaps[-1].append(sum(levels[k] - q[k][i][row, batch.actions[row, i]] for k in range(2)))
    return naive.mean(gaps, batch.mask)


@pytest.mark.parametrize("with_mask", [False, True])
def test_the_discrete_gap_and_gradients_equal_their_loops(with_mask):
    learner, batch = naive.learner_and_batch("cql", "discrete", rows=20, **DISCRETE_SETTINGS)
    assert batch.terminations.any() and batch.truncations.any()
    batch = naive.masked(batch) if with_mask else batch
    before, metrics = naive.before_and_after(learner, batch)
    torch.testing.assert_close(before.target(batch), double_target(before, batch))
    expected = {
        "loss/critic": naive.td_loss(before, batch, batch.obs, double_target(before, batch)),
        "loss/gap": discrete_gap(before, batch),
    }
    for name, value in expected.items():
        torch.testing.assert_close(metrics[name], value.detach())
    total = expected["loss/critic"] + 0.8 * expected["loss/gap"]
    gradients = naive.gradients(total, before.critic)
    torch.testing.assert_close(naive.taken(learner.critic), gradients, rtol=1e-4, atol=1e-5)


def test_choices_not_available_do_not_enter_gap_target_or_action():
    """Raising Q of what nobody can do changes nothing."""
    learner, batch = naive.learner_and_batch("cql", "discrete", rows=20, **DISCRETE_SETTINGS)
    barred = torch.tensor(
        [False, False, True, True]
    )  # the third and fourth choice; two agents have one of them or both
    free = ~barred & DISCRETE.present("act")
    batch = replace(
        batch,
        actions=batch.actions.clamp(max=1),
        avail_actions=free.expand_as(batch.avail_actions),
        next_avail_actions=free.expand_as(batch.next_avail_actions),
    )
    seen = {"avail_actions": batch.avail_actions}
    low = (*naive.before_and_after(copy.deepcopy(learner), batch)[1].values(), learner.act(batch.obs, **seen))
    with torch.no_grad():
        for critic in (learner.critic, learner.target_critic):
            critic.net.stack.layers[-1].bias[..., barred] += 100.0
    high = (*naive.before_and_after(copy.deepcopy(learner), batch)[1].values(), learner.act(batch.obs, **seen))
    torch.testing.assert_close(low, high)
    assert bool((learner.act(batch.obs)[:, [0, 2]] >= 2).all()), "without a word about it, the raised ones are best"
    assert bool((learner.act(batch.obs)[:, 1] < 2).all()), "agent 1 has but two choices"


def test_exploring_draws_from_the_softmax_of_q():
    learner, batch = naive.learner_and_batch("cql", "discrete", cql_temperature=0.5)
    row = batch.map(lambda value: value[:1].expand(20_000, *value.shape[1:]))
    with torch.no_grad():
        q = tables(learner.critic, DISCRETE, batch.obs[:1])[0]
    drawn = learner.act(row.obs, avail_actions=row.avail_actions, explore=True)
    for i, width in enumerate(DISCRETE.act_dims):
        odds = torch.tensor(
            [math.exp(float(q[i][0, c]) / 0.5) * bool(row.avail_actions[0, i, c]) for c in range(width)]
        )
        often = torch.tensor([(drawn[:, i] == c).float().mean() for c in range(width)])
        torch.testing.assert_close(often, odds / odds.sum(), rtol=0, atol=0.015)


# --- what is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["cql", "omar"])
@pytest.mark.parametrize("kind", ["joint", "counterfactual"])
def test_an_independent_critic_has_no_joint_action_to_draw(name, kind):
    with pytest.raises(ConfigError) as refusal:
        build(algorithms.get(name).Config, {"cql_actions": kind})
    assert str(refusal.value) == f"cql_actions = {kind} needs critic = centralised."
    assert build(algorithms.get(name).Config, {"cql_actions": kind, "critic": "centralised"}).cql_actions == kind


def test_choices_are_refused_a_centralised_critic():
    made = algorithms.get("cql")
    with pytest.raises(DataError, match=r"^cql on discrete actions .*critic = independent[^.]*\.$"):
        made(build(made.Config, {"critic": "centralised", "hidden": [4]}), SPECS["discrete"])


@pytest.mark.parametrize(
    "bad", [{"cql_alpha": -1.0}, {"cql_temperature": 0.0}, {"cql_samples": 0}, {"cql_noise": 0.0}, {"sharpness": -1.0}]
)
def test_its_fields_keep_their_bounds(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        build(algorithms.get("cql").Config, bad)


# --- learning ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize(("critic", "kind"), [KINDS[0], *KINDS[2:]])
def test_unseen_actions_are_worth_less_than_those_of_the_data(critic, kind):
    """More is better in the data, which ends at 0.2: an unrestrained critic promises more beyond."""
    data = own_rewards(lambda actions: actions, low=-1.0, high=0.2)
    seen, unseen = torch.linspace(-0.9, 0.1, 21), torch.linspace(0.5, 1.0, 21)
    settings = {"steps": 1000, "alpha": 10.0, "cosine_steps": 1000, "critic": critic}
    naive_one = train_on("td3-bc", data, **settings)
    assert bool((judge(naive_one, data, unseen).amax(0) > judge(naive_one, data, seen).amax(0)).all())
    learner = train_on("cql", data, **settings, cql_actions=kind)
    assert bool((judge(learner, data, unseen).amax(0) < judge(learner, data, seen).amax(0)).all())
    reached = [made.act(data.obs[:1])[0, :, 0] for made in (naive_one, learner)]
    assert bool((reached[0] > 0.5).all()) and bool((reached[1] < 0.45).all()) and bool((reached[1] > -0.2).all())


@pytest.mark.slow
def test_one_convention_in_the_data_is_followed():
    data = one_convention()
    assert data.returns().mean() < 0.8, "the data itself should be far from the optimum"
    assert play_once(train_on("cql", data, steps=1500), data) == 1.0
