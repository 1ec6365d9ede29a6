"""Distances to neighbours, worked by hand, and what standardising may not change."""

from __future__ import annotations

import math

import torch

from offline_marl.losses.novelty import kth_distance, novelty, whitening

LINE = torch.tensor([[0.0], [1.0], [3.0], [7.0]])


def test_the_kth_neighbour_of_a_new_point_counts_every_visited_one() -> None:
    told = kth_distance(torch.tensor([[2.0]]), LINE, 1, visited=False)
    assert told.tolist() == [1.0]
    assert [kth_distance(torch.tensor([[2.5]]), LINE, k, False).item() for k in (1, 2, 3, 4)] == [0.5, 1.5, 2.5, 4.5]


def test_a_visited_point_is_no_neighbour_of_itself_and_a_revisited_place_is_one() -> None:
    assert kth_distance(LINE, LINE, 1, visited=True).tolist() == [1.0, 1.0, 2.0, 4.0]
    twice = torch.cat([LINE, LINE[:1]])
    assert kth_distance(twice, twice, 1, visited=True)[0].item() == 0.0, "somebody was here before"


def test_with_few_points_the_farthest_stands_for_the_kth() -> None:
    assert kth_distance(torch.tensor([[0.0]]), LINE, 9, visited=False).item() == 7.0


def test_many_queries_are_answered_in_parts(monkeypatch) -> None:
    whole = kth_distance(LINE, LINE, 2, visited=True)
    monkeypatch.setattr("offline_marl.losses.novelty.DISTANCES_AT_ONCE", 4)
    assert torch.equal(kth_distance(LINE, LINE, 2, visited=True), whole)


def test_whitening_divides_by_the_deviation_and_drops_what_never_changes() -> None:
    mean, shrink = whitening(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert mean.tolist() == [2.0, 5.0] and shrink.tolist() == [1.0, 0.0]


def test_novelty_is_the_logarithm_of_one_more_than_the_distance() -> None:
    told = novelty(torch.tensor([0.0, math.e - 1]))
    assert torch.allclose(told, torch.tensor([0.0, 1.0]))
