from __future__ import annotations

import torch
from worlds import world

from offline_marl.core.types import Needs
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.training.sources import DatasetSource


def source(seed: int = 0, rows: int = 8) -> DatasetSource:
    return DatasetSource(TransitionBuffer(world("continuous")), rows, torch.Generator().manual_seed(seed))


def test_one_seed_draws_the_same_batches():
    one, same, other = source(), source(), source(1)
    drawn = [[s.sample(Needs()).obs for _ in range(3)] for s in (one, same, other)]
    assert all(map(torch.equal, drawn[0], drawn[1]))
    assert not any(map(torch.equal, drawn[0], drawn[2]))
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_a_restored_source_goes_on_where_the_saved_one_stood():
    one, other = source(), source(5)
    one.sample(Needs())
    other.load_state_dict(one.state_dict())
    for _ in range(3):
        assert torch.equal(one.sample(Needs()).rewards, other.sample(Needs()).rewards)


def test_every_transition_is_drawn_about_equally_often():
    data = world("continuous")
    rewards = source(rows=1000 * len(data)).sample(Needs()).rewards[:, 0]
    counts = (rewards.unsqueeze(1) == data.rewards[:, 0]).sum(0)
    assert bool((counts > 850).all()) and bool((counts < 1150).all())


def test_segments_come_when_they_are_needed():
    batch = source().sample(Needs(view="segments", length=3)).check()
    assert batch.rewards.shape[:2] == (8, 3) and batch.mask is not None
