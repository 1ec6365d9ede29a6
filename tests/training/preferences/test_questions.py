"""Questions of a run, and what its folder states of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from offline_marl.core.permissions import ImportPath
from offline_marl.labelling.places import scene_of
from offline_marl.runs.config import RunConfig
from offline_marl.runs.folder import RunFolder
from offline_marl.tasks import environment_tasks
from offline_marl.training.preferences.folders import ComparisonFolder
from offline_marl.training.preferences.questions import Questions, run_id


@pytest.mark.parametrize(
    ("fields", "scene"),
    [
        ({"environment": "rendezvous"}, {"scenario": "rendezvous"}),
        pytest.param(
            {"environment": "reacher_2x1notip_0", "max_steps": 7},
            {"scenario": "reacher", "conf": "2x1notip", "view": "0", "max_steps": 7},
            marks=pytest.mark.mujoco,
        ),
    ],
)
def test_segments_of_a_run_name_their_scene_where_the_run_is_not(tmp_path, monkeypatch, fields, scene) -> None:
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 100)
    config = RunConfig(algorithm="masac", dataset=None, steps=10, teacher="human", query_length=3, **fields)
    task = environment_tasks.open_environment_task(config, permit=ImportPath)
    with Questions(config, RunFolder(tmp_path / "run"), task).open() as folder:
        facts = folder.store.facts()
    assert facts["scene"] == scene
    with ComparisonFolder(tmp_path / "elsewhere", make=True) as folder:
        folder.store.state({name: facts[name] for name in ("data", "task", "scene")})
        env, scenario, _ = scene_of(folder)
        assert env is not None and scenario == scene["scenario"]


@pytest.mark.parametrize("teacher", ["human", "simulated"])
def test_runs_that_people_answer_name_their_segments_apart_and_keep_the_name(tmp_path, monkeypatch, teacher) -> None:
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 100)
    fields = {"environment": "rendezvous", "teacher": teacher, "query_length": 3}
    config = RunConfig(algorithm="masac", dataset=None, steps=10, **fields)
    task = environment_tasks.open_environment_task(config, permit=ImportPath)

    def key_in(place) -> str:
        with Questions(config, RunFolder(place), task).open() as folder:
            return str(folder.store.facts()["data"]["key"])

    one, other = key_in(tmp_path / "one"), key_in(tmp_path / "other")
    assert key_in(tmp_path / "one") == one, "as when it is resumed"
    assert (one == other) is (teacher == "simulated") is (one == f"run:{run_id(config)}")


def test_a_scale_that_is_rounded_otherwise_after_a_restart_is_the_one_that_was_stated(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 100)
    fields = {"environment": "rendezvous", "teacher": "human", "query_length": 3}
    config = RunConfig(algorithm="masac", dataset=None, steps=10, **fields)
    task = environment_tasks.open_environment_task(config, permit=ImportPath)
    first = Questions(config, RunFolder(tmp_path / "run"), task)
    with first.open() as folder:
        stated = folder.scale
    again = Questions(config, RunFolder(tmp_path / "run"), task)
    again.scale = replace(again.scale, mean=again.scale.mean + 1e-15 + 1e-12)
    with again.open() as folder:
        assert folder.scale == stated
