from __future__ import annotations

import pytest
import torch
from torch import Tensor

from offline_marl.core.axes import AxisError
from offline_marl.losses import advantages


def flags(*rows: str) -> Tensor:
    return torch.tensor([[sign == "x" for sign in row] for row in rows])


def looped(rewards, terminations, truncations, v, next_v, gamma, gae_lambda, mask) -> Tensor:
    """Equation 16, one step at a time from the end of each row."""
    found = torch.zeros_like(rewards)
    for row in range(rewards.shape[0]):
        later = 0.0
        for t in reversed(range(rewards.shape[1])):
            if not mask[row, t]:
                later = 0.0
                continue
            future = 0.0 if terminations[row, t] else float(next_v[row, t])
            delta = float(rewards[row, t]) + gamma * future - float(v[row, t])
            goes_on = not terminations[row, t] and not truncations[row, t]
            later = delta + gamma * gae_lambda * later * goes_on
            found[row, t] = later
    return found


def test_gae_by_hand_with_a_termination_and_a_truncation_inside_a_row() -> None:
    found = advantages.gae(
        rewards=torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]),
        terminations=flags(".x...."),
        truncations=flags("...x.."),
        v=torch.tensor([[1.0, 1.0, 2.0, 2.0, 3.0, 3.0]]),
        next_v=torch.tensor([[1.0, 9.0, 2.0, 8.0, 3.0, 4.0]]),
        gamma=0.5,
        gae_lambda=0.5,
    )
    # delta: 1 + .5 - 1 = .5 | 2 - 1 = 1, its successor counts for nothing | 3 + 1 - 2 = 2 | 4 + 4 - 2 = 6, its
    # successor counts | 5 + 1.5 - 3 = 3.5 | 6 + 2 - 3 = 5. Sums with .25, over at the second and the fourth step:
    expected = torch.tensor([[0.5 + 0.25 * 1, 1.0, 2 + 0.25 * 6, 6.0, 3.5 + 0.25 * 5, 5.0]])
    torch.testing.assert_close(found, expected)


def test_padding_has_no_advantage_and_adds_none_to_the_step_before() -> None:
    rewards, v, next_v = torch.ones(1, 4), torch.zeros(1, 4), torch.full((1, 4), 2.0)
    rewards[0, 2:], next_v[0, 3] = torch.inf, torch.nan
    nothing = flags("....")
    found = advantages.gae(rewards, nothing, nothing, v, next_v, 0.5, 1.0, ~flags("..xx"))
    # The second step is the row's last: 1 + .5 * 2 = 2; the first 2 + .5 * 2 = 3.
    assert found.tolist() == [[3.0, 2.0, 0.0, 0.0]]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 50, 129])
def test_the_scan_equals_the_plain_loop(length: int) -> None:
    generator = torch.Generator().manual_seed(length)

    def chance(share: float) -> Tensor:
        return torch.rand(6, length, generator=generator) < share

    rewards, v, next_v = (torch.randn(6, length, generator=generator, dtype=torch.float64) for _ in range(3))
    terminations, truncations, mask = chance(0.1), chance(0.1), chance(0.9)
    mask[0], terminations[0], truncations[0] = True, False, False
    given = (rewards, terminations, truncations, v, next_v, 0.99, 0.95, mask)
    torch.testing.assert_close(advantages.gae(*given), looped(*given), rtol=1e-12, atol=1e-12)


def test_the_ends_of_the_scale_are_the_one_step_error_and_the_whole_return() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, v, next_v = (torch.randn(2, 5, generator=generator) for _ in range(3))
    next_v[:, :-1] = v[:, 1:]
    nothing = torch.zeros(2, 5, dtype=torch.bool)
    one_step = advantages.gae(rewards, nothing, nothing, v, next_v, 0.9, 0.0)
    torch.testing.assert_close(one_step, rewards + 0.9 * next_v - v)
    whole = advantages.gae(rewards, nothing, nothing, v, next_v, 0.9, 1.0)
    powers = 0.9 ** torch.arange(5)
    torch.testing.assert_close(whole[:, 0], (rewards * powers).sum(1) + 0.9**5 * next_v[:, -1] - v[:, 0])


def test_it_wants_rows_and_time() -> None:
    flat, nothing = torch.zeros(4), torch.zeros(4, dtype=torch.bool)
    with pytest.raises(AxisError, match="row time"):
        advantages.gae(flat, nothing, nothing, flat, flat, 0.9, 0.9)


# --- lambda-returns ---------------------------------------------------------------------------------------------------


def test_lambda_returns_by_hand_with_a_termination_a_truncation_and_padding() -> None:
    found = advantages.lambda_returns(
        rewards=torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, torch.inf]]),
        terminations=flags(".x....."),
        truncations=flags("...x..."),
        next_v=torch.tensor([[1.0, 9.0, 2.0, 8.0, 3.0, 4.0, torch.nan]]),
        gamma=0.5,
        td_lambda=0.25,
        mask=~flags("......x"),
    )
    # Backwards: nothing on padding | 6 + .5 * 4 = 8, all of it V | 5 + .5 (.75 * 3 + .25 * 8) = 7.125 | cut, so V
    # alone: 4 + .5 * 8 = 8 | 3 + .5 (.75 * 2 + .25 * 8) = 4.75 | over: 2 | 1 + .5 (.75 * 1 + .25 * 2) = 1.625
    assert found.tolist() == [[1.625, 2.0, 4.75, 8.0, 7.125, 8.0, 0.0]]


def test_lambda_returns_of_zero_and_one_are_one_step_targets_and_summed_rewards() -> None:
    rewards, next_v, nothing = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[3.0, 5.0, 7.0]]), flags("...")
    one_step = advantages.lambda_returns(rewards, nothing, nothing, next_v, 0.5, 0.0)
    assert one_step.tolist() == [[2.5, 4.5, 7.5]]
    summed = advantages.lambda_returns(rewards, nothing, nothing, next_v, 0.5, 1.0)
    assert summed.tolist() == [[1 + 0.5 * (2 + 0.5 * 7.5), 2 + 0.5 * 7.5, 7.5]]


def test_a_step_before_one_that_does_not_count_takes_the_value() -> None:
    nothing, mask = flags("..."), ~flags(".x.")
    found = advantages.lambda_returns(torch.ones(1, 3), nothing, nothing, torch.full((1, 3), 2.0), 0.5, 1.0, mask)
    assert found.tolist() == [[2.0, 0.0, 2.0]]


@pytest.mark.parametrize("length", [1, 2, 3, 8, 50, 129])
def test_lambda_returns_are_values_plus_generalised_advantages(length: int) -> None:
    """G_t = V(s_t) + A_t where V(s'_t) is the V of the row's next entry (Schulman et al., 2016)."""
    generator = torch.Generator().manual_seed(length)
    rewards, v = (torch.randn(4, length, generator=generator) for _ in range(2))
    next_v = torch.cat([v[:, 1:], torch.randn(4, 1, generator=generator)], dim=1)
    nothing = torch.zeros(4, length, dtype=torch.bool)
    found = advantages.lambda_returns(rewards, nothing, nothing, next_v, 0.95, 0.7)
    torch.testing.assert_close(found, v + advantages.gae(rewards, nothing, nothing, v, next_v, 0.95, 0.7))
