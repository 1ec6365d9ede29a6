"""VDN: losses on paper, states that episodes carry, what keeps offline values down, and exact games."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import hand
import pytest
import torch
from games import DATA, SPEC, one_step_game, seen_in, small, solved, team_values, two_step_game
from worlds import SPECS, random_batch_index

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.algorithms.vdn import begins
from offline_marl.core.config import ConfigError, build
from offline_marl.core.types import Batch, DataError, Needs
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.runs.config import RunConfig
from offline_marl.runs.loading import make_algorithm
from offline_marl.worldmodels.rollout import blanked

NAMES = ["vdn", "qmix"]


def viewed(needs: Needs, rows: int = 6, seed: int = 0) -> Batch:
    return TransitionBuffer(DATA, needs.window).view(random_batch_index(DATA, rows, seed), needs).check()


def loss(learner: Algorithm, batch: Batch, name: str = "loss/critic") -> float:
    return float(learner.update(batch)[name])


# --- on paper ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def answer(network, outputs: list[list[float]]) -> None:
    """Let a network of choices answer the same whatever it reads."""
    for parameter in network.parameters():
        parameter.zero_()
    network.head.bias.copy_(torch.tensor(outputs).unsqueeze(1))


def by_hand(**settings) -> Algorithm:
    """Q (1, 4, 9) and (2, 3, -), of the target (6, 2, 5) and (1, 8, -); one set of weights for each agent."""
    learner = hand.learner_of("vdn", hand.DISCRETE, share_parameters=False, **settings)
    answer(learner.critic, [[1.0, 4.0, 9.0], [2.0, 3.0, 99.0]])
    answer(learner.target_critic, [[6.0, 2.0, 5.0], [1.0, 8.0, 99.0]])
    return learner


def episode_by_hand() -> Batch:
    """Two steps and a padded one; the last one terminates. Rewards 1 and 3 earn the team 2, then 4."""
    obs, never = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, dtype=torch.bool)
    over, mask = never.clone(), ~never
    over[:, 1:], mask[:, 2] = True, False
    return Batch(
        obs,
        torch.tensor([[[0, 0], [1, 1], [0, 0]]]),
        torch.tensor([[[1.0, 3.0], [4.0, 4.0], [50.0, 50.0]]]),
        obs,
        over,
        never,
        mask=mask,
    )


@pytest.mark.parametrize("td_lambda", [0.0, 0.5])
def test_the_loss_on_team_values_by_hand(td_lambda):
    metrics = by_hand(td_lambda=td_lambda).update(episode_by_hand())
    # Best by Q are 2 and 1, worth 5 + 8 = 13. Q_tot 1 + 2 = 3, then 4 + 3 = 7; the last target is its reward, 4.
    first = 2 + 0.5 * ((1 - td_lambda) * 13 + td_lambda * 4)
    torch.testing.assert_close(float(metrics["loss/critic"]), ((first - 3) ** 2 + (4 - 7) ** 2) / 2 / 2)
    assert float(metrics["q/mean"]) == 5.0


@pytest.mark.parametrize(("bootstrap", "last"), [(True, 4 + 0.5 * 13), (False, 4.0)])
def test_the_end_of_a_time_limit_promises_what_follows_or_nothing(bootstrap, last):
    batch = episode_by_hand()
    cut = replace(batch, terminations=batch.truncations, truncations=batch.terminations)
    # As above, but the second step was cut: its target is 4, and with it the 13 that the target network promises.
    learner = by_hand(td_lambda=0.5, bootstrap_truncated=bootstrap)
    first = 2 + 0.5 * (0.5 * 13 + 0.5 * last)
    torch.testing.assert_close(loss(learner, cut), ((first - 3) ** 2 + (last - 7) ** 2) / 4)


def test_only_allowed_choices_compete_in_the_target():
    avail = torch.ones(1, 3, 2, 3, dtype=torch.bool)
    avail[:, :, 0, 2] = False
    batch = replace(episode_by_hand(), avail_actions=avail, next_avail_actions=avail)
    # Without the last choice the first agent's best is 1, worth 2: 2 + .5 (2 + 8) = 7.
    torch.testing.assert_close(loss(by_hand(), batch), ((7 - 3) ** 2 + 9) / 4)


def test_agents_that_are_away_count_neither_in_values_nor_in_the_number_of_steps():
    batch = episode_by_hand()
    mask = batch.mask.clone()
    mask[0, 1, 1] = False
    batch = replace(batch, mask=mask, terminations=batch.terminations & mask)
    # The second step: reward 4 of one agent of two is 2 for the team, Q of the one that is there 4.
    torch.testing.assert_close(loss(by_hand(), batch), ((2 + 0.5 * 13 - 3) ** 2 + (2 - 4) ** 2) / 4)


def test_who_has_terminated_promises_the_others_nothing():
    batch = episode_by_hand()
    over = batch.terminations.clone()
    over[0, 0, 1] = True
    mask = batch.mask.clone()
    mask[0, 1, 1] = False
    # Only the first agent's best, 5, is ahead of the first step; see above for the second.
    batch = replace(batch, terminations=over & mask, mask=mask)
    torch.testing.assert_close(loss(by_hand(), batch), ((2 + 0.5 * 5 - 3) ** 2 + (2 - 4) ** 2) / 4)


def test_the_target_never_exceeds_the_best_return_where_it_is_capped():
    learner = by_hand()
    learner.cap_targets(torch.tensor([9.0, 9.0]), torch.tensor(5.0))
    torch.testing.assert_close(loss(learner, episode_by_hand()), ((5 - 3) ** 2 + 9) / 4)


# --- states that episodes carry ---------------------------------------------------------------------------------------


def two_episodes() -> tuple[Batch, Batch, Batch]:
    """A terminated episode, a truncated one, and both in one row."""
    data = TransitionBuffer(DATA, 0)
    first, second = (data.view(data.first[i : i + 1], Needs(view="segments", length=0)) for i in (0, 1))
    assert bool(first.terminations[0, -1].all()) and bool(second.truncations[0, -1].all())
    names = [name for name in Batch.__dataclass_fields__ if getattr(first, name) is not None]

    def together(one: Batch, other: Batch) -> Batch:
        return replace(one, **{n: torch.cat([getattr(one, n), getattr(other, n)], dim=1) for n in names})

    return first, second, together(second, together(first, second))


@pytest.mark.parametrize("name", NAMES)
def test_q_of_an_episode_is_q_of_it_inside_a_longer_segment_in_training(name):
    learner = small(name)
    first, second, long = two_episodes()
    begin = second.rewards.shape[1]
    end = begin + first.rewards.shape[1]
    inside, _ = learner.critic(learner.inputs(long.obs), begins(long))
    alone, _ = learner.critic(learner.inputs(first.obs), begins(first))
    torch.testing.assert_close(inside[:, begin:end], alone)
    torch.testing.assert_close(inside[:, end:], learner.critic(learner.inputs(second.obs))[0])
    unbroken, _ = learner.critic(learner.inputs(long.obs))
    assert not torch.allclose(unbroken[:, begin:end], alone), "what came before should matter where nothing ends"


@pytest.mark.parametrize("name", NAMES)
def test_q_of_an_episode_in_training_is_q_of_it_in_acting(name):
    learner = small(name, conservative="bcq")
    first, second, long = two_episodes()
    trained, _ = learner.critic(learner.inputs(long.obs), begins(long))
    acted = []
    for episode in (second, first, second):
        memory = learner.begin(1)
        for time in range(episode.rewards.shape[1]):
            obs, read = episode.obs[:, time], memory.read()
            acted.append(learner.values(obs, read["history"], read["carry"].states)[0])
            actions = learner.act(obs, avail_actions=episode.avail_actions[:, time], **read)
            memory.remember(obs, actions, episode.rewards[:, time])
    torch.testing.assert_close(torch.stack(acted, dim=1), trained)


@pytest.mark.parametrize(
    "settings", [{}, {"window": 2}, {"frame_stack": 2}, {"window": 2, "recurrent": False}], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_q_of_who_comes_late_is_what_it_is_in_acting(name, settings):
    """Away, an agent sees and does nothing; its state goes on from there, and its window holds those steps."""
    whole = DATA.episode(1)
    mask = torch.ones_like(whole.terminations)
    mask[:2, 0] = False
    rows = torch.cat([mask, mask[-1:]])
    gone = {name: blanked(getattr(whole, name), mask) for name in ("actions", "rewards", "terminations", "truncations")}
    late = replace(whole, mask=mask, obs=blanked(whole.obs, rows), avail_actions=None, **gone)
    data = Dataset.from_episodes([late], SPEC)
    learner = small(name, **settings)
    batch = TransitionBuffer(data, learner.window).view(torch.tensor([0]), learner.needs)
    read = learner.readable(batch)
    trained, _ = learner.critic(learner.inputs(read.obs, read.history), begins(read))
    memory, acted = learner.begin(1), []
    for time in range(len(mask)):
        told, obs = memory.read(), late.obs[time : time + 1]
        states = told["carry"].states if learner.recurrent else None
        acted.append(learner.values(obs, told["history"], states)[0])
        memory.remember(obs, late.actions[time : time + 1], late.rewards[time : time + 1])
    assert len(mask) > 3, "it is there for a while"
    torch.testing.assert_close(trained[0][mask], torch.cat(acted)[mask])


@pytest.mark.parametrize("td_lambda", [0.0, 0.7])
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_two_episodes_in_one_row_is_that_of_them_in_two(name, td_lambda):
    first, second, _ = two_episodes()
    lengths = [first.rewards.shape[1], second.rewards.shape[1]]
    names = [n for n in Batch.__dataclass_fields__ if getattr(first, n) is not None]
    row = replace(first, **{n: torch.cat([getattr(second, n), getattr(first, n)], dim=1) for n in names})
    apart = [loss(small(name, td_lambda=td_lambda), each) for each in (first, second)]
    mean = (apart[0] * lengths[0] + apart[1] * lengths[1]) / sum(lengths)
    torch.testing.assert_close(loss(small(name, td_lambda=td_lambda), row), mean)


def test_burnt_in_steps_warm_up_and_do_not_count():
    settings = {"segment_length": 2, "burn_in": 3}
    learner = small(**settings)
    index = TransitionBuffer(DATA).first[4:5] + 3
    batch = TransitionBuffer(DATA).view(index, learner.needs)
    assert batch.mask.all(-1).tolist() == [[False, False, False, True, True]]
    plain = loss(small(**settings), batch)
    rewarded = replace(batch, rewards=batch.rewards + 5 * ~batch.mask)
    assert loss(small(**settings), rewarded) == plain
    elsewhere = replace(batch, obs=batch.obs + (~batch.mask).unsqueeze(-1) * SPEC.present("obs"))
    assert loss(small(**settings), elsewhere) != plain, "the state should come from the steps before"
    whole = TransitionBuffer(DATA).view(index, Needs(view="segments", length=0, joint=True))
    only = whole.mask.clone()
    only[:, :3], only[:, 5:] = False, False
    q, _ = learner.critic(learner.inputs(whole.obs))
    warm, _ = learner.critic(learner.inputs(learner.readable(batch).obs))
    torch.testing.assert_close(warm[:, 3:], q[:, 3:5])


def test_without_a_recurrent_unit_the_past_means_nothing():
    learner = small(recurrent=False)
    assert "carry" not in learner.begin(2).read()
    batch = viewed(learner.needs)
    q, _ = learner.critic(learner.inputs(batch.obs))
    torch.testing.assert_close(q[:, 2], learner.values(batch.obs[:, 2], None, None)[0])
    assert math.isfinite(loss(learner, batch))


@torch.no_grad()
def plain_loss(learner: Algorithm, batch: Batch) -> float:
    """The critic's loss, episode by episode and step by step; each network carries a state of its own."""
    errors = []
    for row in range(len(batch)):
        length = int(batch.mask[row].all(-1).sum())
        states = [net.begin(1, batch.obs)[0] for net in (learner.critic, learner.target_critic)]
        q_tot, values = [], []
        for t in range(length):
            seen, after = batch.obs[row, t], batch.next_obs[row, t]
            q, states[0] = learner.critic.step(learner.inputs(seen), states[0])
            _, states[1] = learner.target_critic.step(learner.inputs(seen), states[1])
            ahead, _ = learner.critic.step(learner.inputs(after), states[0])
            worth, _ = learner.target_critic.step(learner.inputs(after), states[1])
            allowed = batch.next_avail_actions[row, t]
            best = [max(allowed[i].nonzero().flatten().tolist(), key=lambda a, i=i: ahead[i, a]) for i in range(3)]
            taken = torch.stack([q[i, batch.actions[row, t, i]] for i in range(3)])
            q_tot.append(learner.mixer(taken[None, None], learner.joint(seen)[None]).item())
            promised = torch.stack([worth[i, best[i]] for i in range(3)])
            values.append(learner.target_mixer(promised[None, None], learner.joint(after)[None]).item())
        later = values[-1]
        for t in reversed(range(length)):
            future = (1 - learner.config.td_lambda) * values[t] + learner.config.td_lambda * later
            going = 0.0 if bool(batch.terminations[row, t].all()) else learner.config.gamma
            later = float(batch.rewards[row, t].mean()) + going * future
            errors.append((q_tot[t] - later) ** 2 / 2)
    return sum(errors) / len(errors)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_that_of_a_plain_loop_over_episodes(name):
    learner = small(name, td_lambda=0.6, tau=0.3, lr=3e-2)
    for seed in range(3):
        learner.update(viewed(learner.needs, seed=seed + 10))
    batch = viewed(learner.needs)
    expected = plain_loss(learner, batch)
    torch.testing.assert_close(loss(learner, batch), expected, rtol=1e-4, atol=1e-5)


# --- exploring, targets -----------------------------------------------------------------------------------------------


def test_epsilon_falls_with_environment_steps_and_is_at_its_end_where_nothing_is_played():
    learner = small(epsilon_start=0.8, epsilon_end=0.2, epsilon_steps=100)
    found = []
    assert learner.epsilon == 0.2
    learner.plays = True
    for learner.environment_steps in (0, 50, 100, 1000):
        found.append(round(learner.epsilon, 6))
    assert found == [0.8, 0.5, 0.2, 0.2]


def test_exploring_is_uniform_over_what_is_allowed_and_greedy_without_epsilon():
    learner = small(epsilon_start=1.0)
    learner.plays = True
    obs = torch.randn(4000, 3, 4) * SPEC.present("obs")
    avail = torch.tensor([[True, False, True, False], [True, True, False, False], [False, True, True, True]])
    drawn = learner.act(obs, avail_actions=avail.expand(4000, -1, -1), explore=True)
    shares = torch.nn.functional.one_hot(drawn, 4).float().mean(0)
    torch.testing.assert_close(shares, avail / avail.sum(-1, keepdim=True), atol=0.04, rtol=0)
    still = small(epsilon_start=0.0)
    still.plays = True
    assert torch.equal(still.act(obs, explore=True), still.act(obs))


def test_hard_targets_stand_still_between_copies():
    learner = small(target_every=3, lr=1e-2)
    before = [p.clone() for p in learner.target_critic.parameters()]
    for number in range(1, 7):
        learner.update(viewed(learner.needs, seed=number))
        targets, networks = (list(module.parameters()) for module in (learner.target_critic, learner.critic))
        if number % 3:
            assert all(map(torch.equal, targets, before))
        else:
            assert all(map(torch.equal, targets, networks))
            before = [p.clone() for p in targets]


# --- from data --------------------------------------------------------------------------------------------------------


def test_the_gap_of_one_legal_choice_is_the_log_of_how_often_it_is_counted():
    """Illegal choices are never drawn, however much they would be worth."""
    learner = by_hand(conservative="cql", cql_samples=7, cql_alpha=2.0)
    answer(learner.critic, [[1.0, 4.0, 1e6], [2.0, 3.0, 99.0]])
    batch = episode_by_hand()
    only = torch.nn.functional.one_hot(batch.actions, 3).bool()
    batch = replace(batch, avail_actions=only, next_avail_actions=only.roll(-1, 1))
    for _ in range(20):
        torch.testing.assert_close(loss(learner, batch, "loss/gap"), math.log(8))


def test_the_gap_by_hand_where_drawn_choices_are_worth_the_same():
    learner = by_hand(conservative="cql", cql_samples=3)
    answer(learner.critic, [[1.0, 4.0, 4.0], [2.0, 2.0, 99.0]])
    avail = torch.ones(1, 3, 2, 3, dtype=torch.bool)
    avail[:, :, 0, 0] = False
    batch = replace(episode_by_hand(), avail_actions=avail)
    # Draws are worth 4 + 2, recorded ones 1 + 2 and 4 + 2: log(3 e^6 + e^3) - 3, and log 4.
    expected = (math.log(3 * math.exp(6) + math.exp(3)) - 3 + math.log(4)) / 2
    torch.testing.assert_close(loss(learner, batch, "loss/gap"), expected)


def test_the_gap_lowers_what_the_data_lacks():
    learner = small(conservative="cql", lr=1e-2)
    data = replace(DATA, actions=torch.zeros_like(DATA.actions), avail_actions=None)
    buffer = TransitionBuffer(data)
    batch = buffer.view(buffer.first, learner.needs)
    gaps = [loss(learner, batch, "loss/gap") for _ in range(60)]
    q, _ = learner.critic(learner.inputs(batch.obs))
    assert gaps[-1] < 0.5 * gaps[0]
    assert bool((learner.act(batch.obs.flatten(0, 1)) == 0).float().mean() > 0.9)


def test_unlikely_and_illegal_choices_compete_neither_in_targets_nor_in_acting():
    learner = by_hand(conservative="bcq", bcq_threshold=0.4)
    # mu (.5, .3, .2) and (.25, .75, -): the last choice of the first and the first of the second fall short of .4.
    answer(learner.behaviour, [[math.log(0.5), math.log(0.3), math.log(0.19)], [math.log(0.25), math.log(0.75), 99.0]])
    obs = torch.zeros(1, 2, 2)
    assert learner.act(obs).tolist() == [[1, 1]]
    # Among the last two of the first agent .19 is .63 of .3.
    avail = torch.tensor([[[False, True, True], [True, False, False]]])
    assert learner.act(obs, avail_actions=avail).tolist() == [[2, 0]]
    metrics = learner.update(episode_by_hand())
    torch.testing.assert_close(float(metrics["loss/critic"]), ((2 + 0.5 * (2 + 8) - 3) ** 2 + 9) / 4)
    nll = -(math.log(0.5 / 0.99) + math.log(0.25) + math.log(0.3 / 0.99) + math.log(0.75)) / 4
    torch.testing.assert_close(float(metrics["loss/behaviour"]), nll)


@pytest.mark.parametrize(("threshold", "chosen"), [(0.0, [[2, 1]]), (1.0, [[0, 1]])])
def test_a_threshold_of_0_allows_all_and_of_1_clones(threshold, chosen):
    learner = by_hand(conservative="bcq", bcq_threshold=threshold)
    answer(learner.behaviour, [[3.0, 2.0, 1.0], [0.0, 1.0, 99.0]])
    assert learner.act(torch.zeros(1, 2, 2)).tolist() == chosen


@pytest.mark.parametrize("conservative", ["cql", "bcq"])
@pytest.mark.parametrize("name", NAMES)
def test_imagined_rows_are_no_demonstrations(name, conservative):
    learner = small(name, conservative=conservative)
    assert learner.needs.recorded == "some"
    batch = viewed(learner.needs)
    imagined = (torch.arange(len(batch)) % 2 == 0).unsqueeze(-1).expand(batch.rewards.shape[:2])
    batch = replace(batch, synthetic=imagined, avail_actions=SPEC.present("act").expand(*batch.rewards.shape, -1))
    changed = torch.where(imagined.unsqueeze(-1), torch.zeros_like(batch.actions), batch.actions)
    metric = {"cql": "loss/gap", "bcq": "loss/behaviour"}[conservative]
    ends = [small(name, conservative=conservative).update(replace(batch, actions=a)) for a in (batch.actions, changed)]
    torch.testing.assert_close(ends[0][metric], ends[1][metric])
    assert ends[0]["loss/critic"] != ends[1]["loss/critic"], "imagined rows should count elsewhere"


@pytest.mark.parametrize("settings", [{"conservative": "cql"}, {"conservative": "bcq"}, {"recurrent": False}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_resuming_is_bit_equal_and_every_weight_moves(name, settings):
    straight = small(name, target_every=2, **settings)
    before = {key: p.clone() for key, p in straight.named_parameters() if "target_" not in key}
    for seed in range(2):
        straight.update(viewed(straight.needs, seed=seed))
    other = small(name, seed=1, target_every=2, **settings)
    other.load_state_dict(copy.deepcopy(straight.state_dict()))
    for seed in range(2, 4):
        for learner in (straight, other):
            learner.update(viewed(learner.needs, seed=seed))
    for key, parameter in straight.named_parameters():
        assert torch.equal(parameter, other.get_parameter(key)), key
        assert key not in before or not torch.equal(parameter, before[key]), key


@pytest.mark.parametrize("conservative", ["cql", "bcq"])
def test_who_is_away_reaches_no_conservative_loss(conservative):
    batch = viewed(small().needs)
    mask = batch.mask.clone()
    mask[:, 1:3, 0], mask[::2, :, 1] = False, False
    batch = replace(batch, mask=mask, terminations=batch.terminations & mask)
    away = ~mask.unsqueeze(-1)
    noisy = replace(
        batch,
        obs=torch.where(away, 3.0, batch.obs),
        actions=torch.where(mask, batch.actions, 1),
        avail_actions=batch.avail_actions & ~away,
    )
    ends = [small(conservative=conservative).update(each) for each in (batch, noisy)]
    assert ends[0] == ends[1]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_boxes_are_refused(name):
    config = RunConfig(algorithm=name, dataset="mine", steps=1)
    with pytest.raises(DataError, match=f"{name} needs discrete actions"):
        make_algorithm(config, SPECS["continuous"])


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"epsilon_start": 1.5}, "epsilon_start"),
        ({"td_lambda": -0.1}, "td_lambda"),
        ({"burn_in": 2}, "segment_length"),
        ({"conservative": "omar"}, "conservative"),
        ({"bcq_threshold": 2.0}, "bcq_threshold"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_by_name(bad, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(algorithms.get("vdn").Config, bad)


# --- exact games ------------------------------------------------------------------------------------------------------


def test_vdn_solves_an_additive_payoff():
    payoff = torch.tensor([[1.0, 3.0], [4.0, 6.0]])
    spec, batch = one_step_game(payoff)
    learner = solved("vdn", spec, batch, 200, lr=0.05)
    torch.testing.assert_close(team_values(learner, batch.obs[0]), payoff, atol=0.02, rtol=0)
    assert learner.act(batch.obs[0, 0]).tolist() == [1, 1]


def test_vdn_fits_the_nearest_sum_to_a_payoff_that_is_none():
    """Least squares over all joint choices: row mean + column mean - mean."""
    payoff = torch.tensor([[0.0, 1.0], [1.0, 8.0]])
    spec, batch = one_step_game(payoff)
    learner = solved("vdn", spec, batch, 200, lr=0.05)
    nearest = payoff.mean(1, keepdim=True) + payoff.mean(0) - payoff.mean()
    assert nearest.tolist() == [[-1.5, 2.5], [2.5, 6.5]]
    torch.testing.assert_close(team_values(learner, batch.obs[0]), nearest, atol=0.02, rtol=0)
    # The error that no sum is rid of: 1.5 at each joint choice.
    torch.testing.assert_close(loss(learner, batch), 1.5**2 / 2, atol=0.01, rtol=0)


@pytest.mark.slow
def test_vdn_takes_the_sure_seven_of_the_two_step_game():
    spec, batch = two_step_game()
    learner = solved("vdn", spec, batch, 1000)
    # The second state's nearest sum promises 6.5 at best, .99 of it 6.435; the first state's 7 is .99 * 7 = 6.93.
    first = torch.tensor([[6.93, 6.93], [6.435, 6.435]])
    torch.testing.assert_close(team_values(learner, seen_in(0)), first, atol=0.05, rtol=0)
    torch.testing.assert_close(
        team_values(learner, seen_in(0, 2)), torch.tensor([[-1.5, 2.5], [2.5, 6.5]]), atol=0.05, rtol=0
    )
    assert int(learner.act(seen_in(0)[0])[0]) == 0


@pytest.mark.slow
def test_qmix_finds_the_eight_of_the_two_step_game():
    spec, batch = two_step_game()
    learner = solved("qmix", spec, batch, 1500, mixer_width=8, hyper_width=16)
    first = torch.tensor([[6.93, 6.93], [7.92, 7.92]])
    torch.testing.assert_close(team_values(learner, seen_in(0)), first, atol=0.1, rtol=0)
    torch.testing.assert_close(
        team_values(learner, seen_in(0, 2)), torch.tensor([[0.0, 1.0], [1.0, 8.0]]), atol=0.1, rtol=0
    )
    memory = learner.begin(1)
    for place, action in ((0, 1), (2, 1)):
        obs = seen_in(place)
        actions = learner.act(obs, **memory.read())
        assert int(actions[0, 0]) == action
        memory.remember(obs, actions, torch.zeros(1, 2))
