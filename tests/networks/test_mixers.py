from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from offline_marl.networks.ensembles import StackedLinear
from offline_marl.networks.mixers import Mixer, MixerKind, MonotonicMixer


def linear_mixer(kind: MixerKind) -> Mixer:
    """Two agents, x of width 2, no hidden layer: w_0 = 2 x_0, w_1 = -x_1, b = x_0 + .5."""
    mixer = Mixer(kind, 2, 2, [])
    assert mixer.net is not None
    layer = mixer.net.layers[0]
    assert isinstance(layer, StackedLinear)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[2.0, 0.0, 1.0], [0.0, -1.0, 0.0]]]))
        layer.bias.copy_(torch.tensor([[[0.0, 0.0, 0.5]]]))
    return mixer


VALUES = torch.tensor([[[10.0, 4.0], [1.0, 2.0]]])
X = torch.tensor([[3.0, 5.0], [-1.0, 2.0]])


def test_unconstrained_by_hand() -> None:
    # 6 * 10 - 5 * 4 + 3.5 = 43.5; -2 * 1 - 2 * 2 - .5 = -6.5
    assert linear_mixer("unconstrained")(VALUES, X).tolist() == [[43.5, -6.5]]


def test_monotonic_by_hand() -> None:
    # 6 * 10 + 5 * 4 + 3.5 = 83.5; 2 * 1 + 2 * 2 - .5 = 5.5
    assert linear_mixer("monotonic")(VALUES, X).tolist() == [[83.5, 5.5]]


def test_vdn_sums_and_has_no_parameters() -> None:
    mixer = Mixer("vdn", 2, 2, [8], copies=2)
    assert mixer(VALUES, X).tolist() == [[14.0, 3.0]]
    assert list(mixer.parameters()) == []


def slopes(kind: MixerKind) -> torch.Tensor:
    torch.manual_seed(0)
    mixer = Mixer(kind, 3, 4, [16, 16], copies=2)
    values = torch.randn(2, 200, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(mixer(values, torch.randn(200, 4) * 3).sum(), values)
    return slope


def test_monotonic_never_lowers_the_team_when_an_agent_rises_and_unconstrained_may() -> None:
    assert bool((slopes("monotonic") >= 0).all()) and bool((slopes("monotonic") > 0).any())
    assert bool((slopes("unconstrained") < 0).any())
    assert bool((slopes("vdn") == 1).all())


@pytest.mark.parametrize("kind", ["unconstrained", "monotonic"])
def test_weights_and_bias_learn(kind: MixerKind) -> None:
    torch.manual_seed(0)
    mixer = Mixer(kind, 3, 4, [8], copies=2)
    mixer(torch.randn(2, 10, 3), torch.randn(10, 4)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.ne(0).any()) for p in mixer.parameters())


def test_copies_mix_apart() -> None:
    torch.manual_seed(0)
    mixer = Mixer("unconstrained", 3, 4, [8], copies=2)
    values, x = torch.randn(2, 5, 3, requires_grad=True), torch.randn(5, 4)
    total = mixer(values, x)
    assert total.shape == (2, 5)
    (slope,) = torch.autograd.grad(total[0].sum(), values)
    assert bool(slope[0].ne(0).any()) and bool(slope[1].eq(0).all())
    same = mixer(values[:1].expand(2, -1, -1), x)
    assert not torch.allclose(same[0], same[1])


@pytest.mark.parametrize("kind", ["unconstrained", "monotonic", "vdn"])
def test_coefficients_are_the_slopes_of_the_teams_value_and_what_is_left(kind: MixerKind) -> None:
    torch.manual_seed(0)
    mixer, x = Mixer(kind, 3, 4, [16]), torch.randn(20, 4) * 3
    values = torch.randn(1, 20, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(mixer(values, x).sum(), values)
    weights, bias = mixer.coefficients(x)
    torch.testing.assert_close(weights, slope[0])
    torch.testing.assert_close(bias, mixer(torch.zeros_like(values), x)[0])


# --- QMIX's two layers ------------------------------------------------------------------------------------------------


def mixing(hidden: int = 0) -> MonotonicMixer:
    torch.manual_seed(0)
    return MonotonicMixer(2, 1, 2, hidden)


def test_two_layers_by_hand() -> None:
    mixer = mixing()
    assert isinstance(mixer.first_weights, nn.Linear) and isinstance(mixer.last_weights, nn.Linear)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.zero_()
        # |W_1| = (1, 2; 1, 0) of agents by units, b_1 = (-1, -6), |w_2| = (3, 2), b_2 = relu(x) - 1, at x = 1
        mixer.first_weights.weight.copy_(torch.tensor([[1.0], [-2.0], [-1.0], [0.0]]))
        mixer.first_bias.bias.copy_(torch.tensor([-1.0, -6.0]))
        mixer.last_weights.bias.copy_(torch.tensor([-3.0, 2.0]))
        mixer.last_bias[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        mixer.last_bias[2].weight.copy_(torch.tensor([[1.0, 0.0]]))
        mixer.last_bias[2].bias.fill_(-1.0)
    found = mixer(torch.tensor([[2.0, 4.0]]), torch.ones(1, 1))
    # 2 * 1 + 4 * 1 - 1 = 5; 2 * 2 - 6 = -2, elu exp(-2) - 1; 3 * 5 + 2 (exp(-2) - 1) + 1 - 1
    torch.testing.assert_close(found, torch.tensor([15 + 2 * (math.exp(-2) - 1)]))


@pytest.mark.parametrize("hidden", [0, 8])
def test_two_layers_never_lower_the_team_when_an_agent_rises(hidden: int) -> None:
    torch.manual_seed(0)
    mixer = MonotonicMixer(3, 4, 8, hidden)
    values = 5 * torch.randn(200, 3)
    values.requires_grad_()
    (slope,) = torch.autograd.grad(mixer(values, torch.randn(200, 4) * 3).sum(), values)
    assert bool((slope >= 0).all()) and bool((slope > 0).any())


def test_two_layers_mix_draws_of_each_row_with_that_row_s_weights() -> None:
    mixer, x = mixing(4), torch.randn(5, 3, 1)
    draws = torch.randn(7, 5, 3, 2)
    found = mixer(draws, x)
    assert found.shape == (7, 5, 3)
    torch.testing.assert_close(found[4, 2], mixer(draws[4, 2], x[2]))


def test_two_layers_heed_no_absent_agent() -> None:
    mixer, x = mixing(4), torch.randn(3, 1)
    here = torch.tensor([[True, False]]).expand(3, -1)
    torch.testing.assert_close(
        mixer(torch.tensor([[2.0, 9.0]] * 3), x, here), mixer(torch.tensor([[2.0, 0.0]] * 3), x, here)
    )
