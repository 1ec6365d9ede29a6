from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from worlds import reacher_recording, world

from offline_marl.core.partition import partition
from offline_marl.datasets import statistics, validate
from offline_marl.datasets.base import Recording
from offline_marl.datasets.episodes import join
from offline_marl.datasets.statistics import (
    CELLS,
    action_counts,
    action_ranges,
    coverage,
    duplicates,
    quantiles,
    returns_of,
    reward_kind,
)

KINDS = ("continuous", "discrete")


@pytest.mark.parametrize("kind", KINDS)
def test_what_occurs_twice_is_counted(kind: str) -> None:
    data = world(kind)
    assert duplicates(data) == {"transitions": 0, "episodes": 0}
    again = join([data, data.select(torch.tensor([3, 4]))], {})
    assert duplicates(again) == {"transitions": int(data.lengths[3:5].sum()), "episodes": 2}


@pytest.mark.parametrize("name", ["state", "rewards", "actions", "terminations"])
def test_one_bit_makes_another_transition(name: str) -> None:
    one = reacher_recording(1, 6)
    other = getattr(one, name).clone()
    other[2] = ~other[2] if name == "terminations" else other[2] * (1 + 1e-6)
    changed = join([one, replace(one, **{name: other})], {})
    # A state belongs to two transitions.
    assert duplicates(changed) == {"transitions": 4 if name == "state" else 5, "episodes": 0}


def test_the_order_of_steps_makes_another_episode() -> None:
    flags = torch.tensor([False, True])
    still = Recording(
        state=torch.zeros(6, 2),
        actions=torch.tensor([[0.1], [0.2], [0.2], [0.1]]),
        rewards=torch.zeros(4),
        terminations=torch.zeros(4, dtype=torch.bool),
        truncations=torch.zeros(4, dtype=torch.bool),
        lengths=torch.tensor([2, 2]),
    )
    assert duplicates(still) == {"transitions": 2, "episodes": 0}
    assert duplicates(replace(still, truncations=flags.repeat(2)))["transitions"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_change_no_figure(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def figures(data: Any) -> Any:
        told = [duplicates(data), action_ranges(data), [each.tolist() for each in action_counts(data)]]
        return [*told, returns_of(data).tolist()]

    data = world(kind)
    whole = figures(data)
    monkeypatch.setattr(validate, "CHUNK", 7)
    monkeypatch.setattr(statistics, "CHUNK", 7)
    assert figures(data) == whole
    assert returns_of(data).tolist() == pytest.approx(data.returns().tolist(), rel=1e-5)


def test_actions_are_counted_for_each_agent() -> None:
    data = world("continuous")
    counts = action_counts(data)
    assert [tuple(each.shape) for each in counts] == [(width, 20) for width in data.spec.act_dims]
    assert all(bool((each.sum(1) == len(data)).all()) for each in counts)
    low, high = action_ranges(data)[1]
    assert low == float(data.actions[:, 1].min()) and high == float(data.actions[:, 1].max())
    choices = world("discrete")
    made = action_counts(choices)
    assert [each.shape[1] for each in made] == list(choices.spec.act_dims)
    assert made[2][0].tolist() == torch.bincount(choices.actions[:, 2], minlength=4).tolist()


def test_coverage_by_hand() -> None:
    angle = torch.linspace(0, 2 * math.pi, 41)
    ring = torch.stack([angle.cos(), angle.sin(), torch.ones(41)], dim=-1)
    data = replace(reacher_recording(1, 40), state=ring, actions=torch.zeros(40, 1))
    found = coverage(data)
    assert found.variance == pytest.approx(1.0), "the third column never moves"
    assert int(found.counts.sum()) == 41 and found.counts.shape == (CELLS, CELLS)
    # A circle of radius sqrt(2) deviations on a grid of 3: about 2 pi 1.41 / 6 of 32 cells are crossed along it.
    assert 30 <= found.share * CELLS**2 <= 41
    assert found.points.norm(dim=1).mean() == pytest.approx(math.sqrt(2), abs=0.05)


def test_coverage_of_a_line_is_little() -> None:
    line = torch.linspace(-1, 1, 1000)
    data = replace(reacher_recording(1, 999), state=torch.stack([line, 3.3 * line, -1.7 * line], dim=-1))
    found = coverage(data)
    assert found.share <= 1 / CELLS and found.variance == pytest.approx(1.0)
    assert not found.points[:, 1].any()


def test_coverage_of_what_never_moves_is_one_cell() -> None:
    still = replace(reacher_recording(2, 4), state=torch.ones(10, 3))
    assert coverage(still).share == 1 / CELLS**2 and coverage(still).variance == 0


def test_coverage_is_the_same_each_time_and_of_shares_of_it() -> None:
    data = reacher_recording(300, 50)
    assert torch.equal(coverage(data).counts, coverage(data).counts)
    split = data.split(partition("reacher", "2x1", "full"))
    assert 0.2 < coverage(split).share < 1


def test_quantiles_have_names() -> None:
    assert quantiles(torch.arange(101)) == {"q05": 5.0, "q25": 25.0, "q50": 50.0, "q75": 75.0, "q95": 95.0}


def test_recorders_tell_whose_the_reward_is() -> None:
    own = world("continuous")
    assert (reward_kind(own), reward_kind(reacher_recording())) == ("own", "team")
    shared = replace(own, rewards=own.rewards[:, :1].expand(-1, 3).contiguous())
    assert reward_kind(shared) == "team"
    assert validate.problems(replace(shared, metadata={"reward": reward_kind(shared)})) == []
