"""A field that holds a path needs one annotation; runs, jobs, sweeps and reports ask for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import Field
from runs import Killed, kill_at, small_run
from worlds import saved, world

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.bc import BC
from offline_marl.core.config import Config
from offline_marl.core.places import DatasetPlace, FilePlace, RunPlace, place_fields, with_whole_places
from offline_marl.launch.jobs import job as jobs
from offline_marl.launch.jobs.job import Job, perform
from offline_marl.launch.sweeps.file import read_sweep_file
from offline_marl.launch.sweeps.folder import Sweep, merge
from offline_marl.launch.sweeps.plan import plan
from offline_marl.report.gather.gathering import gather
from offline_marl.runs.config import FitConfig, RewardFitConfig, RunConfig
from offline_marl.runs.folder import RunFolder
from offline_marl.training import run

DEFAULT = "tables/default.csv"


class Inner(Config):
    weights: FilePlace = ""
    title: str = "a/b"


class Referring(BC):
    """Behaviour cloning whose settings name files and runs in every way that a config can."""

    class Config(BC.Config):  # type: ignore[name-defined, misc]
        guide: RunPlace | None = None
        table: FilePlace = DEFAULT
        guides: tuple[RunPlace, ...] = ()
        named: dict[str, FilePlace] = Field(default_factory=dict)
        demonstrations: DatasetPlace | None = None
        inner: Inner = Inner()
        words: str = "a/b"


@pytest.fixture(autouse=True)
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    algorithms.register("referring")(Referring)
    monkeypatch.chdir(tmp_path)
    yield
    algorithms._loaded.pop("referring")


@pytest.fixture
def data(tmp_path: Path) -> str:
    saved(tmp_path, world("continuous"))
    return "data.safetensors"


def elsewhere(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    patch.chdir(tmp_path / "elsewhere")


GIVEN = {
    "guide": "runs/a",
    "guides": ["runs/a", "/b"],
    "named": {"one": "x.csv"},
    "demonstrations": "data.safetensors",
    "inner": {"weights": "w.bin", "title": "c/d"},
    "words": "c/d",
}


def whole(at: Path) -> dict[str, object]:
    return {
        "guide": f"{at}/runs/a",
        "table": f"{at}/{DEFAULT}",
        "guides": [f"{at}/runs/a", "/b"],
        "named": {"one": f"{at}/x.csv"},
        "demonstrations": f"{at}/data.safetensors",
        "inner": {"weights": f"{at}/w.bin", "title": "c/d"},
        "words": "c/d",
    }


def test_the_settings_of_every_run_and_fit_say_which_are_paths() -> None:
    paths = {"dataset", "world_model", "init", "env_settings", "answers_of"}
    paths |= {"reward_model", "reference_policy", "preferences"}
    assert place_fields(RunConfig) == paths
    assert place_fields(FitConfig) == {"dataset"}
    assert place_fields(RewardFitConfig) == {"dataset", "preferences"}
    assert place_fields(Referring.Config) == {"guide", "table", "guides", "named", "demonstrations", "inner"}


def test_what_is_no_text_is_left_for_the_config_to_refuse() -> None:
    odd = {"guide": 3, "guides": 4, "named": "x", "inner": 5}
    made = with_whole_places(odd, Referring.Config, lambda _, named: f"/{named}")
    assert {name: made[name] for name in odd} == odd


def test_a_name_of_the_catalogue_and_a_kind_of_model_are_no_paths(tmp_path: Path) -> None:
    config = run.prepare("bc", "reacher-scripted-mix-v0_2x1notip_0", {"world_model": "oracle", "init": "runs/a"})
    assert (config.dataset, config.world_model) == ("reacher-scripted-mix-v0_2x1notip_0", "oracle")
    assert config.init == f"{tmp_path}/runs/a"


def test_only_a_run_that_is_there_acts_in_an_environment(tmp_path: Path) -> None:
    (tmp_path / "runs/a").mkdir(parents=True)
    for prey, meant in (("runs/a", f"{tmp_path}/runs/a"), ("mine.module:act", "mine.module:act")):
        given = {"environment": "simple-tag", "env_settings": {"prey": prey, "N": 3}}
        assert run.prepare("ma-ppo", None, given).env_settings == {"prey": meant, "N": 3}


def test_a_run_writes_whole_paths_down_and_goes_on_from_elsewhere(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 30)
        small_run(tmp_path / "run", data, "referring", **GIVEN)
    config = RunFolder(tmp_path / "run").config()
    assert config.dataset == f"{tmp_path}/data.safetensors"
    assert {name: config.settings[name] for name in whole(tmp_path)} == whole(tmp_path)
    elsewhere(tmp_path, monkeypatch)
    assert run.resume("../run").folder.joinpath("DONE").exists()
    assert RunFolder(tmp_path / "run").config() == config


def test_a_job_means_the_same_wherever_it_is_performed(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = {"steps": 2, "hidden": [8], "batch_size": 4, "final_episodes": 1, "device": "cpu"}
    job = jobs.checked(Job(name="referring", fields={"dataset": data, **GIVEN, **tiny}, out=Path("run")))
    elsewhere(tmp_path, monkeypatch)
    perform(job)
    settings = RunFolder(tmp_path / "run").config().settings
    assert {name: settings[name] for name in whole(tmp_path)} == whole(tmp_path)
    perform(job.model_copy(update={"fields": {**job.fields, "guide": "/moved/runs/a"}}))  # another machine's path


def test_a_sweep_keeps_whole_paths_and_its_file_adds_nothing_twice(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(
        f'algorithms = ["referring"]\ndatasets = ["{tmp_path}/{data}"]\nseeds = [0]\n'
        '[fields]\ntable = "t.csv"\n[grid]\nguide = ["runs/a", "runs/b"]\n'
    )
    planned = plan(read_sweep_file(file))
    assert [job.fields["guide"] for job in planned] == [f"{tmp_path}/runs/a", f"{tmp_path}/runs/b"]
    assert {job.fields["table"] for job in planned} == {f"{tmp_path}/t.csv"}
    # Sweeps that earlier versions began remember paths as they were given.
    older = [job.model_copy(update={"fields": {**job.fields, "table": "t.csv"}}) for job in planned]
    assert not merge(older, plan(read_sweep_file(file)), "the file").new
    sweep = Sweep(tmp_path / "sweep")
    elsewhere(tmp_path, monkeypatch)
    assert jobs.checked(sweep.job(planned[0])).fields["guide"] == f"{tmp_path}/runs/a"


def test_a_report_names_what_a_path_leads_to_without_the_seed(tmp_path: Path) -> None:
    for guide in ("small", "large"):
        for seed in (0, 1):
            settings = {"guide": f"{tmp_path}/{guide}_seed{seed}", "hidden": [8]}
            _finished(tmp_path / f"runs/{guide}{seed}", seed, settings)
    found = gather([tmp_path / "runs"])
    assert {each.label for each in found.runs} == {"referring, guide small", "referring, guide large"}


def _finished(path: Path, seed: int, settings: dict[str, object]) -> None:
    path.mkdir(parents=True)
    config = RunConfig(algorithm="referring", dataset="/toy.safetensors", seed=seed, steps=20, settings=settings)
    (path / "config.json").write_text(config.model_dump_json())
    (path / "DONE").write_text(json.dumps({"steps": 20, "wall_s": 1.0, "score": {"return": 1.0}}))
