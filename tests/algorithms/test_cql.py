from __future__ import annotations

import copy
import math
from dataclasses import replace

import hand
import pytest
import torch
from coordination import judge, one_convention, own_rewards, play_once, train_on
from worlds import CONTINUOUS, DISCRETE, SPECS

from offline_marl.algorithms.base import algorithms, cleared
from offline_marl.core.config import ConfigError, build
from offline_marl.core.types import DataError
from offline_marl.losses import conservative

KINDS = [("independent", "own"), ("centralised", "own"), ("centralised", "joint"), ("centralised", "counterfactual")]
SETTINGS = {"cql_alpha": 0.8, "cql_temperature": 0.7, "cql_samples": 4, "cql_noise": 0.3, "sharpness": 0.5}
DISCRETE_SETTINGS = {"cql_alpha": 0.8, "cql_temperature": 0.7}


# --- continuous, by hand ----------------------------------------------------------------------------------------------
def q_1(own: torch.Tensor, others: torch.Tensor, centralised: bool) -> torch.Tensor:
    """Q_1 of `hand.climber`, `*lead agent`, written out."""
    first = own[..., 0, 0] - own[..., 0, 1] + 2
    second = 2 * own[..., 1, 0] - 1.4
    if centralised:
        first, second = first + 0.25 * others[..., 1, 0], second + 0.25 * others[..., 0, :].sum(-1)
    return torch.stack([first, second], dim=-1)


def gaps_by_hand(learner, batch, kind: str, centralised: bool) -> torch.Tensor:
    """sum_k (T log (1/N) sum_draws exp(Q_k / T) / mu - Q_k of the data), `row agent`, of the draws to be made next."""
    twin = copy.deepcopy(learner)
    twin.generator = hand.same_draws(learner)
    twin.target(batch)
    drawn, log_mu = twin.draw(batch, batch.obs)
    temperature, data = 0.7, batch.actions
    if kind == "joint":
        log_mu = log_mu.sum(-1, keepdim=True).expand_as(log_mu)
    judged = q_1(drawn, drawn if kind == "joint" else data.expand_as(drawn), centralised)
    level = temperature * torch.log(((judged / temperature).exp() / log_mu.exp()).mean(0))
    flat = temperature * torch.log((1 / log_mu.exp()).mean(0))  # Q_2 answers the same, whatever is done
    return level - q_1(data, data, centralised) + flat


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize(("critic", "kind"), KINDS)
def test_the_gap_by_hand(critic, kind, with_mask):
    """Counterfactual shares are 2 softmax(-.5 d / .3^2) of the distances .625 and 1, which are .375 apart.

    Where the second agent is absent, the first one's is 1.
    """
    learner = hand.climber("cql", critic=critic, cql_actions=kind, **SETTINGS)
    batch = hand.batch_of(hand.CONTINUOUS, hand.ACTIONS)
    batch = hand.without_the_ended(batch) if with_mask else batch
    gaps = gaps_by_hand(learner, cleared(batch), kind, critic == "centralised")
    if kind == "counterfactual":
        first = 2 / (1 + math.exp(-0.375 * 0.5 / 0.09))
        gaps = gaps * torch.tensor([[1.0 if with_mask else first, 2 - first], [first, 2 - first]])
    expected = (gaps[0, 0] + gaps[1].sum()) / 3 if with_mask else gaps.mean()
    torch.testing.assert_close(learner.update(batch)["loss/gap"], expected, rtol=1e-4, atol=1e-4)


def test_the_gap_joins_the_critics_loss_with_its_weight_and_leaves_the_policy_alone():
    """The gap's own gradient is what a weight more adds, and the policy's is that of TD3+BC."""
    batch, slopes, policies = hand.batch_of(hand.CONTINUOUS, hand.ACTIONS), [], []
    for alpha in (0.0, 1.0, 3.0):
        learner = hand.climber("cql", **{**SETTINGS, "cql_alpha": alpha})
        learner.update(batch)
        slopes.append(torch.cat([slope.flatten() for slope in hand.taken(learner.critic)]))
        policies.append(hand.taken(learner.policy))
    assert (slopes[1] - slopes[0]).abs().max() > 1e-2
    torch.testing.assert_close(slopes[2] - slopes[0], 3 * (slopes[1] - slopes[0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(policies[0], policies[2])
    plain = hand.climber("td3-bc")
    plain.update(batch)
    torch.testing.assert_close(policies[2], hand.taken(plain.policy))


def test_the_gaps_gradient_is_that_of_finite_differences():
    """By the weight of Q_1 on the first agent's first entry, with the draws held."""
    batch, ends = hand.batch_of(hand.CONTINUOUS, hand.ACTIONS), []
    slopes = []
    for step in (0.01, 0.0, -0.01):
        for alpha in (1.0, 0.0) if step == 0 else (1.0,):
            learner = hand.climber("cql", **{**SETTINGS, "cql_alpha": alpha})
            with torch.no_grad():
                learner.critic.net.stack.layers[0].weight[0, -2, 0] += step
            metrics = learner.update(batch)
            if step:
                ends.append(float(metrics["loss/gap"]))
            else:
                slopes.append(float(learner.critic.net.stack.layers[0].weight.grad[0, -2, 0]))
    assert slopes[0] - slopes[1] == pytest.approx((ends[0] - ends[1]) / 0.02, rel=1e-2)


def test_counterfactual_weights_sum_to_the_number_of_agents_and_are_largest_near_the_data():
    learner, batch = hand.learner_and_batch(
        "cql", "continuous", **SETTINGS, critic="centralised", cql_actions="counterfactual"
    )
    weights = learner.weights(batch, batch.obs)
    torch.testing.assert_close(weights.sum(-1), torch.full((len(batch),), 3.0))
    distance = learner.distance(learner.policy(batch.obs), batch.actions)
    assert torch.equal(weights.argmax(-1), distance.argmin(-1)), "who stays nearest the data weighs most"


def test_without_sharpness_counterfactual_is_own():
    ends = []
    for kind in ("own", "counterfactual"):
        settings = {**SETTINGS, "critic": "centralised", "cql_actions": kind, "sharpness": 0.0}
        learner, batch = hand.learner_and_batch("cql", "continuous", **settings)
        ends.append((learner.update(batch), hand.taken(learner.critic)))
    torch.testing.assert_close(ends[0], ends[1])


def test_own_and_joint_are_two_algorithms():
    ends = []
    for kind in ("own", "joint"):
        learner, batch = hand.learner_and_batch("cql", "continuous", **SETTINGS, critic="centralised", cql_actions=kind)
        ends.append(learner.update(batch)["loss/gap"])
    assert abs(float(ends[0] - ends[1])) > 1e-2


def test_without_a_weight_the_gap_is_only_watched():
    ends = []
    for name, settings in (("cql", {"cql_alpha": 0.0}), ("td3-bc", {})):
        learner, batch = hand.learner_and_batch(name, "continuous", target_noise=0.0, policy_every=1, **settings)
        ends.append((learner.update(batch), hand.taken(learner.critic), hand.taken(learner.policy)))
    assert ends[0][0].pop("loss/gap").isfinite()
    torch.testing.assert_close(ends[0], ends[1])


def test_draws_lie_in_the_box_and_off_the_padding():
    learner, batch = hand.learner_and_batch("cql", "continuous", cql_samples=50, cql_noise=0.5)
    actions, log_density = learner.draw(batch, batch.obs)
    assert actions.shape == (150, len(batch), 3, 2) and log_density.shape == (150, len(batch), 3)
    assert actions.abs().max() <= 1 and bool(actions[..., ~CONTINUOUS.present("act")].eq(0).all())
    for i, width in enumerate(CONTINUOUS.act_dims):
        torch.testing.assert_close(log_density[:50, :, i], torch.full((50, len(batch)), -width * math.log(2.0)))
    policy = learner.policy(batch.obs)
    middle = actions[50:100].mean(0) - policy
    inside = policy.abs().lt(0.3) & CONTINUOUS.present("act")
    assert middle[inside].abs().max() < 0.3


@pytest.mark.long
def test_the_uniform_draws_alone_converge_to_the_integral_of_the_critic():
    """T log int exp(Q / T) of a trained-on critic, agent by agent, by a fine grid over the box."""
    learner, batch = hand.learner_and_batch("cql", "continuous", rows=2, cql_samples=20_000, critic="centralised")
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


# --- CQL's own actor and multiplier -----------------------------------------------------------------------------------
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_cloning_term_has_a_weight_by_hand(weight):
    """Q_1 of the policies is 3 and -1, of mean sizes 3 and 1, so lambda Q is 2.5 and -2.5; distances are .625 and 1."""
    learner = hand.climber("cql", **SETTINGS, bc_weight=weight)
    found = learner.update(hand.batch_of(hand.CONTINUOUS, hand.ACTIONS))["loss/actor"]
    assert float(found) == pytest.approx(weight * (0.625 + 1) / 2 - (2.5 - 2.5) / 2, abs=1e-4)


def soft(**settings):
    return hand.learner_and_batch(
        "cql", "continuous", **{"policy": "sac", "policy_every": 1, "bc_weight": 0.0} | settings
    )


def test_the_soft_policys_loss_and_gradient_by_automatic_differentiation():
    """Mean of t log pi(a') - min_k Q_k(a'), a' drawn from pi; the temperature's of -t (log pi - action entries)."""
    learner, batch = soft(critic="centralised")
    kept, metrics = hand.before_and_after(learner, batch)
    twin = torch.Generator()
    twin.set_state(state_before_the_policys_draw(kept, batch))
    choice = kept.policy(batch.obs)
    actions = choice.sample(twin)
    q = hand.frozen(kept.critic)(batch.obs, batch.actions, actions).amin(0)
    log_probs, temperature = choice.log_prob(actions), kept.temperature().detach()
    loss = (temperature * log_probs - q).mean()
    assert float(metrics["loss/actor"]) == pytest.approx(float(loss.detach()), rel=1e-4)
    loss.backward()
    torch.testing.assert_close(hand.taken(kept.policy), hand.taken(learner.policy), rtol=1e-3, atol=1e-6)
    entries = torch.tensor(CONTINUOUS.act_dims)
    lacking = (log_probs.detach() - entries).mean(0)
    torch.testing.assert_close(
        learner.temperature.log.grad, -kept.temperature().detach() * lacking, rtol=1e-4, atol=1e-6
    )


def state_before_the_policys_draw(kept, batch):
    """The generator's state after the draws of the target and of the gap."""
    twin = copy.deepcopy(kept)
    twin.generator = torch.Generator()
    twin.generator.set_state(kept.generator.get_state())
    twin.target(batch)
    twin.draw(batch, batch.obs)
    return twin.generator.get_state()


def test_a_soft_policy_draws_where_it_says_with_its_density():
    learner, batch = soft(cql_samples=40)
    actions, log_density = learner.draw(batch, batch.obs)
    assert actions.shape == (120, len(batch), 3, 2) and actions.abs().max() <= 1
    torch.testing.assert_close(log_density[40:80], learner.policy(batch.obs).log_prob(actions[40:80]))
    torch.testing.assert_close(log_density[80:], learner.policy(batch.next_obs).log_prob(actions[80:]))


def test_densities_of_draws_hold_where_tanh_has_no_digits_left():
    """Means of 9, deviation e^-2: the mean log density is the normal's plus 2 raw - 2 log 2, whose slope is 2."""
    learner, batch = soft(cql_samples=4)
    hand.answer(learner.policy, [[9.0] * 2 + [-2.0] * 2] * len(CONTINUOUS.act_dims))
    _, log_density = learner.draw(batch, batch.obs)
    entries = torch.tensor(CONTINUOUS.act_dims)
    normal = -0.5 * math.log(2 * math.pi) + 2 - 0.5
    exact = entries * (normal + 2 * 9 - 2 * math.log(2))
    torch.testing.assert_close(log_density[4:].mean((0, 1)), exact, rtol=0.05, atol=0)
    learner.update(batch)
    slopes = hand.stack_of(learner.policy).layers[-1].bias.grad[:, 0, 0]
    expected = 2 * learner.temperature().detach() / len(CONTINUOUS.act_dims)
    torch.testing.assert_close(slopes, expected, rtol=0.1, atol=0, msg="entropy pulls means in")


def test_the_multiplier_rises_above_the_target_gap_and_falls_below_it():
    """alpha descends alpha (2 target - gap), whose slope by its log is the same number."""
    learner, batch = hand.learner_and_batch("cql", "continuous", cql_alpha=2.0, target_gap=0.5)
    before = learner.multiplier().item()
    metrics = learner.update(batch)
    slope = before * (2 * 0.5 - float(metrics["loss/gap"]))
    assert float(learner.multiplier.log.grad) == pytest.approx(slope, rel=1e-4)
    assert (learner.multiplier().item() > before) == (float(metrics["loss/gap"]) > 1.0)
    for target in (1e-3, 1e3):
        learner, batch = hand.learner_and_batch("cql", "continuous", target_gap=target)
        for _ in range(20):
            learner.update(batch)
        assert (learner.multiplier().item() > 1.0) == (target < 1.0)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_what_is_learnt_besides_is_saved_with_the_learner(kind):
    settings = {"target_gap": 0.5, **({"policy": "sac"} if kind == "continuous" else {})}
    one, batch = hand.learner_and_batch("cql", kind, **settings)
    other, _ = hand.learner_and_batch("cql", kind, **settings)
    other.update(batch)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    ends = [[made.update(batch) for _ in range(3)] for made in (one, other)]
    torch.testing.assert_close(*ends, rtol=0, atol=0)
    torch.testing.assert_close(one.multiplier.log, other.multiplier.log, rtol=0, atol=0)
    seen = {"avail_actions": batch.avail_actions}
    torch.testing.assert_close(one.act(batch.obs, explore=True, **seen), other.act(batch.obs, explore=True, **seen))


def test_a_soft_policy_goes_with_continuous_actions_and_with_cql_alone():
    made = algorithms.get("cql")
    learner = made(build(made.Config, {"policy": "sac", "hidden": [4], "cosine_steps": 9}), SPECS["continuous"])
    assert learner.config.policy_every == 2 and learner._schedules["temperature"].cosine_steps == 5
    with pytest.raises(DataError, match="policy = sac is for continuous ones"):
        made(build(made.Config, {"policy": "sac", "hidden": [4]}), SPECS["discrete"])
    with pytest.raises(ConfigError, match="policy = sac is cql's"):
        build(algorithms.get("omar").Config, {"policy": "sac"})
    with pytest.raises(ConfigError, match="must be above 0"):
        build(made.Config, {"target_gap": 5.0, "cql_alpha": 0.0})


# --- discrete, by hand ------------------------------------------------------------------------------------------------
def chooser(**settings):
    """Q of both copies (0, 2, 5), (1, 0) and (1, 1, 1), (0, 0); target Q (7, 3, 9), (4, 8) and (9, 2, 0), (6, 0)."""
    learner = hand.learner_of("cql", hand.DISCRETE, **settings)
    hand.answer(learner.critic, [[0.0, 2.0, 5.0], [1.0, 0.0, 99.0], [1.0, 1.0, 1.0], [0.0, 0.0, 99.0]])
    hand.answer(learner.target_critic, [[7.0, 3.0, 9.0], [4.0, 8.0, 99.0], [9.0, 2.0, 0.0], [6.0, 0.0, 99.0]])
    return learner


def choices():
    """Choices 0 and 1 of each agent, the first agent's third being there for nobody."""
    avail = torch.tensor([[[True, True, False], [True, True, False]]] * 2)
    batch = hand.batch_of(hand.DISCRETE, torch.tensor([[0, 1]] * 2), avail_actions=avail, next_avail_actions=avail)
    return replace(batch, truncations=torch.tensor([[False, False], [True, True]]))


def test_the_discrete_target_by_hand():
    """Greedy by Q_1 among what is there: choices 1 and 0; the least target Q of them is 2 and 4."""
    assert chooser().target(choices()).tolist() == [[1 + 1, 2.0], [0 + 1, -1 + 2]]


@pytest.mark.parametrize("with_mask", [False, True])
def test_the_discrete_losses_by_hand(with_mask):
    """At T = .5: half of log(1 + e^4) - 0 and of log 2e^2 - 1; half of log(e^2 + 1) - 0 and of log 2 - 0.

    Squared errors of Q (0, 1) and (0, 0) with the targets above.
    """
    batch = hand.without_the_ended(choices()) if with_mask else choices()
    learner = chooser(cql_temperature=0.5, cql_alpha=0.8)
    metrics = learner.update(batch)
    first = 0.5 * math.log(1 + math.exp(4)) + 0.5 * math.log(2) + 1 - 1
    second = 0.5 * math.log(math.exp(2) + 1) + 0.5 * math.log(2)
    gaps = [first, second, first, second]
    errors = [4 + 1, 4 + 4, 1 + 0, 1 + 1]
    counted = [0, 2, 3] if with_mask else [0, 1, 2, 3]
    assert float(metrics["loss/gap"]) == pytest.approx(sum(gaps[i] for i in counted) / len(counted), rel=1e-5)
    assert float(metrics["loss/critic"]) == pytest.approx(sum(errors[i] for i in counted) / len(counted), rel=1e-5)


IMAGINED = torch.tensor([False, True])


@pytest.mark.parametrize("rows", ["recorded", "combo"])
def test_the_gap_of_a_mixture_by_hand(rows):
    """At T = .5, soft maxima of (0, 2), (1, 0) and (1, 1), (0, 0), in both rows; Q of the data is 0, 0 and 1, 0.

    The second row is imagined, where choices (1, 0) were drawn: its Q (2, 1) and (1, 0) is lifted by nobody. COMBO
    takes the soft maximum of that row, which only lets both agents choose 1, and Q of the first.
    """
    batch = replace(choices(), actions=torch.tensor([[0, 1], [1, 0]]), synthetic=IMAGINED)
    only = torch.tensor([[False, True, False]] * 2)
    batch = replace(batch, avail_actions=torch.stack([batch.avail_actions[0], only]))
    metrics = chooser(cql_temperature=0.5, conservative_rows=rows).update(batch)
    here = (
        0.5 * math.log(1 + math.exp(4)) + 0.5 * math.log(2) + 1,
        0.5 * math.log(math.exp(2) + 1) + 0.5 * math.log(2),
    )
    there = (2.0 + 1.0, 0.0 + 0.0)
    level = here if rows == "recorded" else there
    assert float(metrics["loss/gap"]) == pytest.approx(sum(level) / 2 - (0 + 1 + 0 + 0) / 2, rel=1e-5)


def test_combo_holds_q_down_on_recorded_rows_where_nothing_is_imagined():
    batch = replace(choices(), synthetic=torch.zeros(2, dtype=torch.bool))
    found = [chooser(conservative_rows=rows).update(batch)["loss/gap"] for rows in ("recorded", "combo")]
    torch.testing.assert_close(*found)


def test_combo_goes_without_counterfactual_weights():
    with pytest.raises(ConfigError, match="imagined rows have none"):
        settings = {"critic": "centralised", "cql_actions": "counterfactual", "conservative_rows": "combo"}
        build(algorithms.get("cql").Config, settings)


def test_the_discrete_gradient_by_hand():
    """By Q_1 of the first agent: 2 (0 - target) of what was done, and .8 (softmax(Q / T) - what was done), halved."""
    learner = chooser(cql_temperature=0.5, cql_alpha=0.8)
    learner.update(choices())
    found = learner.critic.net.stack.layers[-1].bias.grad[0, 0]
    odds = 1 / (1 + math.exp(4))
    expected = [(2 * (0 - 2) + 2 * (0 - 1)) / 4 + 0.8 * (odds - 1) / 2, 0.8 * (1 - odds) / 2, 0.0]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_choices_not_available_do_not_enter_gap_target_or_action():
    """Raising Q of what nobody can do changes nothing."""
    learner, batch = hand.learner_and_batch("cql", "discrete", rows=20, **DISCRETE_SETTINGS)
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
    low = (*hand.before_and_after(copy.deepcopy(learner), batch)[1].values(), learner.act(batch.obs, **seen))
    with torch.no_grad():
        for critic in (learner.critic, learner.target_critic):
            critic.net.stack.layers[-1].bias[..., barred] += 100.0
    high = (*hand.before_and_after(copy.deepcopy(learner), batch)[1].values(), learner.act(batch.obs, **seen))
    torch.testing.assert_close(low, high)
    assert bool((learner.act(batch.obs)[:, [0, 2]] >= 2).all()), "without a word about it, the raised ones are best"
    assert bool((learner.act(batch.obs)[:, 1] < 2).all()), "agent 1 has but two choices"


def test_exploring_draws_from_the_softmax_of_q():
    learner, batch = hand.learner_and_batch("cql", "discrete", cql_temperature=0.5)
    row = batch.map(lambda value: value[:1].expand(20_000, *value.shape[1:]))
    with torch.no_grad():
        q = learner.critic.each_choice(batch.obs[:1])[0, 0]
    drawn = learner.act(row.obs, avail_actions=row.avail_actions, explore=True)
    for i, width in enumerate(DISCRETE.act_dims):
        odds = torch.tensor([math.exp(float(q[i, c]) / 0.5) * bool(row.avail_actions[0, i, c]) for c in range(width)])
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
