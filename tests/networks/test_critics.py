from __future__ import annotations

import pytest
import torch

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
