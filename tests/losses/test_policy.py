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


# --- PPO ------------------------------------------------------------------------------------------------------------


def test_ppo_clip_by_hand() -> None:
    log_ratios = torch.tensor([1.5, 1.1, 0.5, 1.5, 0.9, 0.5]).log()
    advantages = torch.tensor([2.0, 2.0, 2.0, -2.0, -2.0, -2.0])
    # Of a good action min(1.5 * 2, 1.2 * 2) = 2.4, min(1.1 * 2, 1.1 * 2) = 2.2, min(.5 * 2, .8 * 2) = 1; of a bad one
    # min(-3, -2.4) = -3, min(-1.8, -1.8) = -1.8, min(-1, -1.6) = -1.6.
    expected = -torch.tensor([2.4, 2.2, 1.0, -3.0, -1.8, -1.6])
    losses, slopes = policy.ppo_clip(log_ratios, advantages, 0.2)
    torch.testing.assert_close(losses, expected)
    # By the log-ratio, -r A moves by itself; the first has been rewarded enough, and so has the last.
    torch.testing.assert_close(slopes, -torch.tensor([0.0, 2.2, 1.0, -3.0, -1.8, 0.0]))


def test_ppo_clip_is_the_minimum_of_equation_7_and_moves_as_it_does() -> None:
    generator = torch.Generator().manual_seed(0)
    log_ratios = torch.randn(500, generator=generator).requires_grad_()
    advantages = torch.randn(500, generator=generator)
    plainly = -torch.minimum(log_ratios.exp() * advantages, log_ratios.exp().clamp(0.7, 1.3) * advantages)
    found, slopes = policy.ppo_clip(log_ratios, advantages, 0.3)
    torch.testing.assert_close(found, plainly)
    torch.testing.assert_close(slopes, torch.autograd.grad(plainly.sum(), log_ratios)[0])
    assert bool((slopes == 0).any())


def test_a_ratio_beyond_all_bounds_overflows_nothing() -> None:
    log_ratios = torch.tensor([200.0, 200.0, -200.0, -200.0])
    found, slopes = policy.ppo_clip(log_ratios, torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2)
    torch.testing.assert_close(found, torch.tensor([-1.2, math.exp(10.0), 0.0, 0.8]))
    assert slopes.tolist() == [0.0, 0.0, 0.0, 0.0]


def test_clipped_value_by_hand() -> None:
    v = torch.tensor([1.1, 2.0, 2.0, 0.0])
    old_v, target = torch.ones(4), torch.tensor([2.0, 2.5, 0.0, 0.5])
    # 1.1 is within .2 of 1: .9^2. 2 is held at 1.2: max(.5^2, 1.3^2). 2 has moved away from 0: max(2^2, 1.2^2).
    # 0 is held at .8: max(.5^2, .3^2).
    found, slopes = policy.clipped_value(v, old_v, target, 0.2)
    torch.testing.assert_close(found, torch.tensor([0.81, 1.69, 4.0, 0.25]))
    # Only the second has been rewarded enough; the others move by 2 (v - target).
    torch.testing.assert_close(slopes, torch.tensor([-1.8, 0.0, 4.0, -1.0]))


def test_clipped_value_is_the_larger_of_both_errors_and_moves_as_it_does() -> None:
    generator = torch.Generator().manual_seed(0)
    v, old_v, target = (torch.randn(500, generator=generator) for _ in range(3))
    v.requires_grad_()
    held = old_v + (v - old_v).clamp(-0.2, 0.2)
    plainly = torch.maximum((v - target).square(), (held - target).square())
    found, slopes = policy.clipped_value(v, old_v, target, 0.2)
    torch.testing.assert_close(found, plainly)
    torch.testing.assert_close(slopes, torch.autograd.grad(plainly.sum(), v)[0])


def test_without_a_clip_the_value_is_only_squared() -> None:
    found, slopes = policy.clipped_value(torch.tensor([3.0]), torch.tensor([0.0]), torch.tensor([1.0]), 0.0)
    assert found.tolist() == [4.0] and slopes.tolist() == [4.0]
