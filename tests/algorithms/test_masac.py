"""Soft actor-critic: by hand, beside a plain one of one agent, over several steps, and learning."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import hand
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from worlds import SPECS, random_batch_index, world

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.core.config import ConfigError, build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch, Spec
from offline_marl.datasets.buffer import TransitionBuffer

ALONE = Spec(obs_dims=(5,), act_dims=(2,))
ROWS = 16
DATA = {kind: world(kind) for kind in SPECS}


def learner_of(spec: Spec, seed: int = 0, **settings) -> Algorithm:
    made_by = algorithms.get("masac")
    with seeded_globally(seed, "initialisation"):
        made = made_by(build(made_by.Config, {"hidden": [16, 16], **settings}), spec)
    made.place("cpu", seed)
    return made


def alone_batch(seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    obs, later = (torch.randn(ROWS, 1, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    actions = torch.tanh(torch.randn(ROWS, 1, 2, generator=draw, dtype=torch.float64))
    rewards = actions.sum(-1) * obs[..., 0]
    ended = torch.rand(ROWS, 1, generator=draw) < 0.2
    return Batch(obs, actions, rewards, later, ended, ~ended)


# --- with one agent it is soft actor-critic ---------------------------------------------------------------------------
class Plain:
    """Soft actor-critic of one agent with plain layers, which begins with a learner's weights and draws its noise."""

    def __init__(self, learner: Algorithm) -> None:
        self.config = learner.config
        self.actor, self.twins = layers_of(learner.actor, 1)[0], layers_of(learner.critic, 2)
        self.targets = copy.deepcopy(self.twins)
        self.log_temperature = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        critic_lr = self.config.critic_lr or self.config.lr
        self.critic_adam = torch.optim.Adam([p for twin in self.twins for p in twin.parameters()], lr=critic_lr)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=self.config.lr)
        self.temperature_adam = torch.optim.Adam([self.log_temperature], lr=critic_lr)
        self.noise = torch.Generator().manual_seed(0)
        self.updates = 0

    def draw(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(obs).chunk(2, -1)
        log_std = -5 + 3.5 * (torch.tanh(log_std) + 1)
        normal = torch.distributions.Normal(mean, log_std.exp())
        raw = mean + log_std.exp() * torch.randn(mean.shape, generator=self.noise, dtype=mean.dtype)
        actions = torch.tanh(raw)
        return actions, (normal.log_prob(raw) - torch.log(1 - actions**2)).sum(-1)

    def q(self, twins: list[nn.Module], obs: Tensor, actions: Tensor) -> list[Tensor]:
        return [twin(torch.cat([obs, actions], -1)).squeeze(-1) for twin in twins]

    def update(self, batch: Batch) -> None:
        obs, actions, later = batch.obs[:, 0], batch.actions[:, 0], batch.next_obs[:, 0]
        with torch.no_grad():
            following, log_prob = self.draw(later)
            value = torch.min(*self.q(self.targets, later, following)) - self.log_temperature.exp() * log_prob
            target = batch.rewards[:, 0] + self.config.gamma * (1 - batch.terminations[:, 0].double()) * value
        loss = sum(nn.functional.mse_loss(q, target) for q in self.q(self.twins, obs, actions))
        self.step(self.critic_adam, loss)
        if self.updates % self.config.policy_every == 0:
            for _ in range(self.config.policy_every):
                own, log_prob = self.draw(obs)
                loss = (
                    self.log_temperature.exp().detach() * log_prob - torch.min(*self.q(self.twins, obs, own))
                ).mean()
                self.step(self.actor_adam, loss)
                lacking = log_prob.detach().mean() - 2  # an aim of -1 nat for each of two entries
                self.step(self.temperature_adam, (-self.log_temperature.exp() * lacking).sum())
        for target_net, net in zip(self.targets, self.twins, strict=True):
            for mine, theirs in zip(target_net.parameters(), net.parameters(), strict=True):
                mine.data.mul_(1 - self.config.tau).add_(self.config.tau * theirs.data)
        self.updates += 1

    def step(self, adam: torch.optim.Optimizer, loss: Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        adam.step()


def layers_of(network: nn.Module, copies: int) -> list[nn.Sequential]:
    made = []
    stacked = [layer for layer in network.net.stack.layers if hasattr(layer, "weight")]
    for member in range(copies):
        layers: list[nn.Module] = []
        for layer in stacked:
            linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[2], dtype=torch.float64)
            linear.weight.data.copy_(layer.weight[member].T)
            linear.bias.data.copy_(layer.bias[member, 0])
            layers += [linear, nn.ReLU()]
        made.append(nn.Sequential(*layers[:-1]))
    return made


@pytest.mark.parametrize(
    ("updates", "settings"),
    [
        (40, {}),
        (40, {"critic": "centralised", "policy_every": 2}),
        pytest.param(1000, {"critic_lr": 1e-3, "policy_every": 2}, marks=pytest.mark.slow),
        pytest.param(1000, {}, marks=pytest.mark.slow),
    ],
)
def test_with_one_agent_it_is_soft_actor_critic(updates, settings):
    learner = learner_of(ALONE, tau=0.01, **settings).double()
    plain = Plain(learner)
    for seed in range(updates):
        batch = alone_batch(seed)
        learner.update(batch)
        plain.update(batch)
    actor, twins, targets = (
        layers_of(network, copies)
        for network, copies in ((learner.actor, 1), (learner.critic, 2), (learner.target_critic, 2))
    )
    assert (actor[0][0].weight - layers_of(learner_of(ALONE, tau=0.01, **settings).actor, 1)[0][0].weight).norm() > 0.01
    for mine, theirs in zip([*actor, *twins, *targets], [plain.actor, *plain.twins, *plain.targets], strict=True):
        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(learner.temperature.log.detach(), plain.log_temperature.detach(), rtol=1e-5, atol=1e-5)


# --- by hand ----------------------------------------------------------------------------------------------------------
LOGITS = [[0.0, math.log(3.0), 0.0], [0.0, 0.0, 7.0]]
"""Of three choices 1/5, 3/5 and 1/5; of two a half each."""


def choosing(**settings) -> Algorithm:
    learner = hand.learner_of("masac", hand.DISCRETE, temperature=0.5, tune_temperature=False, **settings)
    hand.answer(learner.actor, LOGITS)
    # First copies of both agents, then second ones.
    hand.answer(learner.critic, [[1.0, 2.0, 3.0], [4.0, 5.0, 9.0], [3.0, 1.0, 3.0], [4.0, 6.0, 9.0]])
    hand.answer(learner.target_critic, [[2.0, 0.0, 1.0], [1.0, 3.0, 9.0], [5.0, 1.0, 0.0], [1.0, 2.0, 9.0]])
    return learner


CHOICES = torch.tensor([[0, 1], [2, 0]])
ENTROPY = (2 / 5 * math.log(5) + 3 / 5 * math.log(5 / 3), math.log(2))
VALUE = (2 / 5 + 0.5 * ENTROPY[0], 3 / 2 + 0.5 * ENTROPY[1])
"""Mean of the least target Q (2, 0, 0 and 1, 2), and half the entropy."""


@pytest.mark.parametrize("critic", ["independent", "centralised"])
def test_losses_of_choices_by_hand(critic):
    metrics = choosing(critic=critic).update(hand.batch_of(hand.DISCRETE, CHOICES))
    targets = [[1 + 0.5 * VALUE[0], 2.0], [0.5 * VALUE[0], -1 + 0.5 * VALUE[1]]]
    taken = [[[1.0, 5.0], [3.0, 4.0]], [[3.0, 6.0], [3.0, 4.0]]]
    errors = sum((taken[k][row][i] - targets[row][i]) ** 2 for k in range(2) for row in range(2) for i in range(2))
    assert float(metrics["loss/critic"]) == pytest.approx(errors / 4, rel=1e-5)
    assert float(metrics["entropy/next"]) == pytest.approx(sum(ENTROPY) / 2, rel=1e-5)
    least = (1 / 5 * 1 + 3 / 5 * 1 + 1 / 5 * 3, 4.5)
    expected = sum(-0.5 * h - q for h, q in zip(ENTROPY, least, strict=True)) / 2
    assert float(metrics["loss/actor"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("critic", ["independent", "centralised"])
def test_agents_without_a_choice_learn_their_value(critic):
    learner = learner_of(Spec((2, 1), (1, 1), action_kind="discrete"), critic=critic)
    batch = hand.batch_of(hand.DISCRETE, torch.zeros_like(CHOICES))
    assert learner.update(batch)["entropy/next"] == 0 and torch.equal(learner.act(batch.obs), batch.actions)


def test_choices_that_are_not_available_have_no_part():
    learner = choosing()
    avail = torch.tensor([[[True, True, False], [True, False, False]]] * 2)
    batch = replace(
        hand.batch_of(hand.DISCRETE, torch.zeros_like(CHOICES)), avail_actions=avail, next_avail_actions=avail
    )
    metrics = learner.update(batch)
    entropy = 1 / 4 * math.log(4) + 3 / 4 * math.log(4 / 3)
    assert float(metrics["entropy/next"]) == pytest.approx(entropy / 2, rel=1e-5)
    expected = (-0.5 * entropy - (1 / 4 * 1 + 3 / 4 * 1)) / 2 - 4.0 / 2
    assert float(metrics["loss/actor"]) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(learner.aim(avail)[0], torch.tensor([0.5 * math.log(2), 0.0]))


def test_temperatures_are_each_agents_own_and_hold_the_aim():
    """The first agent's entropy is above its aim, and its temperature falls; the second's below, and it rises."""
    learner = hand.learner_of("masac", hand.DISCRETE, temperature=0.5, entropy_share=0.8)
    hand.answer(learner.actor, [[0.0, 0.0, 0.0], [0.0, 5.0, 7.0]])
    learner.update(hand.batch_of(hand.DISCRETE, CHOICES))
    slope = learner.temperature.log.grad
    assert float(slope[0]) == pytest.approx(0.5 * 0.2 * math.log(3), rel=1e-4) and float(slope[1]) < 0
    kept = hand.learner_of("masac", hand.DISCRETE, tune_temperature=False)
    kept.update(hand.batch_of(hand.DISCRETE, CHOICES))
    assert torch.equal(kept.temperature.log.detach(), torch.zeros(2))


def test_the_log_density_of_a_draw_holds_where_tanh_is_flat():
    choice = learner_of(ALONE).double().actor(torch.full((2000, 1, 5), 3.0, dtype=torch.float64))
    actions, log_probs = choice.sample_with_log_prob(torch.Generator().manual_seed(0))
    inside = actions.abs().amax(-1) < 0.999
    torch.testing.assert_close(log_probs[inside], choice.log_prob(actions)[inside], rtol=1e-6, atol=1e-6)
    loud = replace_mean(choice, 40.0)
    _, far = loud.sample_with_log_prob(torch.Generator().manual_seed(0))
    assert bool(far.isfinite().all()) and float(far.detach().min()) > 50


def replace_mean(choice, mean: float):
    return type(choice)(torch.full_like(choice.mean, mean), choice.log_std, choice.present)


# --- several steps ----------------------------------------------------------------------------------------------------
def test_several_steps_are_asked_for_and_one_is_transitions():
    assert learner_of(ALONE).needs.view == "transitions"
    needs = learner_of(ALONE, n_step=3).needs
    assert (needs.view, needs.length, needs.burn_in) == ("segments", 3, 0)


@pytest.mark.parametrize("critic", ["independent", "centralised"])
@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_several_recorded_rewards_are_summed_up_to_the_end_of_the_episode(kind, critic):
    """V is 2, 3 and 4 without entropy: the sum stops where the episode terminates, or bootstraps where it is cut."""
    learner = learner_of(SPECS[kind], n_step=3, temperature=1e-9, tune_temperature=False, critic=critic, gamma=0.5)
    value = torch.tensor([2.0, 3.0, 4.0])
    width = SPECS[kind].act_dim if kind == "discrete" else 1
    hand.answer(learner.target_critic, [[float(v)] * width for v in value] * 2)
    data, buffer = DATA[kind], TransitionBuffer(DATA[kind])
    starts = torch.arange(len(data))
    batch = buffer.view(starts, learner.needs)
    found, _ = learner.target(batch)
    ends = torch.cumsum(data.lengths, 0)
    checked = {True: 0, False: 0}
    for start in starts.tolist():
        end = int(ends[ends > start][0])
        steps = range(start, min(start + 3, end))
        expected = sum(0.5**k * data.rewards[step] for k, step in enumerate(steps))
        last = steps[-1]
        over = data.terminations[last]
        expected = expected + 0.5 ** len(steps) * value * ~over
        torch.testing.assert_close(found[start], expected, rtol=1e-4, atol=1e-5)
        if len(steps) < 3:
            checked[bool(over[0])] += 1
    assert checked[True] and checked[False]


def test_entropy_at_what_was_seen_between_is_earned_too():
    learner = choosing(n_step=2)
    one = hand.batch_of(hand.DISCRETE, CHOICES)
    one = replace(one, terminations=torch.zeros_like(one.terminations))
    two = Batch.stack([one, one], dim=1)
    found, _ = learner.target(replace(two, mask=torch.ones(2, 2, 2, dtype=torch.bool)))
    for row, rewards in enumerate(([1.0, 2.0], [0.0, -1.0])):
        for i, reward in enumerate(rewards):
            later = reward + 0.5 * VALUE[i]
            assert float(found[row, i]) == pytest.approx(reward + 0.5 * (0.5 * ENTROPY[i] + later), rel=1e-5)


def test_an_agent_that_leaves_ends_its_own_sum_alone():
    learner = choosing(n_step=2)
    one = hand.batch_of(hand.DISCRETE, CHOICES)
    one = replace(one, terminations=torch.zeros_like(one.terminations))
    mask = torch.ones(2, 2, 2, dtype=torch.bool)
    mask[0, 1, 1] = False
    found, _ = learner.target(replace(Batch.stack([one, one], dim=1), mask=mask))
    assert float(found[0, 1]) == pytest.approx(2 + 0.5 * VALUE[1], rel=1e-5)
    assert float(found[0, 0]) == pytest.approx(1 + 0.5 * (0.5 * ENTROPY[0] + 1 + 0.5 * VALUE[0]), rel=1e-5)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_updates_over_several_steps_look_at_the_first_step_alone(kind):
    """What is done later in a segment earns rewards; its actions and critics' errors there count for nothing."""
    learner = learner_of(SPECS[kind], n_step=3)
    batch = TransitionBuffer(DATA[kind]).view(random_batch_index(DATA[kind], ROWS), learner.needs)
    other = batch.actions.clone()
    other[:, 1:] = 0
    ends = []
    for each in (batch, replace(batch, actions=other)):
        learner = learner_of(SPECS[kind], n_step=3)
        learner.update(each)
        ends.append(torch.cat([p.detach().flatten() for p in learner.parameters()]))
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    "bad",
    [
        {"n_step": 0},
        {"temperature": 0.0},
        {"policy_every": 0},
        {"entropy_share": 1.5},
        {"critic": "joint"},
        {"critic_lr": -1},
    ],
    ids=str,
)
def test_fields_are_checked(bad):
    with pytest.raises(ConfigError):
        build(algorithms.get("masac").Config, bad)


# --- learns -----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("critic", ["independent", "centralised"])
@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_it_learns_what_pays_from_rows_that_cover_all(kind, critic):
    """Each agent earns most where it does what it is shown; two steps an episode."""
    spec = Spec((3, 3), (1, 1)) if kind == "continuous" else Spec((3, 3), (3, 3), action_kind="discrete")
    learner = learner_of(spec, critic=critic, lr=3e-3, tau=0.05, n_step=2, entropy_share=0.1)
    draw = torch.Generator().manual_seed(0)
    aims = torch.tensor([-0.5, 0.0, 0.5])

    def show(shown: Tensor) -> Tensor:
        return one_hot(shown, 3).float()

    for _ in range(600):
        shown = torch.randint(3, (64, 3, 2), generator=draw)
        if kind == "continuous":
            actions = torch.rand(64, 2, 2, 1, generator=draw) * 2 - 1
            earned = -(actions.squeeze(-1) - aims[shown[:, :2]]).square()
        else:
            actions = torch.randint(3, (64, 2, 2), generator=draw)
            earned = (actions == shown[:, :2]).float()
        over = torch.zeros(64, 2, 2, dtype=torch.bool)
        over[:, 1] = True
        learner.update(
            Batch(show(shown[:, :2]), actions, earned, show(shown[:, 1:]), over, ~over, mask=torch.ones_like(over))
        )
    shown = torch.arange(3).unsqueeze(1).repeat(1, 2)
    done = learner.act(show(shown))
    if kind == "continuous":
        torch.testing.assert_close(done.squeeze(-1), aims[shown], atol=0.15, rtol=0)
    else:
        assert torch.equal(done, shown)
