from __future__ import annotations

import numpy as np
import torch

from offline_marl.core.types import Episode, Spec
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.normalize import LEAST_STD, best_values, obs_statistics
from offline_marl.networks.inputs import AgentInputs


def make_data(obs: torch.Tensor, dims: tuple[int, ...]) -> Dataset:
    """Two episodes around the observations given."""
    steps, agents = len(obs) - 2, obs.shape[1]
    ends = torch.zeros(steps, agents, dtype=torch.bool)
    ends[[2, -1]] = True
    zeros = torch.zeros(steps, agents)
    lengths, spec = torch.tensor([3, steps - 3]), Spec(dims, (1,) * agents)
    return Dataset(obs, zeros.unsqueeze(-1), zeros, torch.zeros_like(ends), ends, lengths, spec).check()


def test_statistics_are_those_of_numpy_in_double_precision() -> None:
    draw = torch.Generator().manual_seed(0)
    scales, shifts = torch.tensor([1.0, 50.0, 0.01]), torch.tensor([0.0, 300.0, -2.0])
    obs = torch.randn(5_000, 2, 3, generator=draw) * scales + shifts
    mean, std = obs_statistics(make_data(obs, (3, 3)))
    exact = obs.numpy().astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), exact.mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(std.numpy(), exact.std(0), rtol=1e-5)
    assert mean.dtype == std.dtype == torch.float32 and mean.shape == (2, 3)


def test_a_small_spread_far_from_zero_is_not_lost() -> None:
    obs = 1000.0 + torch.arange(4.0).repeat(1000).view(-1, 1, 1)
    mean, std = obs_statistics(make_data(obs, (1,)))
    # 0, 1, 2, 3 have mean 1.5 and variance 1.25.
    np.testing.assert_allclose([mean.item(), std.item()], [1001.5, 1.25**0.5], rtol=1e-6)


def test_padding_and_columns_that_never_move_stay_finite() -> None:
    obs = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0))
    obs[:, 1, 2] = 0.0
    obs[:, 0, 1] = 0.7
    data = make_data(obs, (3, 2))
    mean, std = obs_statistics(data)
    assert std[0, 1] == std[1, 2] == torch.tensor(LEAST_STD) and mean[1, 2] == 0.0
    inputs = AgentInputs((3, 2), (1, 1))
    inputs.standardize(mean, std)
    standardized = inputs(data.obs)
    assert bool(standardized[:, 1, 2].eq(0).all()) and standardized[:, 0, 1].abs().max().item() < 1e-3
    real = standardized[:, 0, [0, 2]]
    torch.testing.assert_close(real.mean(0), torch.zeros(2), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(real.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0.0)


def test_what_has_not_moved_yet_counts_in_its_own_units() -> None:
    obs = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0))
    obs[:, 1, 2], obs[:, 0, 1] = 0.0, 0.7
    data = make_data(obs, (3, 2))
    (mean, std), (same, growing) = obs_statistics(data), obs_statistics(data, growing=True)
    assert torch.equal(mean, same) and growing[0, 1] == 1.0 and growing[1, 2] == torch.tensor(LEAST_STD), "padding"
    moving = std > LEAST_STD
    assert torch.equal(std[moving], growing[moving]) and int((~moving).sum()) == 2


def two_episodes() -> Dataset:
    def episode(*rewards: float) -> Episode:
        length = len(rewards)
        ended = torch.zeros(length, 1, dtype=torch.bool)
        ended[-1] = True
        return Episode(
            obs=torch.zeros(length + 1, 1, 1),
            actions=torch.zeros(length, 1, 1),
            rewards=torch.tensor(rewards).unsqueeze(-1),
            terminations=ended,
            truncations=torch.zeros_like(ended),
        )

    return Dataset.from_episodes([episode(1.0, 2.0, 4.0), episode(-8.0, 10.0)], Spec((1,), (1,)))


def test_the_best_value_is_the_largest_discounted_return_to_go() -> None:
    # gamma 0.5: 1 + 0.5 (2 + 0.5 * 4) = 3, 2 + 2 = 4, 4; and -8 + 5 = -3, 10. Undiscounted: 7, 6, 4; 2, 10.
    best, team = best_values(two_episodes(), 0.5)
    assert best.tolist() == [10.0] and team.item() == 10.0
    best, _ = best_values(two_episodes().select(torch.tensor([0])), 0.5)
    assert best.tolist() == [4.0]
    best, _ = best_values(two_episodes().select(torch.tensor([0])), 1.0)
    assert best.tolist() == [7.0]
