"""Ours, written as D4RL's HDF5, and read again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from worlds import reacher_recording, world

from offline_marl.core.types import DataError
from offline_marl.datasets.readers.convert import load_place
from offline_marl.datasets.writers import d4rl as writer
from offline_marl.tasks.data_tasks import open_task

h5py = pytest.importorskip("h5py")


def test_a_recording_comes_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path / "home"))
    data = reacher_recording()
    data.terminations[7], data.truncations[7] = True, False
    data = replace(data, metadata={**data.metadata, "how": "by hand " * 200, "licence": "CC0-1.0"})
    writer.write(tmp_path / "x.hdf5", data)
    found = load_place(tmp_path / "x.hdf5")
    for name in ("state", "actions", "rewards", "terminations", "truncations", "lengths"):
        assert torch.equal(getattr(found, name), getattr(data, name)), name
    assert {**found.metadata, **data.metadata} == found.metadata and found.metadata["format"] == "d4rl"
    assert open_task(f"{tmp_path / 'x.hdf5'}_2x1_full").reference is not None
    with h5py.File(tmp_path / "x.hdf5") as file:  # as D4RL's own loaders look at it
        assert set(file) >= {"observations", "actions", "rewards", "terminals", "timeouts"}
    assert [each.name for each in tmp_path.glob("*x*")] == ["x.hdf5"]


def test_metadata_that_leave_something_open_come_back_as_they_were(tmp_path: Path) -> None:
    open_ones = {"reference": {"random": 1.5, "expert": None}, "how": None, "licence": None}
    data = replace(reacher_recording(), metadata={**reacher_recording().metadata, **open_ones}).check()
    writer.write(tmp_path / "x.hdf5", data)
    assert {**load_place(tmp_path / "x.hdf5").metadata, **open_ones} == load_place(tmp_path / "x.hdf5").metadata


def test_a_teams_data_has_no_place_in_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="what one body did"):
        writer.write(tmp_path / "x.hdf5", world("continuous", 2))
    assert not list(tmp_path.iterdir())


def test_strange_metadata_are_one_sentence(tmp_path: Path) -> None:
    writer.write(tmp_path / "x.hdf5", reacher_recording())
    for text in ("{", "[]", '{"scenario": []}', '{"reference": {"random": "1"}}'):
        with h5py.File(tmp_path / "x.hdf5", "a") as file:
            del file["offline_marl"]
            file["offline_marl"] = text
        with pytest.raises(DataError, match=r"x\.hdf5: its 'offline_marl' is not what this library writes there"):
            load_place(tmp_path / "x.hdf5")
