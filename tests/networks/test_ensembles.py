from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from offline_marl.networks.ensembles import AgentMLP, StackedLayerNorm, StackedLinear, StackedMLP


def unstacked(stack: StackedMLP, member: int) -> nn.Sequential:
    """The ordinary network with one member's weights."""
    layers: list[nn.Module] = []
    for layer in stack.layers:
        if isinstance(layer, StackedLinear):
            _, width, out = layer.weight.shape
            plain: nn.Module = nn.Linear(width, out)
            pairs = (layer.weight[member].t(), layer.bias[member, 0])
        elif isinstance(layer, StackedLayerNorm):
            plain = nn.LayerNorm(layer.scale.shape[-1])
            pairs = (layer.scale[member, 0], layer.shift[member, 0])
        else:
            layers.append(type(layer)())
            continue
        with torch.no_grad():
            for parameter, value in zip(plain.parameters(), pairs, strict=True):
                parameter.copy_(value)
        layers.append(plain)
    return nn.Sequential(*layers)


def shake(module: nn.Module) -> None:
    """Move every parameter off its initial value, so that ones and zeros cannot hide a slip."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)


def compare(stack: StackedMLP, members: Sequence[nn.Sequential]) -> None:
    """Gradients of the batched parameters are those of the loop."""
    for at, layer in enumerate(stack.layers):
        if isinstance(layer, StackedLinear | StackedLayerNorm):
            for member, plain in enumerate(members):
                weight, bias = plain[at].parameters()
                ours = [p.grad[member] for p in layer.parameters() if p.grad is not None]
                expected = [weight.grad.t() if weight.grad.dim() == 2 else weight.grad.unsqueeze(0), bias.grad[None]]
                torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_a_batched_layer_equals_a_loop_over_members() -> None:
    torch.manual_seed(0)
    stacked = StackedLinear(3, 5, 4)
    x = torch.randn(3, 7, 5)
    looped = torch.stack([nn.functional.linear(x[m], stacked.weight[m].t(), stacked.bias[m, 0]) for m in range(3)])
    torch.testing.assert_close(stacked(x), looped)


@pytest.mark.parametrize("activation", ["relu", "silu", "tanh"])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("hidden", [[], [6], [6, 9]])
def test_a_batched_network_equals_a_loop_forward_and_backward(hidden, layer_norm, activation) -> None:
    torch.manual_seed(0)
    stack = StackedMLP(3, 5, hidden, 2, layer_norm=layer_norm, activation=activation)
    shake(stack)
    members = [unstacked(stack, member) for member in range(3)]
    x, weight = torch.randn(3, 7, 5), torch.randn(3, 7, 2)
    x_grads = []
    batched = x.clone().requires_grad_()
    ours = stack(batched)
    (ours * weight).sum().backward()
    for member, plain in enumerate(members):
        row = x[member].clone().requires_grad_()
        out = plain(row)
        (out * weight[member]).sum().backward()
        torch.testing.assert_close(ours[member], out, atol=1e-5, rtol=1e-4)
        x_grads.append(row.grad)
    torch.testing.assert_close(batched.grad, torch.stack(x_grads), atol=1e-5, rtol=1e-4)
    compare(stack, members)


@pytest.mark.parametrize("lead", [(7,), (3, 4), ()])
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("shared", [False, True])
def test_a_network_per_agent_equals_a_loop_over_copies_and_agents(
    shared: bool, copies: int, lead: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    net = AgentMLP(3, 5, [6], 2, copies=copies, shared=shared)
    members = [unstacked(net.stack, member) for member in range(copies if shared else 3 * copies)]
    x = torch.randn(*lead, 3, 5)
    weight = torch.randn(copies, *lead, 3, 2)
    out = net(x)
    assert out.shape == (copies, *lead, 3, 2)
    (out * weight).sum().backward()
    for copy in range(copies):
        for agent in range(3):
            plain = members[copy if shared else copy * 3 + agent]
            expected = plain(x[..., agent, :])
            torch.testing.assert_close(out[copy, ..., agent, :], expected, atol=1e-5, rtol=1e-4)
            (expected * weight[copy, ..., agent, :]).sum().backward()
    compare(net.stack, members)


def test_an_agents_output_depends_on_its_own_input_alone() -> None:
    net = AgentMLP(3, 5, [6], 2, copies=2)
    x = torch.randn(4, 3, 5)
    other = x.clone()
    other[:, 1] += 1.0
    changed = (net(x) != net(other)).flatten(3).any(-1).any(0).any(0)
    assert changed.tolist() == [False, True, False]


def test_padded_inputs_change_nothing_and_get_no_gradient() -> None:
    torch.manual_seed(0)
    widths = [5, 2, 3]
    net = AgentMLP(3, 5, [6], 1, copies=2, fan_in=widths)
    x = torch.randn(8, 3, 5)
    for agent, width in enumerate(widths):
        x[:, agent, width:] = 0.0
    out = net(x)
    out.square().sum().backward()
    first = net.stack.layers[0]
    assert isinstance(first, StackedLinear) and first.weight.grad is not None
    with torch.no_grad():
        for member, width in enumerate(widths * 2):
            assert bool(first.weight.grad[member, width:].eq(0).all())
            assert bool(first.weight.grad[member, :width].ne(0).any())
            first.weight[member, width:] = 1e6
    assert torch.equal(net(x), out)


def spread(weights: Tensor) -> float:
    return float(weights.detach().abs().max())


def test_the_initial_spread_is_that_of_nn_linear_for_the_true_fan_in() -> None:
    torch.manual_seed(0)
    layer = StackedLinear(2, 100, 400, fan_in=[100, 4])
    # Uniform in +-1/sqrt(fan_in): 1/10 and 1/2; its deviation is the bound over sqrt(3).
    for member, bound in enumerate((0.1, 0.5)):
        for parameter in (layer.weight[member], layer.bias[member]):
            assert bound * 0.95 < spread(parameter) <= bound
        assert layer.weight[member].std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    plain = nn.Linear(100, 400)
    assert spread(plain.weight) == pytest.approx(spread(layer.weight[0]), rel=0.01)


def test_only_the_first_layer_is_narrowed_and_every_copy_alike() -> None:
    torch.manual_seed(0)
    net = AgentMLP(2, 50, [100], 300, copies=2, fan_in=[50, 2])
    first, last = net.stack.layers[0], net.stack.layers[2]
    assert isinstance(first, StackedLinear) and isinstance(last, StackedLinear)
    bounds = [spread(first.weight[member]) for member in range(4)]
    assert bounds == pytest.approx([50**-0.5, 2**-0.5] * 2, rel=0.02)
    assert [spread(last.weight[member]) for member in range(4)] == pytest.approx([0.1] * 4, rel=0.02)


def test_shared_weights_are_spread_for_the_widest_agent() -> None:
    torch.manual_seed(0)
    net = AgentMLP(2, 50, [100], 3, shared=True, fan_in=[50, 2])
    first = net.stack.layers[0]
    assert isinstance(first, StackedLinear)
    assert first.weight.shape == (1, 50, 100) and spread(first.weight) == pytest.approx(50**-0.5, rel=0.02)


def test_members_begin_different() -> None:
    layer = StackedLinear(3, 5, 4)
    assert not torch.equal(layer.weight[0], layer.weight[1]) and not torch.equal(layer.weight[1], layer.weight[2])


def test_the_activation_is_the_one_that_was_named() -> None:
    torch.manual_seed(0)
    for name, function in (("relu", torch.relu), ("silu", nn.functional.silu), ("tanh", torch.tanh)):
        net = AgentMLP(2, 3, [4], 1, activation=name)  # type: ignore[arg-type]
        first, _, last = net.stack.layers
        x = torch.randn(5, 2, 3)
        torch.testing.assert_close(net(x)[0], last(function(first(x.transpose(0, 1)))).transpose(0, 1))


def test_fewer_rows_of_members_are_served_by_the_first_ones() -> None:
    torch.manual_seed(0)
    layer, x = StackedLinear(3, 5, 4), torch.randn(3, 7, 5)
    torch.testing.assert_close(layer(x[:2]), layer(x)[:2])
