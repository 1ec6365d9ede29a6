from __future__ import annotations

import pytest
import torch

from offline_marl.core.axes import AxisError
from offline_marl.losses import bellman


def test_td_target_by_hand() -> None:
    rewards = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    terminations = torch.tensor([[False, True], [False, True]])
    next_v = torch.tensor([[10.0, 10.0], [-4.0, 7.0]])
    # 1 + .9 * 10 = 10; terminated: -2; .5 - .9 * 4 = -3.1; terminated: 3
    expected = torch.tensor([[10.0, -2.0], [-3.1, 3.0]])
    torch.testing.assert_close(bellman.td_target(rewards, terminations, next_v, 0.9), expected)


def test_truncation_keeps_the_bootstrap() -> None:
    # A step that only the clock ended has terminations false, whatever its truncation says: 1 + .5 * 8 = 5.
    target = bellman.td_target(torch.tensor([[1.0]]), torch.tensor([[False]]), torch.tensor([[8.0]]), 0.5)
    assert target.item() == 5.0


def test_a_value_behind_a_termination_never_counts_whatever_it_is() -> None:
    next_v = torch.tensor([[float("nan")], [float("inf")]])
    target = bellman.td_target(torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool), next_v, 0.99)
    assert target.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(("gamma", "expected"), [(0.0, 2.0), (1.0, 9.0)])
def test_gamma_weighs_the_future(gamma: float, expected: float) -> None:
    assert bellman.td_target(torch.tensor([2.0]), torch.tensor([False]), torch.tensor([7.0]), gamma).item() == expected


def test_expectile_by_hand() -> None:
    error = torch.tensor([[2.0, -2.0], [0.5, 0.0]])
    # u >= 0 weighs .7, u < 0 weighs .3: .7 * 4 = 2.8; .3 * 4 = 1.2; .7 * .25 = .175; 0
    expected = torch.tensor([[2.8, 1.2], [0.175, 0.0]])
    torch.testing.assert_close(bellman.expectile(error, 0.7), expected)


def test_the_middle_expectile_is_half_the_squared_error() -> None:
    error = torch.tensor([3.0, -3.0])
    assert bellman.expectile(error, 0.5).tolist() == [4.5, 4.5]


def test_expectile_slopes_by_hand() -> None:
    error = torch.tensor([2.0, -2.0], requires_grad=True)
    bellman.expectile(error, 0.9).sum().backward()
    # 2 * .9 * 2 = 3.6; 2 * .1 * -2 = -.4
    torch.testing.assert_close(error.grad, torch.tensor([3.6, -0.4]))


def test_the_expectile_of_numbers_lies_where_the_loss_is_least() -> None:
    # Of {0, 1}, the .7 expectile v solves .7 (1 - v) = .3 v: v = .7.
    data = torch.tensor([0.0, 1.0])
    guesses = torch.linspace(0, 1, 101)
    losses = bellman.expectile(data - guesses.unsqueeze(-1), 0.7).sum(-1)
    assert guesses[losses.argmin()].item() == pytest.approx(0.7)


def test_a_trailing_one_is_refused() -> None:
    rewards, terminations = torch.zeros(4, 2), torch.zeros(4, 2, dtype=torch.bool)
    with pytest.raises(AxisError, match="td_target"):
        bellman.td_target(rewards, terminations, torch.zeros(4, 2, 1), 0.9)
    with pytest.raises(AxisError, match="td_target"):
        bellman.td_target(rewards, terminations, torch.zeros(4, 1), 0.9)


def test_segments_pass_as_transitions_do() -> None:
    shape = (3, 5, 2)
    target = bellman.td_target(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool), torch.ones(shape), 0.5)
    assert target.shape == shape and bool((target == 0.5).all())


def test_mean_deviation_is_scale_equivariant_and_worked_by_hand() -> None:
    # mean 2.5, deviations 1.5, 0.5, 0.5, 1.5: their mean is 1
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]], requires_grad=True)
    found = bellman.mean_deviation(values)
    assert found.tolist() == [[1.0], [10.0]] and not found.requires_grad
    assert bellman.mean_deviation(torch.zeros(3)).tolist() == pytest.approx([1e-6])


def test_n_step_target_by_hand():
    """gamma 1/2. First: 1 + .5 (2 + [3 + .5 (5 + [4 + .5 * 8])]); then cut after the first, over after the second."""
    rewards = torch.tensor([[1.0, 3.0, 4.0]] * 3).unsqueeze(-1)
    over = torch.zeros(3, 3, 1, dtype=torch.bool)
    over[2, 1] = True
    follows = torch.tensor([[True, True, False], [False, True, False], [True, False, False]]).unsqueeze(-1)
    next_v = torch.tensor([[6.0, 7.0, 8.0]] * 3).unsqueeze(-1)
    bonus = torch.tensor([[2.0, 5.0, 9.0]] * 3).unsqueeze(-1)
    found = bellman.n_step_target(rewards, over, follows, next_v, bonus, 0.5)
    assert found.squeeze(-1).tolist() == [1 + 0.5 * (2 + 3 + 0.5 * (5 + 4 + 4)), 1 + 0.5 * 6, 1 + 0.5 * (2 + 3)]
