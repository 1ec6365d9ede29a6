from __future__ import annotations

import math

import pytest
import torch

from offline_marl.core.axes import AxisError
from offline_marl.losses import implicit


def test_exponents_by_hand() -> None:
    q, v = torch.tensor([[3.0, 1.0], [90.0, 0.0]]), torch.tensor([[1.0, 2.0], [0.0, 30.0]])
    # 2 (3 - 1) / 4 = 1; 1 (1 - 2) / 4 = -.25; 2 * 90 / 4 = 45 and -30 / 4 = -7.5 are held within 5
    z = implicit.exponents(q, v, torch.tensor([[2.0, 1.0]] * 2), 4.0, 5.0)
    assert z.tolist() == [[1.0, -0.25], [5.0, -5.0]]


def test_exponential_value_by_hand() -> None:
    z = torch.tensor([[math.log(2.0), 0.0]])
    # M = ln 2: 2 / 2 + .5 * 3 = 2.5; 1 / 2 + .5 * (-1) = 0
    found = implicit.exponential_value(z, torch.tensor([[3.0, -1.0]]), None)
    torch.testing.assert_close(found, torch.tensor([[2.5, 0.0]]))


def test_small_exponents_are_divided_by_one_over_e_at_least() -> None:
    z = torch.tensor([[-2.0, -3.0]])
    # M = -1: exp(-2 + 1) + e * .5, exp(-3 + 1)
    expected = torch.tensor([[math.exp(-1) + 0.5 * math.e, math.exp(-2)]])
    torch.testing.assert_close(implicit.exponential_value(z, torch.tensor([[0.5, 0.0]]), None), expected)


def test_what_does_not_count_sets_no_level() -> None:
    z, scaled = torch.tensor([[0.0, 9.0]]), torch.zeros(1, 2)
    counted = implicit.exponential_value(z, scaled, torch.tensor([[True, False]]))
    assert float(counted[0, 0]) == 1.0
    none = implicit.exponential_value(z, scaled, torch.zeros(1, 2, dtype=torch.bool))
    assert bool(none.isfinite().all())


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_the_least_value_is_the_soft_maximum_of_the_datas_q(weight: float) -> None:
    """V = (alpha / w) log mean exp(w Q / alpha), where the mean of exp(z) is 1 (the paper's closed form)."""
    q, alpha = torch.tensor([[0.0], [1.0], [4.0]], dtype=torch.float64), 2.0
    weights = torch.full_like(q, weight)
    best = alpha / weight * torch.log(torch.exp(weight * q / alpha).mean())

    def slope(at: torch.Tensor) -> float:
        v = at.clone().requires_grad_()
        z = implicit.exponents(q, v.expand_as(q), weights, alpha, 10.0)
        (found,) = torch.autograd.grad(implicit.exponential_value(z, weights * v / alpha, None).mean(), v)
        return float(found)

    assert slope(best) == pytest.approx(0.0, abs=1e-12)
    assert slope(best - 0.01) < -1e-4 and slope(best + 0.01) > 1e-4
    z = implicit.exponents(q, best.expand_as(q), weights, alpha, 10.0)
    assert float(z.exp().mean()) == pytest.approx(1.0)


def test_the_slope_of_the_value_is_that_of_the_papers_objective() -> None:
    """d/dV of exp(z) + w V / alpha is (1 - exp(z)) w / alpha; dividing by e^M changes its length alone."""
    v = torch.tensor([[1.0, -2.0]], requires_grad=True)
    q, weights = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.5, 2.0]])
    z = implicit.exponents(q, v, weights, 4.0, 10.0)
    (slope,) = torch.autograd.grad(implicit.exponential_value(z, weights * v / 4.0, None).sum(), v)
    # z = .125 and 1, so M = 1
    expected = [(1 - math.exp(0.125)) * 0.125 / math.e, (1 - math.e) * 0.5 / math.e]
    torch.testing.assert_close(slope, torch.tensor([expected]))


@pytest.mark.parametrize("q", [1e4, -1e4])
def test_a_value_far_from_its_q_comes_back(q: float) -> None:
    v = torch.zeros(1, 1, requires_grad=True)
    one = torch.ones(1, 1)
    z = implicit.exponents(torch.full((1, 1), q), v, one, 1.0, 10.0)
    (slope,) = torch.autograd.grad(implicit.exponential_value(z, v, None).sum(), v)
    assert float(slope) * q < 0, "a step down the slope leads towards Q"
    assert bool(slope.isfinite().all())


def test_one_weight_for_a_team_must_be_spread_over_its_agents_by_the_caller() -> None:
    with pytest.raises(AxisError, match="exponents"):
        implicit.exponents(torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(4, 1), 1.0, 10.0)
