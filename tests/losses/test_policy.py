from __future__ import annotations

import math

import pytest
import torch

from offline_marl.core.axes import AxisError
from offline_marl.losses import policy


def test_advantage_weights_by_hand() -> None:
    advantages = torch.tensor([[0.0, 1.0], [-1.0, 2.0]])
    # exp(0) = 1; exp(3) = 20.0855; exp(-3) = .0497871; exp(6) = 403.4 is clamped at 100
    expected = torch.tensor([[1.0, 20.0855369], [0.0497871, 100.0]])
    torch.testing.assert_close(policy.advantage_weights(advantages, 3.0, 100.0), expected)


def test_temperature_zero_weighs_every_action_alike() -> None:
    assert policy.advantage_weights(torch.tensor([-50.0, 0.0, 50.0]), 0.0, 100.0).tolist() == [1.0, 1.0, 1.0]


def test_an_overflowing_advantage_weighs_the_ceiling() -> None:
    weights = policy.advantage_weights(torch.tensor([1e6, -1e6]), 3.0, 100.0)
    assert weights.tolist() == [100.0, 0.0]


def test_weighted_bc_by_hand() -> None:
    log_probs = torch.tensor([[math.log(0.5), math.log(0.25)]])
    weights = torch.tensor([[2.0, 0.5]])
    # -2 ln .5 = 1.386294; -.5 ln .25 = .693147
    torch.testing.assert_close(policy.weighted_bc(log_probs, weights), torch.tensor([[1.386294, 0.693147]]))


def test_weighted_bc_climbs_the_likelihood_in_proportion_to_the_weight() -> None:
    log_probs = torch.tensor([-1.0, -1.0], requires_grad=True)
    policy.weighted_bc(log_probs, torch.tensor([3.0, 0.0])).sum().backward()
    assert log_probs.grad is not None and log_probs.grad.tolist() == [-3.0, 0.0]


def test_one_weight_for_a_team_must_be_spread_over_its_agents_by_the_caller() -> None:
    with pytest.raises(AxisError, match="weighted_bc"):
        policy.weighted_bc(torch.zeros(4, 2), torch.zeros(4, 1))
