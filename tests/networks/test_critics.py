from __future__ import annotations

import pytest
import torch
from torch import nn

from offline_marl.networks import critics
from offline_marl.networks.critics import Critic, Value
from offline_marl.networks.ensembles import StackedLinear


def linear(net: object) -> StackedLinear:
    """The one layer of a network without hidden ones."""
    layer = net.stack.layers[0]  # type: ignore[attr-defined]
    assert isinstance(layer, StackedLinear)
    return layer


def test_q_of_a_continuous_action_by_hand() -> None:
    critic = Critic(2, [], [1, 1], discrete=False)
    layer = linear(critic.net)  # members: copy 0 agents 0 and 1, copy 1 agents 0 and 1
    with torch.no_grad():
        layer.weight.copy_(
            torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, -1.0], [0.0, 0.0, 1.0], [2.0, 2.0, 2.0]])[..., None]
        )
        layer.bias.copy_(torch.tensor([0.5, 0.0, -1.0, 0.0]).view(4, 1, 1))
    features = torch.tensor([[[1.0, 10.0], [4.0, 5.0]]])
    actions = torch.tensor([[[-0.5], [0.25]]])
    # copy 0: 1 + 20 - 1.5 + .5 = 20 and 4 - .25 = 3.75; copy 1: -.5 - 1 = -1.5 and 8 + 10 + .5 = 18.5
    assert critic(features, actions).tolist() == [[[20.0, 3.75]], [[-1.5, 18.5]]]


def test_q_of_a_choice_is_the_networks_output_for_it() -> None:
    torch.manual_seed(0)
    critic = Critic(3, [8], [4, 2], discrete=True, copies=3)
    features, actions = torch.randn(6, 2, 3), torch.randint(0, 2, (6, 2))
    q, every = critic(features, actions), critic.net(features)
    assert q.shape == (3, 6, 2)
    for copy in range(3):
        for row in range(6):
            for agent in range(2):
                assert q[copy, row, agent] == every[copy, row, agent, actions[row, agent]]


def test_only_the_choice_made_learns() -> None:
    critic = Critic(3, [], [4, 4], discrete=True)
    critic(torch.ones(5, 2, 3), torch.full((5, 2), 2)).sum().backward()
    grad = linear(critic.net).bias.grad
    assert grad is not None
    assert grad[0, 0].tolist() == [0.0, 0.0, 5.0, 0.0]


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("lead", [(5,), (5, 4)])
@pytest.mark.parametrize("shared", [False, True])
def test_values_have_one_row_per_copy_and_no_trailing_axis(discrete: bool, lead: tuple[int, ...], shared: bool) -> None:
    critic = Critic(3, [8], [2, 1], discrete=discrete, copies=2, shared=shared)
    actions = torch.zeros(*lead, 2, dtype=torch.int64) if discrete else torch.zeros(*lead, 2, 2)
    features = torch.randn(*lead, 2, 3)
    assert critic(features, actions).shape == (2, *lead, 2)
    assert Value(2, 3, [8], shared=shared)(features).shape == (*lead, 2)


def test_twins_are_independent() -> None:
    torch.manual_seed(0)
    critic = Critic(3, [8], [2, 2], discrete=False)
    first, second = critic(torch.randn(5, 2, 3), torch.rand(5, 2, 2))
    assert not torch.allclose(first, second)
    first.sum().backward()
    layer = critic.net.stack.layers[0]
    assert isinstance(layer, StackedLinear) and layer.weight.grad is not None
    assert bool(layer.weight.grad[:2].ne(0).any()) and bool(layer.weight.grad[2:].eq(0).all())


def test_the_initial_spread_of_a_critic_counts_true_features_and_true_actions() -> None:
    torch.manual_seed(0)
    layer = linear(Critic(90, [], [10, 6], discrete=False, copies=1, fan_in=[90, 3]).net)
    # 1 / sqrt(90 + 10) and 1 / sqrt(3 + 6)
    assert layer.weight[0].detach().abs().max().item() == pytest.approx(0.1, rel=0.05)
    assert layer.weight[1].detach().abs().max().item() == pytest.approx(1 / 3, rel=0.05)
    choices = linear(Critic(90, [], [10, 6], discrete=True, copies=1, fan_in=[90, 3]).net)
    assert choices.weight[1].detach().abs().max().item() == pytest.approx(3**-0.5, rel=0.05)


def test_v_by_hand() -> None:
    value = Value(2, 2, [])
    layer = linear(value.net)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0], [2.0]], [[-1.0], [0.0]]]))
        layer.bias.copy_(torch.tensor([[[0.5]], [[0.0]]]))
    assert value(torch.tensor([[[3.0, 4.0], [7.0, 9.0]]])).tolist() == [[11.5, -7.0]]


# --- centralised ------------------------------------------------------------------------------------------------------
FEATURES, ACTS = [3, 2, 4], [2, 1, 3]
PRESENT = {
    width: torch.arange(max(width)) < torch.tensor(width).unsqueeze(-1) for width in map(tuple, (FEATURES, ACTS))
}


def unequal(*, shared: bool = False, layer_norm: bool = False) -> Critic:
    torch.manual_seed(0)
    return Critic(4, [8], ACTS, discrete=False, centralised=True, fan_in=FEATURES, shared=shared, layer_norm=layer_norm)


def padded_inputs(rows: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(rows, 3, 4, generator=generator) * PRESENT[tuple(FEATURES)]
    return features, (torch.rand(rows, 3, 3, generator=generator) * 2 - 1) * PRESENT[tuple(ACTS)]


def plain(critic: Critic, copy: int, agent: int, columns: list[int]) -> nn.Module:
    """Agent's network as nn.Linear layers that read `columns` only."""
    first, last = (critic.net.stack.layers[at] for at in (0, -1))
    assert isinstance(first, StackedLinear) and isinstance(last, StackedLinear)
    member = copy if critic.net.shared else copy * 3 + agent
    made = nn.Sequential(nn.Linear(len(columns), 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        made[0].weight.copy_(first.weight[member, columns].T)
        made[0].bias.copy_(first.bias[member, 0])
        made[2].weight.copy_(last.weight[member].T)
        made[2].bias.copy_(last.bias[member, 0])
    return made


@pytest.mark.parametrize("shared", [False, True])
def test_a_centralised_critic_is_a_plain_network_on_everybody_and_its_own_action_last(shared: bool) -> None:
    """Built on true entries alone, so that it also shows the padding to be inert."""
    critic = unequal(shared=shared)
    features, actions = padded_inputs()
    q = critic(features, actions)
    for agent in range(3):
        order = [agent, (agent + 1) % 3, (agent + 2) % 3]
        last = [*order[1:], agent]
        read = [features[:, j, : FEATURES[j]] for j in order] + [actions[:, j, : ACTS[j]] for j in last]
        columns = [4 * place + c for place, j in enumerate(order) for c in range(FEATURES[j])]
        columns += [12 + 3 * place + c for place, j in enumerate(last) for c in range(ACTS[j])]
        for copy in range(2):
            expected = plain(critic, copy, agent, columns)(torch.cat(read, dim=1))[:, 0]
            torch.testing.assert_close(q[copy, :, agent], expected)


def test_padding_of_a_centralised_critic_carries_no_gradient() -> None:
    critic = unequal()
    critic(*padded_inputs()).sum().backward()
    first = critic.net.stack.layers[0]
    assert isinstance(first, StackedLinear) and first.weight.grad is not None
    for copy in range(2):
        for agent in range(3):
            order = [agent, (agent + 1) % 3, (agent + 2) % 3]
            acts = PRESENT[tuple(ACTS)][[*order[1:], agent]]
            true = torch.cat([PRESENT[tuple(FEATURES)][order].flatten(), acts.flatten()])
            grad = first.weight.grad[copy * 3 + agent].abs().sum(-1)
            assert grad.ne(0).tolist() == true.tolist()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("centralised", [False, True])
def test_own_replaces_an_agents_own_action_and_nobody_elses(centralised: bool, shared: bool) -> None:
    torch.manual_seed(0)
    critic = Critic(4, [8], ACTS, discrete=False, centralised=centralised, fan_in=FEATURES, shared=shared)
    features, actions = padded_inputs()
    own = padded_inputs(rows=7)[1][1:]
    q = critic(features, actions, own)
    for agent in range(3):
        replaced = actions.clone()
        replaced[:, agent] = own[:, agent]
        torch.testing.assert_close(q[..., agent], critic(features, replaced)[..., agent])
    torch.testing.assert_close(critic(features, actions, actions), critic(features, actions))
    leaf = own.clone().requires_grad_()
    critic(features, actions, leaf)[0, :, 1].sum().backward()
    assert leaf.grad is not None and bool(leaf.grad[:, 1, 0].ne(0).all())
    assert bool(leaf.grad[:, [0, 2]].eq(0).all()), "another agent's own action has no part in Q"


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("centralised", [False, True])
def test_draws_in_front_are_judged_one_by_one(
    centralised: bool, shared: bool, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(critics, "WIDE", 0 if wide else 1000)
    torch.manual_seed(0)
    critic = Critic(4, [8], ACTS, discrete=False, centralised=centralised, fan_in=FEATURES, shared=shared)
    features, actions = padded_inputs()
    draws = torch.stack([padded_inputs(rows=6 + n)[1][n:] for n in range(5)])
    own, joint = critic(features, actions, draws), critic(features, draws)
    assert own.shape == joint.shape == (2, 5, 6, 3)
    for n, draw in enumerate(draws):
        torch.testing.assert_close(own[:, n], critic(features, actions, draw))
        torch.testing.assert_close(joint[:, n], critic(features, draw))
    torch.testing.assert_close(critic(features, actions, draws, copies=1), own[:1])
    joint.square().sum().backward()
    inside = [parameter.grad for parameter in critic.parameters()]
    critic.zero_grad()
    sum(critic(features, draw).square().sum() for draw in draws).backward()
    for gradient, parameter in zip(inside, critic.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_a_shared_centralised_critic_turns_with_the_team() -> None:
    """One set of weights, each agent first in its own view: renaming agents in a circle renames their values."""
    torch.manual_seed(0)
    critic = Critic(3, [8], [2, 2, 2], discrete=False, centralised=True, shared=True)
    features, actions = torch.randn(6, 3, 3), torch.rand(6, 3, 2)
    q, turned = critic(features, actions), critic(features.roll(1, 1), actions.roll(1, 1))
    torch.testing.assert_close(turned, q.roll(1, -1))
    assert not torch.allclose(q[..., 0], q[..., 1])


def test_the_initial_spread_of_a_centralised_critic_counts_everybodys_true_entries() -> None:
    torch.manual_seed(0)
    critic = Critic(90, [], [10, 6], discrete=False, copies=1, centralised=True, fan_in=[90, 3])
    # 1 / sqrt(90 + 10 + 3 + 6) for both
    for agent in range(2):
        assert linear(critic.net).weight[agent].detach().abs().max().item() == pytest.approx(109**-0.5, rel=0.05)


def test_a_critic_of_choices_reads_its_own_agent_alone_even_if_asked_to_be_centralised() -> None:
    torch.manual_seed(0)
    critic = Critic(3, [8], [4, 2], discrete=True, centralised=True)
    assert not critic.centralised
    features, actions = torch.randn(6, 2, 3), torch.randint(0, 2, (6, 2))
    other = torch.stack([features[:, 0], torch.randn(6, 3)], dim=1)
    torch.testing.assert_close(critic(features, actions)[..., 0], critic(other, actions)[..., 0])
