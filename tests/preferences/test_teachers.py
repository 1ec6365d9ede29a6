from __future__ import annotations

import math

import pytest
import torch

from offline_marl.preferences import teachers
from offline_marl.preferences.teachers import TaskScale, TeacherConfig, answer, preference, segment_returns

WHOLE = TaskScale(scale=10.0, mean=8.0, least=0.0)


def pairs_of(first: float, second: float, count: int = 1) -> torch.Tensor:
    return torch.tensor([[first, second]], dtype=torch.float64).expand(count, 2)


def answers(returns: torch.Tensor, scale: TaskScale = WHOLE, seed: int = 0, **fields: object) -> list[str]:
    draws = torch.rand(len(returns), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return list(answer(returns, returns, TeacherConfig(**fields), scale, draws))


@pytest.mark.parametrize(("gap", "expected"), [(10.0, 0.99331), (5.0, 0.92414), (0.0, 0.5), (-5.0, 0.07586)])
def test_labels_are_as_frequent_as_their_probability(gap: float, expected: float) -> None:
    count = 40_000
    returns = pairs_of(gap, 0.0, count)
    assert preference(returns[:1], TeacherConfig(), 10.0).item() == pytest.approx(expected, abs=5e-6)
    frequency = answers(returns).count("first") / count
    # Four standard errors of a binomial.
    assert abs(frequency - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


def test_the_same_steepness_is_as_noisy_on_every_mixture_of_a_task() -> None:
    # What is wide and what is narrow data is measured by one scale: a gap of 2 is a gap of 2.
    wide, narrow = pairs_of(40.0, 38.0), pairs_of(3.0, 1.0)
    assert preference(wide, TeacherConfig(), 10.0) == preference(narrow, TeacherConfig(), 10.0)


def test_a_perfect_teacher_errs_only_by_mistake_and_calls_equals_equal() -> None:
    returns = pairs_of(1.0, 0.999, 1_000)
    assert set(answers(returns, steepness="perfect")) == {"first"}
    assert set(answers(pairs_of(2.0, 2.0, 50), steepness="perfect")) == {"equal"}
    turned = answers(pairs_of(1.0, 0.0, 10_000), steepness="perfect", error_rate=0.1).count("second") / 10_000
    assert abs(turned - 0.1) < 4 * math.sqrt(0.09 / 10_000)


def test_no_steepness_tosses_a_coin() -> None:
    share = answers(pairs_of(10.0, 0.0, 10_000), steepness=0.0).count("first") / 10_000
    assert abs(share - 0.5) < 0.02


def test_skips_come_before_ties_and_ties_before_preferences() -> None:
    # A quarter of the mean 8 is 2, an eighth is 1.
    both = {"skip": 0.25, "equal": 0.125, "steepness": "perfect"}
    assert answers(pairs_of(1.9, 1.5), **both) == ["skip"]
    assert answers(pairs_of(5.0, 4.1), **both) == ["equal"]
    assert answers(pairs_of(5.0, 3.9), **both) == ["first"]
    assert answers(pairs_of(1.0, 2.5), **both) == ["second"]
    assert answers(pairs_of(-9.0, -9.5), steepness="perfect") == ["first"]


def test_shares_of_a_mean_that_is_negative_are_taken_from_the_least_return_on() -> None:
    # Mean -20, least -60: half of the way up is -40.
    scale = TaskScale(scale=10.0, mean=-20.0, least=-60.0)
    assert answers(pairs_of(-41.0, -50.0), scale, skip=0.5, steepness="perfect") == ["skip"]
    assert answers(pairs_of(-39.0, -50.0), scale, skip=0.5, steepness="perfect") == ["first"]


def test_returns_are_the_mean_over_agents_or_one_agents_own() -> None:
    rewards = torch.tensor([[[[1.0, 3.0], [2.0, 8.0]], [[5.0, 0.0], [7.0, 100.0]]]])
    mask = torch.ones_like(rewards, dtype=torch.bool)
    mask[0, 1, 1, 1] = False  # away: earns nothing
    by_target = {t: segment_returns(rewards, mask, torch.tensor([t])).tolist() for t in (-1, 0, 1)}
    assert by_target == {-1: [[7.0, 6.0]], 0: [[3.0, 12.0]], 1: [[11.0, 0.0]]}


def test_a_myopic_teacher_looks_at_the_end_of_each_segment() -> None:
    rewards = torch.tensor([[[[8.0], [0.0], [1.0]], [[4.0], [2.0], [999.0]]]])
    mask = torch.ones_like(rewards, dtype=torch.bool)
    mask[0, 1, 2] = False  # the second has two steps, the last of which weighs 1
    made = segment_returns(rewards, mask, torch.tensor([-1]), 0.5)
    assert made.tolist() == [[8 / 4 + 0 / 2 + 1, 4 / 2 + 2]]


def test_the_bayes_rate_by_hand() -> None:
    returns = torch.cat([pairs_of(10.0, 0.0), pairs_of(0.0, 5.0)])
    assert teachers.best_accuracy(returns, TeacherConfig(), 10.0) == pytest.approx((0.99331 + 0.92414) / 2, abs=1e-5)
    certain = TeacherConfig(steepness="perfect", error_rate=0.1)
    assert teachers.best_accuracy(returns, certain, 10.0) == pytest.approx(0.9)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert teachers.best_loss(returns, certain, 10.0) == pytest.approx(entropy)
