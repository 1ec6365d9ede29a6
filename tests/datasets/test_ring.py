from __future__ import annotations

from dataclasses import replace

import torch

from offline_marl.core.types import Batch
from offline_marl.datasets.ring import TransitionRing


def rows(*numbers: float) -> Batch:
    values = torch.tensor(numbers)
    obs, flags = values.view(-1, 1, 1), torch.zeros(len(numbers), 1, dtype=torch.bool)
    return Batch(obs, obs, obs[..., 0], obs, flags, flags, synthetic=~flags[:, 0])


def held(ring: TransitionRing) -> set[float]:
    drawn = ring.sample(500, torch.Generator().manual_seed(0))
    assert drawn.synthetic is not None and bool(drawn.synthetic.all()) and drawn.history is None
    assert torch.equal(drawn.obs[..., 0], drawn.rewards)
    return set(drawn.rewards.flatten().tolist())


def test_the_newest_rows_overwrite_the_oldest() -> None:
    ring = TransitionRing(4)
    ring.push(rows(1, 2, 3))
    assert len(ring) == 3 and held(ring) == {1, 2, 3}
    ring.push(rows(4, 5))
    assert len(ring) == 4 and held(ring) == {2, 3, 4, 5}
    ring.push(rows(6, 7, 8, 9, 10, 11))
    assert held(ring) == {8, 9, 10, 11}
    ring.push(rows(12))
    assert held(ring) == {9, 10, 11, 12}


def test_a_restored_ring_draws_and_overwrites_as_the_saved_one() -> None:
    ring, other = TransitionRing(4), TransitionRing(4)
    ring.push(rows(1, 2, 3, 4, 5))
    other.load_state_dict(ring.state_dict(), "cpu")
    for each in (ring, other):
        each.push(rows(6))
    one, same = (each.sample(50, torch.Generator().manual_seed(3)) for each in (ring, other))
    assert torch.equal(one.obs, same.obs)


def test_rows_count_that_were_there_before_a_mask_came_or_come_without_one() -> None:
    ring = TransitionRing(4)
    ring.push(rows(1, 2))
    ring.push(replace(rows(3, 4), mask=torch.zeros(2, 1, dtype=torch.bool)))
    assert ring.state_dict()["held"]["mask"].any(-1).tolist() == [True, True, False, False]
    ring.push(rows(5, 6, 7, 8))
    assert ring.state_dict()["held"]["mask"].all()
