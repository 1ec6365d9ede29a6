from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from compared import random_pairs, store
from runs import score_in_point_env, small_run, start_and_kill
from worlds import saved, world

from offline_marl.core.types import AxisError, DataError, Needs
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.preferences.label_store import NAME, LabelStore, StoreError
from offline_marl.preferences.labels import Label
from offline_marl.tasks.data_tasks import Task, open_task
from offline_marl.training.preferences.folders import key_of
from offline_marl.training.preferences.pair_source import FILE, LabelledPairs, PairSource, read_labelled
from offline_marl.training.run import resume

NEEDS = Needs(view="pairs", length=0, joint=True)


@pytest.fixture
def task(tmp_path) -> Task:
    return open_task(saved(tmp_path, world("discrete")))


@pytest.fixture
def data(task) -> Dataset:
    return task.data


def source(data, pairs, window=0, rows=5, seed=0) -> PairSource:
    return PairSource(TransitionBuffer(data, window), pairs, rows, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("window", [0, 2])
def test_segments_are_the_datas_own_steps_with_the_history_before_them(data, window):
    pairs = random_pairs(data, 12)
    batch = source(data, pairs, window).view(torch.arange(12), NEEDS).check()
    buffer, first = TransitionBuffer(data, window), torch.cumsum(data.lengths, 0) - data.lengths
    assert batch.rewards.shape[:3] == (12, 2, int(pairs.lengths.max()))
    for row in range(12):
        for side in range(2):
            length = int(pairs.lengths[row, side])
            begins = first[pairs.episodes[row, side]] + pairs.starts[row, side]
            expected = buffer.transitions(begins + torch.arange(length))
            for name in ("obs", "actions", "next_obs", "terminations", "history", "next_history", "avail_actions"):
                value, wanted = getattr(batch, name), getattr(expected, name)
                assert (value is None and wanted is None) or torch.equal(value[row, side, :length], wanted), name
            assert bool(batch.mask[row, side, :length].all()) and not bool(batch.mask[row, side, length:].any())
    assert torch.equal(batch.preference, pairs.labels) and torch.equal(batch.subject, pairs.targets)


def test_steps_of_which_nobody_knows_what_followed_do_not_count(data):
    unknown = replace(data, ends_seen=torch.zeros(len(data.lengths), dtype=torch.bool))
    whole = LabelledPairs(
        episodes=torch.tensor([[0, 1]]),
        starts=torch.zeros(1, 2, dtype=torch.int64),
        lengths=data.lengths[:2].view(1, 2),
        labels=torch.ones(1),
        targets=torch.tensor([-1]),
    )
    mask = source(unknown, whole).view(torch.tensor([0]), NEEDS).mask[0].all(-1).sum(-1)
    # The first of these episodes terminates, which leaves nothing to know; the second is cut.
    assert mask.tolist() == [int(data.lengths[0]), int(data.lengths[1]) - 1]


def test_every_label_is_drawn_about_equally_often_and_one_seed_draws_the_same(data):
    pairs = random_pairs(data, 6)
    pairs = replace(pairs, labels=torch.arange(6) / 6)
    drawn = source(data, pairs, rows=6000).sample(NEEDS).preference
    counts = (drawn.unsqueeze(1) == pairs.labels).sum(0)
    assert bool((counts > 850).all()) and bool((counts < 1150).all())
    assert torch.equal(drawn, source(data, pairs, rows=6000).sample(NEEDS).preference)


def test_a_restored_source_goes_on_where_the_saved_one_stood(data):
    pairs = random_pairs(data, 12)
    one, other = source(data, pairs), source(data, pairs, seed=5)
    one.sample(NEEDS)
    other.load_state_dict(one.state_dict())
    for _ in range(3):
        assert torch.equal(one.sample(NEEDS).obs, other.sample(NEEDS).obs)


def test_a_preference_for_each_pair_and_no_more(data):
    batch = source(data, random_pairs(data, 12)).sample(NEEDS)
    with pytest.raises(AxisError, match="preference has shape"):
        replace(batch, preference=batch.preference[:-1], subject=batch.subject[:-1]).check()
    flat = batch.flatten().check()
    assert flat.preference is None and flat.subject is None and len(flat) == batch.rewards.shape[:-1].numel()


# --- what a folder of comparisons says -------------------------------------------------------------------------------
def same(one: LabelledPairs, other: LabelledPairs) -> bool:
    return all(torch.equal(getattr(one, name.name), getattr(other, name.name)) for name in fields(LabelledPairs))


def test_labels_come_back_as_they_were_stored(task, tmp_path):
    pairs = random_pairs(task.data, 12)
    store(tmp_path / "comparisons", task, pairs)
    found = read_labelled(tmp_path / "comparisons", task)
    assert same(found, pairs)
    found.save(tmp_path / "kept")
    assert same(LabelledPairs.load(tmp_path / "kept"), pairs)


def test_skipped_withdrawn_and_held_out_pairs_are_not_learnt_from(task, tmp_path):
    pairs = random_pairs(task.data, 4)
    pairs = replace(pairs, labels=torch.ones(4), targets=torch.full((4,), -1))
    ids = store(tmp_path / "comparisons", task, pairs)
    store(tmp_path / "comparisons", task, random_pairs(task.data, 3, seed=1), split="held-out")
    with LabelStore(tmp_path / "comparisons" / NAME) as comparisons:
        comparisons.add([Label(ids[0], "withdrawn", "0", revision=1), Label(ids[1], "second", "1", revision=1)])
        comparisons.add([Label(ids[2], "skip", "somebody else")])
    assert read_labelled(tmp_path / "comparisons", task).labels.tolist() == [1.0, 1.0, 0.0]


def test_what_cannot_be_learnt_from_is_refused(task, tmp_path):
    with pytest.raises(StoreError, match="There is no store of labels"):
        read_labelled(tmp_path / "nowhere", task)
    pairs = random_pairs(task.data, 4)
    store(tmp_path / "held", task, pairs, split="held-out")
    with pytest.raises(DataError, match="only of pairs that are held out"):
        read_labelled(tmp_path / "held", task)
    other = replace(task, data=replace(task.data, metadata={**task.data.metadata, "sha256": "f" * 64}))
    store(tmp_path / "other", other, pairs)
    with pytest.raises(DataError, match=r"^The pairs in .*other are of .* \(ffffffffffff\), not of"):
        read_labelled(tmp_path / "other", task)
    store(tmp_path / "long", task, replace(pairs, starts=pairs.starts + 50))
    with pytest.raises(DataError, match=f"compares the segment {key_of(task.data)}.*, which is not in"):
        read_labelled(tmp_path / "long", task)
    store(tmp_path / "empty", task, random_pairs(task.data, 0))
    with pytest.raises(DataError, match="of no pair"):
        read_labelled(tmp_path / "empty", task)
    (tmp_path / "damaged").write_bytes(b"nothing")
    with pytest.raises(DataError, match="labelled pairs of this run cannot be read"):
        LabelledPairs.load(tmp_path / "damaged")


def test_labels_that_come_after_a_run_has_begun_change_nothing(task, tmp_path, monkeypatch):
    score_in_point_env(monkeypatch)
    store(tmp_path / "comparisons", task, random_pairs(task.data, 6))
    fields = {"algorithm": "o-mapl", "preferences": str(tmp_path / "comparisons"), "steps": 20, "checkpoint_every": 5}
    straight = small_run(tmp_path / "straight", task.id, **fields)
    start_and_kill(tmp_path / "killed", task.id, 12, **fields)
    store(tmp_path / "comparisons", task, random_pairs(task.data, 20, seed=1))
    resumed = resume(tmp_path / "killed")
    assert (tmp_path / "killed" / FILE).is_file()
    one, other = (result.algorithm.state_dict() for result in (straight, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one if isinstance(one[name], torch.Tensor))
