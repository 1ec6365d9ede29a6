"""Sets that stay on disk are what they would be in memory, entry for entry."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from worlds import reacher_recording, saved, world

from offline_marl.core.partition import partition
from offline_marl.core.types import Batch, Needs
from offline_marl.datasets import normalize
from offline_marl.datasets.base import clipped
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.columns import Columns
from offline_marl.datasets.episode_index import episodes_apart
from offline_marl.datasets.episodes import join
from offline_marl.datasets.files import save_data
from offline_marl.datasets.normalize import obs_statistics
from offline_marl.tasks.data_tasks import open_task


def refuse_difference(one: Batch, other: Batch) -> None:
    for item in fields(Batch):
        left, right = getattr(one, item.name), getattr(other, item.name)
        assert (left is None) == (right is None), item.name
        assert left is None or (left.dtype == right.dtype and torch.equal(left, right)), item.name


@pytest.mark.parametrize("view", ["2x1_full", "2x1first_0", "2x1notip_0"])
@pytest.mark.parametrize("window", [0, 3])
def test_a_mapped_split_gives_the_same_batches(view: str, window: int) -> None:
    recording, shares = reacher_recording(), partition("reacher", *view.split("_"))
    plain, mapped = recording.split(shares), recording.split(shares, mapped=True)
    assert isinstance(mapped.obs, Columns) and mapped.obs.shape == plain.obs.shape
    one, other = TransitionBuffer(plain, window), TransitionBuffer(mapped, window, stays=True)
    index = torch.randperm(len(one))
    refuse_difference(one.transitions(index), other.transitions(index))
    refuse_difference(one.segments(index[:5], 4), other.segments(index[:5], 4))
    for left, right in zip(obs_statistics(plain), obs_statistics(mapped), strict=True):
        assert torch.equal(left, right)
    chosen = torch.tensor([4, 1])
    assert torch.equal(plain.select(chosen).obs, mapped.select(chosen).obs)
    assert torch.equal(plain.episode(2).actions, mapped.episode(2).actions)


def test_a_mapped_split_is_saved_clipped_and_joined_as_the_whole_one_is(tmp_path: Path) -> None:
    recording, shares = reacher_recording(), partition("reacher", "2x1first", "0")
    recording = replace(recording, actions=recording.actions * 2)
    plain, mapped = recording.split(shares), recording.split(shares, mapped=True)
    one, other = (save_data(tmp_path / f"{name}.safetensors", data) for name, data in (("a", plain), ("b", mapped)))
    assert (
        one == other
        and mapped.save(tmp_path / "c.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    )
    assert clipped(mapped).metadata["clipped_actions"] == clipped(plain).metadata["clipped_actions"] > 0
    assert torch.equal(clipped(mapped).actions, clipped(plain).actions)
    whole, pieces = (join([data, data], {}) for data in (plain, mapped))
    assert torch.equal(whole.obs, pieces.obs) and torch.equal(whole.actions, pieces.actions)


def test_a_set_that_takes_more_than_it_may_stays_on_disk(tmp_path: Path) -> None:
    task = saved(tmp_path, reacher_recording()) + "_2x1_full"
    assert not open_task(task).mapped
    mapped = open_task(task, memory=1e-9)
    assert mapped.mapped and isinstance(mapped.data.obs, Columns)
    team = saved(tmp_path, world("continuous"), "team.safetensors")
    assert open_task(team, memory=1e-9).mapped and not open_task(team).mapped


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
@pytest.mark.parametrize("window", [0, 2])
def test_a_buffer_of_some_episodes_is_that_of_their_selection(kind: str, window: int) -> None:
    data = world(kind)
    for episodes in episodes_apart(data.lengths, 0.4, seed=1):
        one, other = TransitionBuffer(data.select(episodes), window), TransitionBuffer(data, window, episodes=episodes)
        assert len(one) == len(other) and torch.equal(one.first, other.first)
        index = torch.arange(len(one))
        refuse_difference(one.transitions(index), other.transitions(index))
        refuse_difference(*(each.view(index, Needs(view="segments", length=3)) for each in (one, other)))


def test_statistics_do_not_depend_on_the_size_of_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    data = world("continuous")
    whole = obs_statistics(data)
    monkeypatch.setattr(normalize, "ROWS_AT_ONCE", 7)
    for one, other in zip(whole, obs_statistics(data), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
