from __future__ import annotations

import math

import pytest
import torch

from offline_marl.losses import preferences


def one_agent(*rewards: float) -> torch.Tensor:
    return torch.tensor(rewards).view(1, -1, 1)


def there(rewards: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(rewards, dtype=torch.bool)


@pytest.mark.parametrize("length", [2, 6, 10, 25, 26])
def test_smoothness_of_a_constant_a_ramp_and_an_alternating_reward(length: int) -> None:
    steps = torch.arange(float(length)).view(1, -1, 1)
    # Differences are 0; 1 each, T - 1 of them; 2 each, whose squares are 4.
    for rewards, expected in (
        (torch.full_like(steps, 3.7), 0.0),
        (steps, length - 1.0),
        (1.0 - 2.0 * (steps % 2), 4.0 * (length - 1)),
    ):
        assert preferences.smoothness(rewards, there(rewards)).tolist() == [[expected]]


def test_smoothness_counts_no_step_behind_an_end_nor_of_an_agent_that_is_away() -> None:
    rewards = one_agent(0.0, 2.0, 100.0, 1.0)
    mask = torch.tensor([True, True, False, True]).view(1, -1, 1)
    # Only 0 -> 2 are neighbours that both count: what is before and behind a gap is not compared.
    assert preferences.smoothness(rewards, mask).item() == 4.0


def test_bradley_terry_by_hand() -> None:
    margin = torch.tensor([0.0, 0.0, 0.0, math.log(3.0), math.log(3.0), math.log(3.0)])
    labels = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0, 0.5])
    # sigmoid(log 3) = 3/4: -log 3/4, -log 1/4, and the mean of both.
    expected = [math.log(2)] * 3 + [-math.log(0.75), math.log(4), (math.log(4) - math.log(0.75)) / 2]
    assert preferences.bradley_terry(margin, labels).tolist() == pytest.approx(expected)


def test_a_pair_of_a_segment_with_itself_costs_log_two_and_moves_nothing() -> None:
    rewards = torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    score = preferences.segment_scores(rewards, there(rewards)).sum(-1)
    loss = preferences.bradley_terry(score - score, torch.tensor([1.0])).sum()
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2)) and not rewards.grad.any()


def test_a_label_that_a_model_is_surely_wrong_about_keeps_its_slope() -> None:
    margin = torch.tensor([-200.0, 200.0], requires_grad=True)
    loss = preferences.bradley_terry(margin, torch.tensor([1.0, 0.0]))
    loss.sum().backward()
    assert loss.tolist() == [200.0, 200.0] and margin.grad.tolist() == [-1.0, 1.0]


def test_scores_are_sums_over_steps_and_agents_that_are_there() -> None:
    rewards = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]])
    mask = torch.tensor([[[True, True], [True, False], [False, True]]])
    scores = preferences.segment_scores(rewards, mask)
    assert scores.tolist() == [[3.0, 50.0]]
    team, first, second = (preferences.compared_scores(scores, torch.tensor([t])).item() for t in (-1, 0, 1))
    assert (team, first, second) == (53.0, 3.0, 50.0)


def test_binary_entropy_by_hand() -> None:
    entropy = preferences.binary_entropy(torch.tensor([0.5, 0.0, 1.0, 0.25]))
    quarter = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert entropy.tolist() == pytest.approx([math.log(2), 0.0, 0.0, quarter])


def test_pseudo_labels_are_kept_where_the_model_is_sure() -> None:
    labels, kept = preferences.pseudo_labels(torch.tensor([0.95, 0.9, 0.5, 0.05, 0.2]), 0.9)
    assert labels[kept].tolist() == [1.0, 0.0] and kept.tolist() == [True, False, False, True, False]


def test_crops_of_a_pair_lose_equally_many_steps_and_lie_inside_both_segments() -> None:
    lengths = torch.tensor([[10, 8], [10, 10], [8, 8], [1, 5]])
    shares = torch.tensor([0.5, 1.0, 0.5, 0.3])
    offsets = torch.tensor([[0.0, 0.999], [0.7, 0.2], [0.5, 0.999], [0.5, 0.999]])
    mask = preferences.crop(lengths, shares, offsets, 10)
    # Half of 8 is 4, and as many are lost of the 10: steps 0-5, and 4-7, the last that fit; all of 10; 4 of 8 from the
    # middle and the end; all where one has a single step.
    steps = [[row.nonzero().flatten().tolist() for row in pair] for pair in mask]
    assert steps == [
        [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7]],
        [list(range(10)), list(range(10))],
        [[2, 3, 4, 5], [4, 5, 6, 7]],
        [[0], [0, 1, 2, 3, 4]],
    ]


@pytest.mark.parametrize(
    ("probability", "once", "tenfold"),
    [(0.96, 1.0, 1.0), (0.5, math.log(2.5), 1.0), (0.2, 0.0, 0.0), (0.1, math.log(0.5), 10 * math.log(0.5))],
)
def test_the_bonus_of_five_choices(probability: float, once: float, tenfold: float) -> None:
    uniform = preferences.log_uniform_choices(torch.tensor([5.0]))
    logs = torch.tensor([probability]).log()
    bonus = [preferences.log_ratio_bonus(logs, uniform, weight).item() for weight in (0.0, 1.0, 10.0)]
    assert bonus == pytest.approx([0.0, once, tenfold], abs=1e-5)


def test_the_bonus_is_clipped_and_a_uniform_policy_has_none() -> None:
    uniform = preferences.log_uniform_choices(torch.tensor([5.0]))
    far = preferences.log_ratio_bonus(torch.tensor([0.01]).log(), uniform, 10.0)
    assert far.item() == -10.0
    assert preferences.log_ratio_bonus(torch.tensor([0.2]).log(), uniform, 100.0).item() == pytest.approx(0.0, abs=1e-4)


def test_the_uniform_density_of_a_box_counts_its_width_of_two_in_each_dimension() -> None:
    # On [-1, 1]^3 it is 1/8, so that a policy of density 1/8 is paid nothing, and one of density 1/4 log 2.
    uniform = preferences.log_uniform_box(torch.tensor([3.0]))
    assert uniform.item() == pytest.approx(-math.log(8))
    assert preferences.log_ratio_bonus(torch.tensor([0.25]).log(), uniform, 1.0).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("rating", "score", "probability"),
    [
        # At 0 all five are as likely. At log 4 the cuts log(k / (5 - k)) give P(r <= k) = k / (k + 4 (5 - k)):
        # 1/17, 1/7, 3/11, 1/2, 1.
        (1, 0.0, 0.2),
        (3, 0.0, 0.2),
        (5, 0.0, 0.2),
        (1, math.log(4), 1 / 17),
        (3, math.log(4), 3 / 11 - 1 / 7),
        (5, math.log(4), 1 / 2),
        (1, -math.log(4), 1 / 2),
    ],
)
def test_ratings_are_likely_as_their_cuts_say(rating: int, score: float, probability: float) -> None:
    loss = preferences.rating_loss(torch.tensor([score]), torch.tensor([float(rating)]), 5)
    assert loss.item() == pytest.approx(-math.log(probability), rel=1e-5)


def test_ratings_pull_scores_up_and_down_and_stay_finite_far_away() -> None:
    scores = torch.tensor([0.0, 0.0, 0.0, 80.0, -80.0], requires_grad=True)
    loss = preferences.rating_loss(scores, torch.tensor([1.0, 3.0, 5.0, 3.0, 3.0]), 5)
    loss.sum().backward()
    assert bool(loss.isfinite().all()) and loss[3].item() == pytest.approx(80, rel=0.02)
    # d/dS of -log(sigmoid(c_k - S) - sigmoid(c_(k-1) - S)) is 1 - P(r <= k) - P(r <= k - 1): 0.8, 0 and -0.8 at 0.
    assert scores.grad.tolist() == pytest.approx([0.8, 0.0, -0.8, 1.0, -1.0], abs=1e-4)


def test_credit_is_a_choice_among_the_agents_that_are_there() -> None:
    scores = torch.tensor([[math.log(2), math.log(3), math.log(5)]]).expand(4, -1)
    present = torch.tensor([[True, True, True], [True, True, False], [True, True, True], [True, False, False]])
    loss = preferences.credit_loss(scores, torch.tensor([2, 1, -1, 0]), present)
    # 5/10; 3/5 without the third; equal: the mean of -log 2/10, 3/10 and 5/10; alone it is certain.
    expected = [math.log(2), math.log(5 / 3), -math.log(0.2 * 0.3 * 0.5) / 3, 0.0]
    assert loss.tolist() == pytest.approx(expected, abs=1e-6)
