from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch

from offline_marl.core.fields import SpreadName
from offline_marl.core.types import DataError
from offline_marl.worldmodels import uncertainty
from offline_marl.worldmodels.base import Prediction, Spread, TokenSpread
from offline_marl.worldmodels.uncertainty import UNCERTAINTIES, exceeds, penalty

TOKENS = {
    "token_entropy": "entropy",
    "first_token_entropy": "first_entropy",
    "token_surprisal": "surprisal",
    "token_information": "information",
    "reward_deviation": "reward_deviation",
    "cycle_inconsistency": "cycle",
}
OF_ELITES = set(UNCERTAINTIES) - set(TOKENS)


def three(**changes) -> Spread:
    """Three elites, one row, two coordinates and two agents."""
    plain = Spread(
        next_obs=torch.tensor([[[1.0, 0.0]], [[2.0, 0.0]], [[3.0, 6.0]]]),
        rewards=torch.tensor([[[0.0, 2.0]], [[0.0, 0.0]], [[0.0, 4.0]]]),
        next_obs_std=torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]], [[3.0, 0.0]]]),
        rewards_std=torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]], [[0.0, 4.0]]]),
        scale=torch.tensor([0.5, 3.0]),
        reward_scale=torch.tensor([1.0, 2.0]),
    )
    return replace(plain, **changes)


def noise(elites: int = 5, lead: tuple[int, ...] = (6, 2), coordinates: int = 9, agents: int = 3) -> Spread:
    generator = torch.Generator().manual_seed(0)

    def draw(width: int) -> torch.Tensor:
        return torch.randn(elites, *lead, width, generator=generator, dtype=torch.float64)

    stds = {"next_obs_std": draw(coordinates).exp(), "rewards_std": draw(agents).exp()}
    scales = torch.rand(coordinates, generator=generator) + 0.5, torch.rand(agents, generator=generator) + 0.5
    return Spread(draw(coordinates), draw(agents), **stds, scale=scales[0], reward_scale=scales[1])


def test_covariance_norm_by_hand() -> None:
    # Centred columns: (-1, 0, 1), (-2, -2, 4), (0, 0, 0), (0, -2, 2). Products over 2:
    # 1, 3, 1 / 3, 12, 6 / 1, 6, 4 (and zeros): squares 1 + 144 + 16 + 2 (9 + 1 + 36) = 253.
    assert uncertainty.covariance_norm(three()).tolist() == [pytest.approx(math.sqrt(253.0))]


@pytest.mark.parametrize("elites", [2, 5, 20])
def test_covariance_norm_is_that_of_the_sample_covariance_of_each_row(elites: int) -> None:
    spread = noise(elites)
    found = uncertainty.covariance_norm(spread)
    said = torch.cat([spread.next_obs, spread.rewards], dim=-1)
    for i in range(6):
        for j in range(2):
            expected = torch.linalg.matrix_norm(torch.cov(said[:, i, j].t()))
            torch.testing.assert_close(found[i, j], expected)


def test_standardized_variance_by_hand() -> None:
    # next obs in units: (2, 4, 6) variance 4, (0, 0, 2) variance 4/3; rewards (0, 0, 0), (1, 0, 2) variance 1
    assert uncertainty.standardized_variance(three()).tolist() == [pytest.approx(4 + 4 / 3 + 1)]


def test_reward_variance_by_hand() -> None:
    # means 1, 0, 2: variance 1
    assert uncertainty.reward_variance(three()).tolist() == [1.0]


def test_max_aleatoric_by_hand() -> None:
    # norms sqrt(1 + 4 + 4) = 3, 1, sqrt(9 + 16) = 5
    assert uncertainty.max_aleatoric(three()).tolist() == [5.0]


def test_max_aleatoric_says_what_it_misses() -> None:
    with pytest.raises(ValueError, match="max_aleatoric needs members that tell a deviation of their own"):
        uncertainty.max_aleatoric(three(next_obs_std=None, rewards_std=None))


def test_pairwise_difference_by_hand() -> None:
    # in units (2, 0), (4, 0), (6, 2): the first and last lie sqrt(16 + 4) apart
    assert uncertainty.pairwise_difference(three()).tolist() == [pytest.approx(math.sqrt(20.0))]


def test_every_function_has_its_name_in_configs() -> None:
    assert get_args(SpreadName) == tuple(UNCERTAINTIES)
    assert all(function.__name__ == name for name, function in UNCERTAINTIES.items())


@pytest.mark.parametrize("name", sorted(OF_ELITES))
def test_any_leading_axes_and_rows_apart(name) -> None:
    measure = UNCERTAINTIES[name]
    spread = noise(lead=(6, 2))
    whole = measure(spread)
    assert whole.shape == (6, 2) and bool((whole > 0).all())
    held = {field: getattr(spread, field) for field in ("next_obs", "rewards", "next_obs_std", "rewards_std")}
    one = measure(replace(spread, **{field: value[:, 4, 1] for field, value in held.items()}))
    assert one.shape == ()
    torch.testing.assert_close(one, whole[4, 1])


@pytest.mark.parametrize("name", sorted(OF_ELITES - {"max_aleatoric"}))
def test_elites_that_agree_are_trusted_and_one_alone_is_too(name) -> None:
    agreed = noise()
    agreed = replace(
        agreed, next_obs=agreed.next_obs[:1].expand(5, -1, -1, -1), rewards=agreed.rewards[:1] * torch.ones(5, 1, 1, 1)
    )
    assert UNCERTAINTIES[name](agreed).abs().max().item() < 1e-12
    assert UNCERTAINTIES[name](noise(elites=1)).abs().max().item() == 0.0


def test_a_cut_looks_at_the_measurement_and_a_penalty_may_be_clamped() -> None:
    value = uncertainty.reward_variance(replace(three(), rewards=torch.tensor([[[0.0]], [[2.0]], [[4.0]]])))
    assert value.tolist() == [4.0]
    assert exceeds(value, 2.0).tolist() == [True] and exceeds(value, 4.0).tolist() == [False]
    assert penalty(value).tolist() == [4.0] and penalty(value, ceiling=2.0).tolist() == [2.0]
    # What the published code did, which the type checker refuses: nothing ever exceeds its own ceiling.
    assert exceeds(penalty(value, ceiling=2.0), 2.0).tolist() == [False]  # type: ignore[arg-type]


def told() -> TokenSpread:
    return TokenSpread(*(torch.tensor([[number, number + 2.0]]) for number in range(6)))


def test_measures_of_tokens_are_means_over_agents() -> None:
    for number, name in enumerate(TOKENS):
        assert UNCERTAINTIES[name](three(tokens=told())).tolist() == [number + 1.0], name


@pytest.mark.parametrize("name", TOKENS)
def test_kinds_that_tell_no_tokens_refuse_their_measures(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} needs a world model that tells tokens: marie"):
        UNCERTAINTIES[name](three())


def test_doubts_of_tokens_take_their_places() -> None:
    some = Prediction(torch.ones(1, 2, 1), torch.ones(1, 2), torch.ones(1, 2) > 0, three(tokens=told()))
    whole = some.scatter(torch.tensor([1]), 3)
    assert whole.spread.tokens.information.tolist() == [[0, 0], [3, 5], [0, 0]]
