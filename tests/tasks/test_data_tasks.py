from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from runs import small_run
from worlds import reacher_recording, saved, world

from offline_marl.core.partition import partition
from offline_marl.core.types import DataError
from offline_marl.datasets import catalog
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.catalog import UnknownDatasetError
from offline_marl.datasets.files import load_data, save_data
from offline_marl.tasks import data_tasks as training_data
from offline_marl.tasks.data_tasks import load_dataset, open_task


def test_a_recordings_file_is_split_as_its_task_says(tmp_path):
    path = saved(tmp_path, reacher_recording())
    task = open_task(f"{path}_2x1notip_0")
    assert task.partition == partition("reacher", "2x1notip", "0") and task.reference.expert == -4.0
    assert task.data.spec.obs_dims == task.partition.obs_dims
    assert torch.equal(task.data.state, reacher_recording().state)
    assert torch.equal(load_dataset(f"{path}_2x1notip_0").obs, task.data.obs)


def test_a_data_sets_file_is_taken_as_it_is(tmp_path):
    task = open_task(saved(tmp_path, world("discrete")))
    assert task.partition is None and task.reference is None and task.make_env(2) is None
    assert torch.equal(task.data.obs, world("discrete").obs) and task.data.spec == world("discrete").spec


def test_a_split_data_set_remembers_where_it_can_be_scored(tmp_path):
    split = reacher_recording().split(partition("reacher", "2x1first", "0"))
    task = open_task(saved(tmp_path, split))
    assert task.partition == partition("reacher", "2x1first", "0") and task.reference.random == -11.0


@pytest.mark.parametrize(
    ("name", "scenario", "n_agents"),
    [("coordination-mix-v0", "coordination", 3), ("rendezvous-left-v0", "rendezvous", 2)],
)
def test_data_of_a_team_is_named_alone_and_scored_where_it_was_recorded(name, scenario, n_agents):
    task = open_task(name)
    assert task.partition is None and task.data.metadata["scenario"] == scenario
    env = task.make_env(4)
    assert env.spec == task.data.spec and env.spec.n_agents == n_agents and env.copies == 4
    assert (task.reference.random, task.reference.expert) == (
        catalog.find(name).reference.random,
        catalog.find(name).reference.expert,
    )


@pytest.mark.parametrize("name", ["coordination-single-v0", "rendezvous-mix-v0"])
def test_a_run_on_data_of_a_team_is_scored_also_from_an_object(tmp_path, name):
    named = small_run(tmp_path / "named", name, steps=3)
    given = small_run(tmp_path / "given", load_dataset(name), steps=3)
    assert named.score.normalized is not None and named.score.returns.tolist() == given.score.returns.tolist()


def test_a_team_of_another_size_than_its_environment_is_refused(tmp_path):
    data = replace(world("discrete"), metadata={"scenario": "coordination"})
    with pytest.raises(
        DataError,
        match="but its team is of another size: it has obs.*, the environment's has obs",
    ):
        open_task(saved(tmp_path, data)).make_env(2)


def test_a_split_data_set_is_not_split_again(tmp_path):
    path = saved(tmp_path, world("continuous"))
    with pytest.raises(DataError, match=r"split among agents already: leave _2x1_full away"):
        open_task(f"{path}_2x1_full")


@pytest.mark.parametrize(
    ("task", "error", "said"),
    [
        ("reacher-scripted-mixx-v0_2x1_full", UnknownDatasetError, "did you mean 'reacher-scripted-mix-v0'"),
        ("reacher-scripted-mix-v0_3x3_full", ValueError, r"reacher conf '3x3': there are: .*2x1"),
        ("reacher-scripted-mix-v0_2x1_far", ValueError, r"reacher view 'far': there are: .*full"),
        ("reacher-scripted-mix-v0", ValueError, "does not say who sees what"),
        ("coordination-mix-v0_2x1_0", DataError, "split among agents already: leave _2x1_0 away"),
        ("coordination-mixx-v0", UnknownDatasetError, "did you mean 'coordination-mix-v0'"),
        ("nowhere.safetensors", DataError, "There is no file nowhere.safetensors"),
        ("nowhere.safetensors_2x1_full", DataError, "There is no file nowhere.safetensors"),
    ],
)
def test_an_unknown_task_says_what_there_is_and_makes_nothing(monkeypatch, task, error, said):
    monkeypatch.setattr(training_data, "make_scripted", lambda *_: pytest.fail("nothing should be made"))
    with pytest.raises(error, match=said) as refusal:
        open_task(task)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "text"])
def test_a_damaged_file_is_one_sentence(tmp_path, damage):
    path = tmp_path / "data.safetensors"
    save_data(path, world("continuous"))
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes({"truncated": content[:-40], "changed": content, "empty": b"", "text": b"hello" * 99}[damage])
    with pytest.raises(DataError, match=r"data\.safetensors") as refusal:
        open_task(str(path))
    assert "\n" not in str(refusal.value)


def test_a_file_of_an_unknown_scenario_or_of_none_is_refused(tmp_path):
    path = saved(tmp_path, replace(reacher_recording(), metadata={"scenario": "octopus"}))
    with pytest.raises((DataError, ValueError), match="octopus"):
        open_task(f"{path}_2x1_full")
    with pytest.raises(DataError, match="does not say which scenario it was recorded in"):
        open_task(f"{saved(tmp_path, replace(reacher_recording(), metadata={}))}_2x1_full")


def test_a_catalogue_set_is_made_on_first_use_and_then_read(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path))
    made = []

    def make(entry, path):
        made.append(entry.name)
        save_data(path, reacher_recording())

    monkeypatch.setattr(training_data, "make_scripted", make)
    for view in ("full", "0"):
        conf = "2x1" if view == "full" else "2x1first"
        assert isinstance(load_dataset(f"reacher-scripted-mix-v0_{conf}_{view}"), Dataset)
    assert made == ["reacher-scripted-mix-v0"]
    assert load_data(catalog.home() / "datasets" / "reacher-scripted-mix-v0.safetensors").metadata["sha256"]


def test_who_wants_a_set_together_makes_it_once(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path))
    made, both = [], threading.Barrier(2)

    def make(entry, path):
        made.append(entry.name)
        time.sleep(0.2)
        save_data(path, reacher_recording())

    def want(_):
        both.wait()
        return load_dataset("reacher-scripted-mix-v0_2x1_full").metadata["sha256"]

    monkeypatch.setattr(training_data, "make_scripted", make)
    with ThreadPoolExecutor(2) as wanting:
        assert len(set(wanting.map(want, range(2)))) == 1
    assert len(made) == 1


def test_a_damaged_set_of_the_catalogue_says_that_it_can_be_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path))
    path = catalog.path_of("reacher-scripted-mix-v0")
    path.parent.mkdir()
    path.write_bytes(b"half a fi")
    with pytest.raises(DataError, match=r"cannot be read .* Delete it, and it is made again\.$"):
        open_task("reacher-scripted-mix-v0_2x1notip_0")
    assert path.read_bytes() == b"half a fi", "it may be somebody's, so it is not touched"


@pytest.mark.parametrize(
    ("actions", "scale", "told"), [("discrete", 0.5, "are choices"), ("continuous", 0.01, "lie outside")]
)
def test_a_scale_that_a_sound_set_of_the_catalogue_cannot_have_deletes_nothing(
    tmp_path, monkeypatch, actions, scale, told
):
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path))
    path = catalog.path_of("coordination-mix-v0")
    path.parent.mkdir()
    save_data(path, world(actions))
    with pytest.raises(DataError, match=told) as refused:
        open_task("coordination-mix-v0", action_scale=scale)
    assert "Delete" not in str(refused.value)
