"""Schedules and noise by hand, and what random actions may never be."""

from __future__ import annotations

import pytest
import torch

from offline_marl.networks.exploration import epsilon_greedy, gaussian_noise, linear

BOTH = torch.ones(2, 4, dtype=torch.bool)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1.0), (25, 0.775), (50, 0.55), (99, 0.109), (100, 0.1), (101, 0.1), (10**9, 0.1)]
)
def test_a_linear_schedule_by_hand(step: int, expected: float) -> None:
    assert linear(1.0, 0.1, 100, step) == pytest.approx(expected)


def test_a_linear_schedule_rises_too_and_one_of_no_steps_begins_at_its_end() -> None:
    assert linear(0.0, 1.0, 4, 1) == 0.25
    assert linear(1.0, 0.1, 0, 0) == 0.1


@pytest.mark.parametrize(("epsilon", "kept"), [(0.0, 1.0), (1.0, 0.25), (0.2, 0.85)])
def test_epsilon_greedy_keeps_the_choice_as_often_as_it_should(epsilon: float, kept: float) -> None:
    rows = 40_000
    choices = torch.tensor([1, 3]).expand(rows, 2)
    drawn = epsilon_greedy(choices, None, BOTH, epsilon, generator())
    assert drawn.dtype == torch.int64 and drawn.shape == choices.shape
    # 1 - epsilon, and of the random ones every fourth hits it; four deviations are below .01.
    for agent in range(2):
        assert (drawn[:, agent] == choices[:, agent]).double().mean().item() == pytest.approx(kept, abs=0.01)
    if epsilon == 1.0:
        counts = torch.bincount(drawn.flatten(), minlength=4) / (2 * rows)
        torch.testing.assert_close(counts, torch.full((4,), 0.25), atol=0.01, rtol=0.0)


def test_agents_explore_apart_from_each_other() -> None:
    choices = torch.zeros(40_000, 2, dtype=torch.int64)
    moved = epsilon_greedy(choices, None, BOTH, 0.5, generator()) != 0
    both = (moved[:, 0] & moved[:, 1]).double().mean().item()
    assert both == pytest.approx(0.375**2, abs=0.01)


def test_what_is_not_allowed_or_not_there_is_never_drawn() -> None:
    rows = 5_000
    present = torch.tensor([[True, True, True, True], [True, True, False, False]])
    avail = torch.rand(rows, 2, 4, generator=generator(1)) < 0.5
    avail[..., 0] |= ~(avail & present).any(-1)
    choices = (avail & present).int().argmax(-1)
    drawn = epsilon_greedy(choices, avail, present, 0.9, generator())
    assert bool((avail & present).gather(-1, drawn.unsqueeze(-1)).all())
    without = epsilon_greedy(choices, None, present, 1.0, generator())
    assert set(without[:, 1].tolist()) == {0, 1} and set(without[:, 0].tolist()) == {0, 1, 2, 3}


def test_a_schedule_shifts_no_later_draw() -> None:
    choices, ends = torch.zeros(7, 2, dtype=torch.int64), []
    for epsilon in (0.0, 0.5, 1.0):
        source = generator()
        epsilon_greedy(choices, None, BOTH, epsilon, source)
        ends.append(torch.rand(3, generator=source))
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


def test_gaussian_noise_has_its_deviation_spares_padding_and_stays_in_the_box() -> None:
    present = torch.tensor([[True, True], [True, False]])
    actions = torch.zeros(20_000, 2, 2)
    noisy = gaussian_noise(actions, 0.2, present, generator())
    assert noisy[:, 0].std().item() == pytest.approx(0.2, abs=0.005) and bool(noisy[:, 1, 1].eq(0).all())
    assert gaussian_noise(actions + 0.9 * present, 2.0, present, generator()).abs().max().item() == 1.0
    assert torch.equal(gaussian_noise(actions, 0.0, present, generator()), actions)
