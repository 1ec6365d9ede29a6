"""Ours, written by the real minari, read by the real minari and by us."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import reacher_recording, world

from offline_marl.core.types import DataError
from offline_marl.datasets.arrays.presence import rows_mask
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.readers.convert import load_place
from offline_marl.datasets.readers.minari.storages import STORAGES
from offline_marl.datasets.writers import minari as writer
from offline_marl.tasks.data_tasks import open_task

minari = pytest.importorskip("minari")
pytest.importorskip("pyarrow")

ABOUT = {
    "name": "made-up",
    "scenario": "nowhere",
    "reference": {"random": -11.0, "expert": -4.0, "note": "made up"},
    "versions": {"offline_marl": "0.1.0", "mujoco": "4.0.0"},
    "how": "by hand",
    "licence": "CC0-1.0",
    "sha256": "of our own file",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def assert_equal(found: Recording | Dataset, data: Recording | Dataset) -> None:
    for name in data.__dataclass_fields__:
        one, other = getattr(found, name), getattr(data, name)
        if name != "metadata":
            assert torch.equal(one, other) if isinstance(other, torch.Tensor) else one == other, name
    kept = {key: value for key, value in data.metadata.items() if key != "sha256"}
    assert {key: found.metadata[key] for key in kept} == kept and found.metadata["format"] == "minari"


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", ["continuous", "discrete", "body", "ends apart", "late"])
def test_a_set_survives_every_storage(tmp_path: Path, storage: str, kind: str) -> None:
    data: Any = reacher_recording() if kind == "body" else world("discrete" if kind == "discrete" else "continuous", 4)
    data = replace(data, metadata={**ABOUT, **({"scenario": "reacher"} if kind == "body" else {})})
    if kind == "late":  # all end together, and one comes later
        mask = torch.ones_like(data.terminations)
        mask[0, 1] = False
        data = replace(
            data,
            obs=data.obs.masked_fill(~rows_mask(mask, data.lengths).unsqueeze(-1), 0),
            actions=data.actions.masked_fill(~mask.unsqueeze(-1), 0),
            rewards=data.rewards.masked_fill(~mask, 0),
            mask=mask,
        ).check()
    if kind == "ends apart":  # one agent leaves before the others, another comes later, and one end is unknown
        mask = torch.ones_like(data.terminations)
        mask[2 : int(data.lengths[0]), 0] = mask[0, 1] = False
        data.terminations[1, 0], data.terminations[int(data.lengths[0]) - 1, 0] = True, False
        data = Dataset.from_arrays(
            list(data.obs[:, i, :width] for i, width in enumerate(data.spec.obs_dims)),
            list(data.actions[:, i, :width] for i, width in enumerate(data.spec.act_dims)),
            data.rewards,
            lengths=data.lengths,
            terminations=data.terminations,
            truncations=data.truncations,
            state=data.state,
            mask=mask,
            metadata=data.metadata,
        )
        data = replace(data, ends_seen=torch.tensor([True, True, False, True])).check()
    assert writer.write(tmp_path / "team" / "made-v3", data, storage, "team/made-v3") == "team/made-v3"
    assert_equal(load_place(tmp_path / "team" / "made-v3"), data)
    if kind == "body":
        assert torch.equal(open_task("minari://team/made-v3_2x1_full").data.state, data.state)
    assert sorted(each.name for each in (tmp_path / "team").iterdir()) == ["made-v3"]


@pytest.mark.parametrize("storage", STORAGES)
def test_the_folder_may_be_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    monkeypatch.chdir(tmp_path)
    writer.write(Path("deep/made-v0"), replace(world("continuous", 2), metadata=ABOUT), storage)
    assert_equal(load_place(Path("deep/made-v0")), replace(world("continuous", 2), metadata=ABOUT))


@pytest.mark.parametrize("storage", STORAGES)
def test_minari_reads_it_too(tmp_path: Path, storage: str) -> None:
    data = replace(world("discrete", 3), metadata=ABOUT)
    writer.write(tmp_path / "made-v0", data, storage)
    found = minari.load_dataset("made-v0")
    assert found.storage.metadata["dataset_size"] == found.storage.get_size()
    assert found.total_steps == len(data) and found.storage.metadata["ref_max_score"] == -4.0
    for number, episode in enumerate(found.iterate_episodes()):
        held = data.episode(number)
        np.testing.assert_allclose(episode.rewards, held.rewards.mean(-1), rtol=1e-6)
        np.testing.assert_array_equal(episode.infos["rewards"][1:], held.rewards)
        np.testing.assert_array_equal(episode.infos["state"], held.state)
        for agent, width in enumerate(data.spec.obs_dims):
            np.testing.assert_array_equal(episode.observations[f"agent_{agent}"], held.obs[:, agent, :width])
            np.testing.assert_array_equal(episode.actions[f"agent_{agent}"], held.actions[:, agent])


def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = world("continuous", 2)
    (tmp_path / "there-v0").mkdir()
    for folder, storage, name, said in (
        ("there-v0", "hdf5", None, "there-v0 exists"),
        ("x-v0", "zarr", None, "not as 'zarr'"),
        ("x-v0", "hdf5", "../x-v0", "should be an id of Minari's"),
        ("x y", "hdf5", None, "should be an id of Minari's"),
    ):
        with pytest.raises(DataError, match=said):
            writer.write(tmp_path / folder, data, storage, name)

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "_team", full)
    with pytest.raises(OSError, match="No space left"):
        writer.write(tmp_path / "x-v0", data)
    assert [each.name for each in tmp_path.iterdir()] == ["there-v0"]
    monkeypatch.undo()
    assert writer.write(tmp_path / "x", data) == "x-v0"


@pytest.mark.parametrize("kind", ["body", "team"])
def test_minari_recovers_the_environment_of_a_gymnasium_body(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("mujoco")
    data: Any = reacher_recording()
    about = {
        **ABOUT,
        "versions": {"env_id": "Reacher-v5"},
        "actors": [{"name": "left", "episodes": 3}],
        "author": "Ada",
    }
    data = replace(data, metadata=about) if kind == "body" else replace(world("continuous", 4), metadata=about)
    writer.write(tmp_path / "mine" / "x-v0", data)
    found = minari.load_dataset("mine/x-v0")
    env = found.recover_environment()
    try:
        assert env.spec.id == "Reacher-v5"
        if kind == "body":
            assert env.observation_space.shape == found.observation_space.shape
    finally:
        env.close()
    metadata = found.storage.metadata
    assert metadata["author"] == {"Ada"} and metadata["actors"] == about["actors"]
    assert metadata["algorithm_name"] == "left"
    assert load_place(tmp_path / "mine" / "x-v0").metadata["author"] == "Ada"


def test_an_environment_that_gymnasium_does_not_know_is_not_named(tmp_path: Path) -> None:
    data = replace(world("continuous", 4), metadata={**ABOUT, "versions": {"env_id": "Nowhere-v5"}})
    writer.write(tmp_path / "x-v0", data)
    assert minari.load_dataset("x-v0").env_spec is None


def test_a_folder_below_minaris_root_is_listed_under_its_place(tmp_path: Path) -> None:
    from offline_marl.launch.cli.data import convert

    source = tmp_path / "data.safetensors"
    convert.save(world("continuous", 4), source)
    convert.run([str(source), str(tmp_path / "deep" / "below" / "x-v2"), "--author", "Ada"])
    listed = minari.list_local_datasets()
    assert list(listed) == ["deep/below/x-v2"]
    assert minari.load_dataset("deep/below/x-v2").storage.metadata["author"] == {"Ada"}
    with pytest.raises(DataError, match="lies among Minari's own, which are called .*: deep/y-v0, for one"):
        convert.run([str(source), str(tmp_path / "deep" / "y")])
    assert writer.id_of(tmp_path.parent / "elsewhere") == "elsewhere-v0"


@pytest.mark.parametrize("total", ["total_episodes", "total_steps"])
def test_other_totals_than_the_metadata_tell_are_refused(tmp_path: Path, total: str) -> None:
    import json

    writer.write(tmp_path / "x-v0", world("continuous", 4))
    file = tmp_path / "x-v0" / "data" / "metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), total: 7}))
    with pytest.raises(DataError, match=f"its metadata say {total} is 7, its files hold"):
        load_place(tmp_path / "x-v0")
