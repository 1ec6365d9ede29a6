from __future__ import annotations

import math

import pytest
import torch

from offline_marl.core.axes import AxisError
from offline_marl.losses import conservative


# --- the soft maximum over choices ------------------------------------------------------------------------------------
def test_soft_maximum_by_hand() -> None:
    q = torch.tensor([[0.0, math.log(3.0)], [math.log(2.0), math.log(2.0)]])
    # log(1 + 3) = log 4; log(2 + 2) = log 4
    torch.testing.assert_close(conservative.soft_maximum(q, 1.0), torch.tensor([math.log(4.0)] * 2))
    # T = 2: 2 log(e^0 + e^(2 log 3 / 2)) = 2 log 4; T = .5: .5 log(e^0 + e^(2 log 3)) = .5 log 10
    torch.testing.assert_close(conservative.soft_maximum(2 * q[:1], 2.0), torch.tensor([2 * math.log(4.0)]))
    torch.testing.assert_close(conservative.soft_maximum(q[:1], 0.5), torch.tensor([0.5 * math.log(10.0)]))


def test_a_choice_that_cannot_be_made_has_no_part_in_the_soft_maximum() -> None:
    q = torch.tensor([[1.0, -torch.inf, 2.0]], requires_grad=True)
    level = conservative.soft_maximum(q, 0.7)
    torch.testing.assert_close(level, conservative.soft_maximum(torch.tensor([[1.0, 2.0]]), 0.7))
    level.sum().backward()
    assert q.grad is not None and q.grad[0, 1] == 0 and bool(torch.isfinite(q.grad).all())


def test_the_soft_maximum_tends_to_the_largest_value_and_never_lies_below_it() -> None:
    q = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(conservative.soft_maximum(q, 1e-3), q.amax(-1), rtol=0, atol=2e-3)
    for temperature in (0.1, 1.0, 10.0):
        level = conservative.soft_maximum(q, temperature)
        assert bool((level >= q.amax(-1)).all())
        assert bool((level <= q.amax(-1) + temperature * math.log(6) + 1e-5).all())


def test_the_slope_of_the_soft_maximum_is_the_softmax() -> None:
    q = torch.tensor([[0.0, math.log(3.0)]], requires_grad=True)
    conservative.soft_maximum(q, 1.0).sum().backward()
    torch.testing.assert_close(q.grad, torch.tensor([[0.25, 0.75]]))  # 1 / 4 and 3 / 4


# --- the soft maximum over an integral --------------------------------------------------------------------------------
def test_sampled_soft_maximum_by_hand() -> None:
    q = torch.tensor([[math.log(2.0), math.log(8.0)]])
    log_density = torch.tensor([[0.0, math.log(2.0)]])
    # e^Q / mu: 2 / 1 = 2 and 8 / 2 = 4; their mean is 3
    torch.testing.assert_close(conservative.sampled_soft_maximum(q, log_density, 1.0), torch.tensor([math.log(3.0)]))
    # T = 2: e^(Q / 2) / mu: sqrt 2 and sqrt 8 / 2 = sqrt 2; 2 log sqrt 2 = log 2
    torch.testing.assert_close(conservative.sampled_soft_maximum(q, log_density, 2.0), torch.tensor([math.log(2.0)]))


def test_the_correction_is_by_the_log_of_the_density() -> None:
    # Any number of draws of a constant Q = 5, uniform in a square of side 2: log(e^5 * 4) = 5 + log 4.
    q, log_density = torch.full((3, 7), 5.0), torch.full((3, 7), -math.log(4.0))
    expected = torch.full((3,), 5.0 + math.log(4.0))
    torch.testing.assert_close(conservative.sampled_soft_maximum(q, log_density, 1.0), expected)


def bumpy(actions: torch.Tensor) -> torch.Tensor:
    return torch.sin(3 * actions[..., 0]) - actions.square().sum(-1) + 0.5 * actions.prod(-1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("width", [1, 2])
def test_uniform_draws_converge_to_the_integral(temperature: float, width: int) -> None:
    side = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    grid = torch.cartesian_prod(*[side] * width).view(-1, width)
    cell = (side[1] - side[0]) ** width
    weights = torch.where((grid.abs() == 1), 0.5, 1.0).prod(-1)  # the trapezoid rule halves the borders
    exact = temperature * torch.log(((bumpy(grid) / temperature).exp() * weights).sum() * cell)
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(1, 200_000, width, generator=generator, dtype=torch.float64) * 2 - 1
    log_density = torch.full(draws.shape[:-1], -width * math.log(2.0), dtype=torch.float64)
    found = conservative.sampled_soft_maximum(bumpy(draws), log_density, temperature)
    assert found.item() == pytest.approx(exact.item(), abs=0.02 * max(1.0, temperature))


def test_draws_from_another_density_converge_to_the_same_integral() -> None:
    # int exp(-a^2 / T) da = sqrt(pi T), from normal draws: log mu = -a^2 / 2 - log sqrt(2 pi)
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(1, 400_000, generator=generator, dtype=torch.float64)
    log_density = -0.5 * draws.square() - 0.5 * math.log(2 * math.pi)
    for temperature in (0.5, 1.0):
        exact = temperature * 0.5 * math.log(math.pi * temperature)
        found = conservative.sampled_soft_maximum(-draws.square(), log_density, temperature)
        assert found.item() == pytest.approx(exact, abs=0.01)


def test_a_level_for_each_density_is_refused() -> None:
    with pytest.raises(AxisError, match="sampled_soft_maximum"):
        conservative.sampled_soft_maximum(torch.zeros(2, 3, 5), torch.zeros(3, 5), 1.0)


# --- elites -----------------------------------------------------------------------------------------------------------
def test_elites_by_hand() -> None:
    samples = torch.tensor([[[0.1, 1.0], [0.2, 2.0], [0.3, 3.0]], [[0.4, 4.0], [0.5, 5.0], [0.6, 6.0]]])
    q = torch.tensor([[5.0, 7.0, 6.0], [-1.0, -3.0, -2.0]])
    # first row: 7 (the second) before 6 (the third); second row: -1 (the first) before -2 (the third)
    kept, kept_q = conservative.elites(samples, q, 2)
    torch.testing.assert_close(kept, torch.tensor([[[0.2, 2.0], [0.3, 3.0]], [[0.4, 4.0], [0.6, 6.0]]]))
    assert kept_q.tolist() == [[7.0, 6.0], [-1.0, -2.0]]


@pytest.mark.parametrize("count", [1, 4, 9])
def test_elites_equal_a_sort_of_each_row(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    samples, q = torch.randn(5, 3, 9, 2, generator=generator), torch.randn(5, 3, 9, generator=generator)
    kept, kept_q = conservative.elites(samples, q, count)
    assert kept.shape == (5, 3, count, 2) and kept_q.shape == (5, 3, count)
    for row in range(5):
        for agent in range(3):
            ranked = sorted(range(9), key=lambda draw: -float(q[row, agent, draw]))[:count]
            assert kept[row, agent].tolist() == [samples[row, agent, draw].tolist() for draw in ranked]
            assert kept_q[row, agent].tolist() == [float(q[row, agent, draw]) for draw in ranked]
