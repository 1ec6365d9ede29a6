"""MADDPG by hand, against a plain loop over agents, and learning from data."""

from __future__ import annotations

import copy
from dataclasses import replace

import hand
import pytest
import torch
from torch.nn.functional import one_hot, softmax

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.algorithms.split import sliced
from offline_marl.core.config import ConfigError, build
from offline_marl.core.seeding import derive, seeded_globally
from offline_marl.core.types import Batch, DataError, Spec
from offline_marl.networks.critics import JointCritic
from offline_marl.networks.distributions import gumbel

CONTINUOUS = Spec(obs_dims=(3, 2, 2), act_dims=(2, 1, 2))
DISCRETE = Spec(obs_dims=(3, 2, 2), act_dims=(3, 2, 4), action_kind="discrete")
SPECS = {"continuous": CONTINUOUS, "discrete": DISCRETE}
ROWS = 12


def learner_of(kind: str, seed: int = 0, **settings) -> Algorithm:
    made_by = algorithms.get("maddpg")
    with seeded_globally(seed, "initialisation"):
        made = made_by(build(made_by.Config, {"hidden": [8, 8], "grad_clip": 0, **settings}), SPECS[kind])
    made.place("cpu", seed)
    return made


def batch_of(kind: str, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    spec = SPECS[kind]
    obs, later = (torch.randn(ROWS, 3, 3, generator=draw) * spec.present("obs") for _ in range(2))
    if kind == "continuous":
        actions = (torch.rand(ROWS, 3, 2, generator=draw) * 2 - 1) * spec.present("act")
    else:
        actions = torch.stack([torch.randint(n, (ROWS,), generator=draw) for n in spec.act_dims], dim=1)
    ended = torch.rand(ROWS, 3, generator=draw) < 0.3
    rewards = torch.randn(ROWS, 3, generator=draw)
    return Batch(obs, actions, rewards, later, ended, torch.zeros_like(ended))


# --- by hand ----------------------------------------------------------------------------------------------------------
def test_losses_by_hand():
    """Q is 1 and 2, Q' 3 and -1, gamma 1/2: targets (2.5, 1.5), and (2, -1.5) where the first row is over."""
    learner = hand.learner_of("maddpg", hand.CONTINUOUS, output_penalty=0.5)
    hand.answer(learner.critic, [[1.0], [2.0]])
    hand.answer(learner.target_critic, [[3.0], [-1.0]])
    hand.answer(learner.policy, [[2.0, 1.0], [3.0, 7.0]])
    metrics = learner.update(hand.batch_of(hand.CONTINUOUS, hand.ACTIONS))
    assert float(metrics["loss/critic"]) == pytest.approx(((2.25 + 0.25) / 2 + (0 + 12.25) / 2) / 2)
    assert float(metrics["q/mean"]) == pytest.approx(1.5)
    squares = ((4 + 1) / 2 + 9) / 2  # the second agent has one entry
    assert float(metrics["loss/actor"]) == pytest.approx(0.5 * squares - 1.5)


def test_entries_that_do_not_count_change_each_agents_own_mean_alone():
    learner = hand.learner_of("maddpg", hand.CONTINUOUS)
    hand.answer(learner.critic, [[1.0], [2.0]])
    hand.answer(learner.target_critic, [[3.0], [-1.0]])
    metrics = learner.update(hand.without_the_ended(hand.batch_of(hand.CONTINUOUS, hand.ACTIONS)))
    assert float(metrics["loss/critic"]) == pytest.approx(((2.25 + 0.25) / 2 + 12.25) / 2)


@pytest.mark.parametrize("relaxation", ["straight-through", "soft"])
@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_gradients_are_those_of_a_plain_loop_over_agents(kind, relaxation):
    learner, batch = learner_of(kind, relaxation=relaxation, relaxation_temperature=0.7), batch_of(kind)
    learner.updates = 4
    found = learner.gradients(batch)
    for agent in range(3):
        plain = copy.deepcopy(learner)
        loss_of_one_agent(plain, batch, agent).backward()
        for name, parameter in plain.named_parameters():
            if parameter.grad is not None:  # one copy: a row is an agent
                expected = parameter.grad[agent]
                torch.testing.assert_close(found.values[name][agent, 0], expected, rtol=1e-4, atol=1e-6, msg=name)


def loss_of_one_agent(learner: Algorithm, batch: Batch, agent: int) -> torch.Tensor:
    """Critic's and policy's loss, the joint action written out."""
    spec, discrete = learner.spec, learner.spec.discrete
    noises = [torch.Generator().manual_seed(derive(0, learner.updates, j)) for j in range(3)]
    following = [gumbel((ROWS, spec.act_dim), noise) for noise in noises]
    own = gumbel((ROWS, spec.act_dim), noises[agent])

    def act(policy, obs, j, noise):
        out = policy.net(obs)[0, :, j]
        there = spec.present("act")[j]
        if not discrete:
            return torch.tanh(out) * there
        soft = softmax(((out + noise).masked_fill(~there, -1e9)) / 0.7, dim=-1)
        if learner.config.relaxation == "soft":
            return soft
        return one_hot(soft.argmax(-1), spec.act_dim) + soft - soft.detach()

    def q_of(critic, obs, actions):
        order = [(agent + turn) % 3 for turn in range(3)]
        columns = torch.cat([part for j in order for part in (obs[:, j], actions[j])], dim=-1)
        everybody = torch.stack([columns] * 3, dim=1)  # only this agent's weights are looked at
        return critic.net(everybody)[0, :, agent, 0]

    def freeze(critic):
        return copy.deepcopy(critic).requires_grad_(False)

    done = [one_hot(batch.actions[:, j], spec.act_dim).float() if discrete else batch.actions[:, j] for j in range(3)]
    with torch.no_grad():
        later = [act(learner.target_policy, batch.next_obs, j, following[j]) for j in range(3)]
        next_q = q_of(learner.target_critic, batch.next_obs, later)
        target = batch.rewards[:, agent] + learner.config.gamma * next_q * ~batch.terminations[:, agent]
    critic_loss = (q_of(learner.critic, batch.obs, done) - target).square().mean()
    done[agent] = act(learner.policy, batch.obs, agent, own)
    out = learner.policy.net(batch.obs)[0, :, agent, : spec.act_dims[agent]]
    penalty = learner.config.output_penalty * out.square().mean()
    return critic_loss + penalty - q_of(freeze(learner.critic), batch.obs, done).mean()


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_who_is_away_next_does_nothing_in_the_others_targets(kind):
    """Q'_1 sums both agents' next actions and gamma is 1: of who is away, or terminates, there is nothing to sum."""
    spec = Spec((1, 1), (1, 1)) if kind == "continuous" else Spec((1, 1), (2, 2), action_kind="discrete")
    learner = hand.learner_of("maddpg", spec, gamma=1.0)
    with torch.no_grad():
        for layer in learner.target_critic.net.stack.layers:
            for parameter in layer.parameters():
                parameter.zero_()
        first, _, last = learner.target_critic.net.stack.layers
        first.weight[0, 1 : 1 + spec.act_dim, 0] = 1.0
        first.weight[0, -spec.act_dim :, 0] = 1.0
        last.weight[0, 0, 0] = 1.0
        hand.answer(learner.target_policy, [[50.0] * spec.act_dim] * 2)  # tanh of it is 1; a choice is one-hot
    obs, over = torch.zeros(3, 2, 1), torch.tensor([[False, False], [False, True], [False, False]])
    there = torch.tensor([[True, True], [True, True], [True, False]])
    actions = torch.zeros(3, 2, 1) if kind == "continuous" else torch.zeros(3, 2, dtype=torch.int64)
    batch = Batch(obs, actions, torch.zeros(3, 2), obs, over, torch.zeros_like(over), mask=there)
    next_actions = learner.prepare(batch)["next_actions"]
    assert learner.target(batch, learner, (0, 1), next_actions)[:, 0].tolist() == [2.0, 1.0, 1.0]


def test_targets_read_histories_through_the_target_encoder():
    learner = learner_of("continuous", window=2)
    batch = batch_of("continuous")
    pairs = torch.randn(ROWS, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    batch = replace(batch, history=pairs, next_history=pairs + 1)
    before = learner.gradients(batch)
    with torch.no_grad():
        for parameter in learner.target_inputs.parameters():
            parameter.add_(0.5)
    after = learner.gradients(batch)
    assert not torch.equal(
        before.values["critic.net.stack.layers.0.bias"], after.values["critic.net.stack.layers.0.bias"]
    )
    assert torch.equal(before.values["policy.net.stack.layers.0.bias"], after.values["policy.net.stack.layers.0.bias"])


# --- critics of one agent, clipping, noise ----------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_ddpg_agent_learns_from_itself_alone_and_a_maddpg_agent_from_all(kind):
    learner = learner_of(kind, adversaries=1, adversary_policy="ddpg")
    batch = batch_of(kind)
    others = batch_of(kind, seed=1)
    shaken = {}
    for name in ("obs", "actions", "next_obs", "rewards"):
        value = getattr(others, name).clone()
        value[:, 0] = getattr(batch, name)[:, 0]
        shaken[name] = value
    before, after = (learner.gradients(each) for each in (batch, replace(batch, **shaken)))
    assert torch.equal(before.flat()[0], after.flat()[0])
    assert not torch.equal(before.flat()[1], after.flat()[1])
    first = learner.critic.net.stack.layers[0]
    own = learner.inputs.width + learner.spec.act_dim
    assert (
        not first.weight.isnan().any()
        and float(before.values["critic.net.stack.layers.0.weight"][0, 0, own:].norm()) == 0
    )
    bound = (3 + learner.spec.act_dims[0]) ** -0.5  # its own true width, not the team's
    assert bound * 0.9 < float(first.weight[0].detach().abs().max()) <= bound


def test_shared_networks_are_clipped_as_a_whole():
    batch = batch_of("continuous")
    learner = learner_of("continuous", grad_clip=0.5, share_parameters=True)
    learner.update(replace(batch, rewards=batch.rewards * 1e4))
    for module in (learner.critic, learner.policy):
        norm = torch.stack([parameter.grad.norm() for parameter in module.parameters()]).norm()
        assert float(norm) <= 0.5001
    assert float(torch.stack([p.grad.norm() for p in learner.critic.parameters()]).norm()) > 0.49


def test_gradients_are_clipped_by_agent_and_module():
    batch = batch_of("continuous")
    loud = replace(batch, rewards=batch.rewards * torch.tensor([1.0, 1e4, 1.0]))
    quiet, clipped = learner_of("continuous"), learner_of("continuous", grad_clip=0.5)
    free, found = quiet.gradients(loud), clipped.gradients(loud)
    for module in ("critic.", "policy."):
        norms, limited = (
            torch.stack([v.flatten(1).square().sum(1) for n, v in each.values.items() if n.startswith(module)]).sum(0)
            ** 0.5
            for each in (free, found)
        )
        torch.testing.assert_close(limited, norms.clamp(max=0.5))
    assert float(norms.min()) < 0.5
    assert float(torch.stack([v[1].norm() for n, v in free.values.items() if n.startswith("critic.")]).max()) > 100
    one = clipped.gradients(loud, [2])
    torch.testing.assert_close(one.flat()[0], found.flat()[2])
    clipped.apply_gradients(found)
    assert torch.equal(
        clipped.critic.net.stack.layers[0].weight.grad[1], found.values["critic.net.stack.layers.0.weight"][1, 0]
    )


def test_noise_depends_on_seed_update_and_agent_alone():
    learner = learner_of("discrete")
    batch = batch_of("discrete")
    first = learner.gradients(batch).flat()
    learner.act(batch.obs, explore=True)
    assert torch.equal(first, learner.gradients(batch).flat()), "acting moves no noise of updates"
    assert torch.equal(learner.next_noise(ROWS), learner.next_noise(ROWS))
    own, alone = learner.own_noise(ROWS, (2, 0)), learner.own_noise(ROWS, (0,))
    assert torch.equal(own[:, 1], alone[:, 0]) and not torch.equal(alone[:, 0], learner.next_noise(ROWS)[:, 0])
    learner.updates += 1
    assert not torch.equal(first, learner.gradients(batch).flat())
    other = copy.deepcopy(learner)
    other.updates -= 1
    other.place("cpu", 9)
    assert not torch.equal(first, other.gradients(batch).flat())


def test_drawn_choices_follow_the_softmax():
    """Straight-through asks about a draw of the policy, so that its distribution is the policy's."""
    learner = learner_of("discrete")
    outputs = torch.tensor([0.5, -1.0, 1.2, 3.0]).expand(40_000, 1, 4)
    present = torch.tensor([[True, True, True, False]])
    noise = gumbel(outputs.shape, torch.Generator().manual_seed(0))
    hard, soft = learner.act_softly(outputs, present, None, noise)
    assert torch.equal(hard.sum(-1), torch.ones(40_000, 1)) and set(hard.unique().tolist()) == {0.0, 1.0}
    expected = softmax(torch.tensor([0.5, -1.0, 1.2]), dim=0)
    torch.testing.assert_close(hard.mean((0, 1))[:3], expected, atol=0.01, rtol=0)
    assert float(hard[..., 3].sum()) == 0 and float(soft[..., 3].sum()) == 0


def test_a_lone_critic_reads_what_it_reads_among_the_others_bit_for_bit():
    draw = torch.Generator().manual_seed(0)
    features, actions = torch.randn(5, 3, 4, generator=draw), torch.randn(5, 3, 2, generator=draw)
    own_features, own_actions = torch.randn(5, 3, 4, generator=draw), torch.randn(5, 3, 2, generator=draw)
    critic = JointCritic(4, [8], (2, 2, 2), alone=[False, True, False])
    for own in ((None, None), (own_features, None), (None, own_actions), (own_features, own_actions)):
        columns = critic._gathered(features, actions, *own)
        for agent in range(3):
            part = sliced(critic, [agent], 3)
            mine = [None if value is None else value[:, agent : agent + 1] for value in own]
            assert torch.equal(part._lone(features, actions, *mine)[:, 0], columns[:, agent])
            torch.testing.assert_close(
                part(features, actions, *mine)[..., 0], critic(features, actions, *own)[..., agent]
            )


# --- bad input --------------------------------------------------------------------------------------------------------
def test_sides_are_checked():
    with pytest.raises(DataError, match="There are 4 adversaries in a team of 3 agents"):
        learner_of("continuous", adversaries=4)
    with pytest.raises(DataError, match="both sides' policies must be alike"):
        learner_of("continuous", adversaries=1, adversary_policy="ddpg", share_parameters=True)
    with pytest.raises(DataError, match="share_parameters all agents have one set of weights"):
        learner_of("continuous", share_parameters=True).gradients(batch_of("continuous"))


@pytest.mark.parametrize(
    "bad",
    [
        {"adversaries": -1},
        {"good_policy": "dqn"},
        {"relaxation": "hard"},
        {"relaxation_temperature": 0.0},
        {"explore_noise": -1.0},
    ],
    ids=str,
)
def test_fields_are_checked(bad):
    with pytest.raises(ConfigError):
        build(algorithms.get("maddpg").Config, bad)


# --- learns -----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("relaxation", ["straight-through", "soft"])
def test_it_learns_the_choices_that_pay_from_rows_that_cover_all(relaxation):
    """Agent i earns 1 where it chooses what is shown plus i, and loses 2 where the other does: all to be told apart."""
    spec = Spec((3, 3), (3, 3), action_kind="discrete")
    made_by = algorithms.get("maddpg")
    config = build(made_by.Config, {"hidden": [32, 32], "lr": 3e-3, "tau": 0.05, "relaxation": relaxation})
    with seeded_globally(0, "initialisation"):
        learner = made_by(config, spec)
    learner.place("cpu", 0)
    draw = torch.Generator().manual_seed(0)
    right = torch.arange(2)
    for _ in range(600):
        shown = torch.randint(3, (128,), generator=draw)
        actions = torch.randint(3, (128, 2), generator=draw)
        hit = (actions == (shown.unsqueeze(1) + right) % 3).float()
        obs = one_hot(shown, 3).float().unsqueeze(1).repeat(1, 2, 1)
        over = torch.ones(128, 2, dtype=torch.bool)
        learner.update(Batch(obs, actions, hit - 2 * hit.flip(1), obs, over, ~over))
    shown = torch.arange(3)
    chosen = learner.act(one_hot(shown, 3).float().unsqueeze(1).repeat(1, 2, 1))
    assert torch.equal(chosen, (shown.unsqueeze(1) + right) % 3), chosen
