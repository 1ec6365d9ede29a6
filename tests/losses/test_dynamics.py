from __future__ import annotations

import math

import pytest
import torch

from offline_marl.core.axes import AxisError
from offline_marl.losses import dynamics

HALF_LOG_TAU = 0.9189385332046727


def test_gaussian_nll_by_hand() -> None:
    mean, target = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 5.0]])
    log_std = torch.tensor([[0.0, math.log(2.0)]])
    # 1^2 / 2 + 0 = .5; (4 / 2)^2 / 2 + log 2 = 2.6931: the log of the deviation, not of the variance
    expected = torch.tensor([[0.5, 2.0 + math.log(2.0)]]) + HALF_LOG_TAU
    torch.testing.assert_close(dynamics.gaussian_nll(mean, log_std, target), expected)


def test_gaussian_nll_is_least_at_the_deviation_of_the_errors() -> None:
    errors = torch.tensor([-3.0, -1.0, 1.0, 3.0])  # root mean square: sqrt 5
    guesses = torch.linspace(0.5, 4.0, 351)
    losses = dynamics.gaussian_nll(
        torch.zeros(351, 4), guesses.log().unsqueeze(-1).expand(-1, 4), errors.expand(351, 4)
    )
    assert guesses[losses.mean(-1).argmin()].item() == pytest.approx(math.sqrt(5), abs=0.01)


def test_a_density_integrates_to_one() -> None:
    grid = torch.linspace(-20, 20, 40_001, dtype=torch.float64).unsqueeze(-1)
    density = torch.exp(-dynamics.gaussian_nll(torch.full_like(grid, 0.7), torch.full_like(grid, 0.3), grid))
    assert torch.trapezoid(density.squeeze(-1), grid.squeeze(-1)).item() == pytest.approx(1.0, abs=1e-6)
    rows = len(grid)
    mixture = dynamics.mixture_nll(
        torch.tensor([0.25, 0.75], dtype=torch.float64).log().expand(rows, 2),
        torch.tensor([[-1.0], [2.0]], dtype=torch.float64).expand(rows, 2, 1),
        torch.tensor([[0.1], [-0.5]], dtype=torch.float64).expand(rows, 2, 1),
        grid,
    )
    assert torch.trapezoid(torch.exp(-mixture), grid.squeeze(-1)).item() == pytest.approx(1.0, abs=1e-6)


def test_mixture_nll_by_hand() -> None:
    weights = torch.tensor([[0.25, 0.75]])
    mean = torch.tensor([[[0.0, 0.0], [1.0, 2.0]]])
    target = torch.tensor([[1.0, 0.0]])
    # densities of both numbers at once: component 0 exp(-1/2) / tau, component 1 exp(-2) / tau
    likelihood = (0.25 * math.exp(-0.5) + 0.75 * math.exp(-2.0)) / (2 * math.pi)
    found = dynamics.mixture_nll(weights.log(), mean, torch.zeros(1, 2, 2), target)
    assert found.item() == pytest.approx(-math.log(likelihood), abs=1e-6)


def test_a_mixture_of_one_is_a_normal() -> None:
    mean, log_std, target = torch.randn(5, 1, 3), torch.randn(5, 1, 3), torch.randn(5, 3)
    expected = dynamics.gaussian_nll(mean[:, 0], log_std[:, 0], target).sum(-1)
    torch.testing.assert_close(dynamics.mixture_nll(torch.zeros(5, 1), mean, log_std, target), expected)


def test_mixture_moments_by_hand() -> None:
    # weights .25 and .75, means 0 and 4, deviations 1 and 2: mean 3; variance .25 (1 + 9) + .75 (4 + 1) = 6.25
    mean, std = dynamics.mixture_moments(
        torch.tensor([[0.25, 0.75]]), torch.tensor([[[0.0], [4.0]]]), torch.tensor([[[1.0], [2.0]]])
    )
    assert mean.tolist() == [[3.0]] and std.tolist() == [[2.5]]


def test_squared_error_by_hand() -> None:
    assert dynamics.squared_error(torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.0])).tolist() == [9.0, 4.0]


def test_kl_normal_by_hand() -> None:
    # (4 + 1 - 1) / 2 - log 2 = 1.3069 and (1 + 9 - 1) / 2 = 4.5
    found = dynamics.kl_normal(torch.tensor([[1.0, 3.0]]), torch.tensor([[math.log(2.0), 0.0]]))
    assert found.tolist() == [pytest.approx(2.0 - math.log(2.0) + 4.5)]
    assert dynamics.kl_normal(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0.0


def test_termination_nll_by_hand() -> None:
    # p = 3/4 at logit log 3: -log 3/4 if it ended, -log 1/4 if not
    logits = torch.full((2,), math.log(3.0))
    found = dynamics.termination_nll(logits, torch.tensor([True, False]))
    torch.testing.assert_close(found, torch.tensor([-math.log(0.75), -math.log(0.25)]))
    assert dynamics.termination_nll(torch.tensor([200.0]), torch.tensor([False])).item() == pytest.approx(200.0)


def test_a_soft_bound_keeps_zero_stays_inside_and_never_loses_its_gradient() -> None:
    raw = torch.tensor([0.0, -15.0, 8.0, 1.0, -1.0], requires_grad=True)
    bounded = dynamics.soft_bound(raw, -5.0, 2.0)
    # at raw 1: -5 + 7 / (1 + .4 / e)
    assert bounded.tolist()[0] == pytest.approx(0.0, abs=1e-6)
    assert bounded.tolist()[3] == pytest.approx(-5.0 + 7.0 / (1.0 + 0.4 * math.exp(-1.0)), abs=1e-5)
    assert bool((bounded > -5.0).all()) and bool((bounded < 2.0).all())
    assert bool((bounded.detach().sort().indices == raw.detach().sort().indices).all())
    bounded.sum().backward()
    assert raw.grad is not None and bool((raw.grad > 0).all())


def test_axes_are_checked() -> None:
    with pytest.raises(AxisError, match="gaussian_nll"):
        dynamics.gaussian_nll(torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(4, 1))
    with pytest.raises(AxisError, match="mixture_nll"):
        dynamics.mixture_nll(torch.zeros(4, 3), torch.zeros(4, 3, 2), torch.zeros(4, 3, 2), torch.zeros(4, 3))


def test_weighted_likelihood_worked_by_hand():
    mean, log_std, target = torch.tensor([1.0]), torch.tensor([math.log(2.0)]), torch.tensor([4.0])
    plain = 0.5 * (3 / 2) ** 2 + math.log(2) + 0.5 * math.log(2 * math.pi)
    for beta, weight in ((0.0, 1.0), (0.5, 2.0), (1.0, 4.0)):
        torch.testing.assert_close(
            dynamics.weighted_nll(mean, log_std, target, beta), torch.tensor([plain * weight]), rtol=1e-6, atol=0
        )


def test_at_beta_one_a_mean_has_the_slope_of_least_squares_and_a_deviation_its_own():
    mean = torch.tensor([1.0, 1.0], requires_grad=True)
    log_std = torch.tensor([math.log(0.1), math.log(3.0)], requires_grad=True)
    dynamics.weighted_nll(mean, log_std, torch.tensor([4.0, 4.0]), 1.0).sum().backward()
    torch.testing.assert_close(mean.grad, torch.tensor([-3.0, -3.0]))
    # std^2 (1 - (error / std)^2): the weight itself is held fixed.
    torch.testing.assert_close(log_std.grad, torch.tensor([0.01 - 9.0, 9.0 - 9.0]), atol=1e-5, rtol=1e-5)
