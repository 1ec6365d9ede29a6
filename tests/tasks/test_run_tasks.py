"""A run remembers its task: what is asked of a finished one needs its folder alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import score_in_point_env, small_run, start_and_kill
from worlds import reacher_recording, saved

from offline_marl.collection.collect import collect
from offline_marl.collection.config import CollectConfig
from offline_marl.core.config import build
from offline_marl.core.permissions import ImportPath
from offline_marl.core.reference import UNIFORM_RETURNS
from offline_marl.core.types import DataError, Spec
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.files import load_data, save_data
from offline_marl.films.frames import frames
from offline_marl.films.videos import film
from offline_marl.report.crossplay.crossplay import crossplay
from offline_marl.runs.config import EnvironmentChoice
from offline_marl.runs.folder import RunFolder, RunFolderError
from offline_marl.tasks import environment_tasks
from offline_marl.tasks.data_tasks import open_task
from offline_marl.tasks.environment_tasks import find_environment_task, play_uniformly
from offline_marl.tasks.run_tasks import describe_task, scored_in_named, scored_task_of
from offline_marl.training import run, training_run

REFERENCE = {"random": -3.0, "expert": 1.0, "note": "of then"}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 50)


def recorded(path: Path, **about: Any) -> str:
    """Uniform play in rendezvous, in a file."""
    data = play_uniformly(find_environment_task("rendezvous", permit=ImportPath), 100)
    save_data(path, replace(data, metadata={**data.metadata, "reference": REFERENCE, **about}))
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return recorded(tmp_path / "data.safetensors")


def lose(data: str, how: str) -> None:
    if how == "moved":
        Path(data).rename(f"{data}.elsewhere.safetensors")
    elif how == "deleted":
        Path(data).unlink()
    else:
        Path(data).write_bytes(b"damaged")


@pytest.mark.parametrize("how", ["moved", "deleted", "damaged"])
def test_a_finished_run_is_scored_and_seen_again_without_its_data(tmp_path: Path, data: str, how: str) -> None:
    made = small_run(tmp_path / "run", data)
    before = run.evaluate(tmp_path / "run", episodes=4, seed=3)
    assert made.score is not None and made.score.normalized is not None
    lose(data, how)
    after = run.evaluate(tmp_path / "run", episodes=4, seed=3)
    assert after.row() == before.row() and after.versions == before.versions
    again = run.resume(tmp_path / "run")
    assert again.score is not None and again.score.row() == made.score.row()
    for name, value in again.algorithm.state_dict().items():
        assert name == "_extra_state" or np.array_equal(value.cpu(), made.algorithm.state_dict()[name].cpu())


def test_an_unfinished_run_is_scored_without_its_data_and_says_that_it_needs_it_to_go_on(
    tmp_path: Path, data: str
) -> None:
    start_and_kill(tmp_path / "run", data, 30)
    Path(data).unlink()
    assert run.evaluate(tmp_path / "run", episodes=2).normalized is not None
    with pytest.raises(DataError, match=r"run is unfinished and needs its data to go on: There is no file .*\.$"):
        run.resume(tmp_path / "run")
    recorded(Path(data))
    assert run.resume(tmp_path / "run").score is not None


def test_runs_play_together_without_their_data(tmp_path: Path, data: str) -> None:
    for seed in (0, 1):
        small_run(tmp_path / str(seed), data, seed=seed)
    before = crossplay([tmp_path / "0", tmp_path / "1"], episodes=4)
    Path(data).unlink()
    after = crossplay([tmp_path / "0", tmp_path / "1"], episodes=4)
    assert np.array_equal(after.returns, before.returns)
    assert after.reference == before.reference and after.reference is not None and after.task == "rendezvous"


def test_a_run_is_filmed_without_its_data(tmp_path: Path) -> None:
    pytest.importorskip("mpe2")
    short = {"settings": {"N": 2}, "max_steps": 6}
    played = play_uniformly(find_environment_task("simple-spread", {"N": 2}, 6, permit=ImportPath), 60)
    file = tmp_path / "data.safetensors"
    save_data(file, replace(played, metadata={**played.metadata, **short}))
    small_run(tmp_path / "run", str(file), steps=1, final_episodes=1)
    before = frames(tmp_path / "run", seed=1)
    assert len(before) == 7, "settings and length of episodes are those of the data"
    file.unlink()
    assert np.array_equal(frames(tmp_path / "run", seed=1), before)
    pytest.importorskip("imageio_ffmpeg")
    assert film(tmp_path / "run", tmp_path / "film.gif", 1, 0).path.exists()


def test_the_reference_scores_of_then_stand_though_the_file_has_others_now(
    tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small_run(tmp_path / "run", data)
    capsys.readouterr()
    before = run.evaluate(tmp_path / "run", episodes=2)
    assert "warning" not in capsys.readouterr().err
    recorded(Path(data), reference={"random": 0.0, "expert": 500.0, "note": "of now"})
    after = run.evaluate(tmp_path / "run", episodes=2)
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(said) == 1 and "data.safetensors is not the data that" in said[0]
    assert after.row() == before.row() and after.reference is not None and after.reference.note == "of then"
    assert run.resume(tmp_path / "run").score is not None


def test_a_data_set_of_ones_own_and_an_environment_need_no_file_either(tmp_path: Path) -> None:
    own = play_uniformly(find_environment_task("rendezvous", permit=ImportPath), 100)
    assert isinstance(own, Dataset)
    small_run(tmp_path / "own", own, steps=1)
    small_run(tmp_path / "live", None, "ma-ppo", environment="coordination", steps=1, final_episodes=2)
    for name, file in (("own", "dataset.safetensors"), ("live", "uniform.safetensors")):
        before = run.evaluate(tmp_path / name, episodes=2)
        (tmp_path / name / file).unlink()
        assert run.evaluate(tmp_path / name, episodes=2).row() == before.row()
    assert run.evaluate(tmp_path / "live", episodes=2).random_return is not None


def test_the_folder_tells_what_the_data_was(tmp_path: Path, data: str) -> None:
    small_run(tmp_path / "run", data, steps=1)
    told = json.loads((tmp_path / "run/task.json").read_text())
    done = json.loads((tmp_path / "run/DONE").read_text())
    assert told["scenario"] == "rendezvous" and told["reference"] == REFERENCE
    assert told["dataset"] == done["data"] and len(told["dataset"]["sha256"]) == 64
    assert told["longest_episode"] > 0 and told["spec"]["obs_dims"]


def test_a_run_that_is_scored_elsewhere_keeps_the_reference_scores_of_its_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mpe2")
    played = play_uniformly(find_environment_task("simple-spread", {"N": 2}, 6, permit=ImportPath), 60)
    file = tmp_path / "data.safetensors"
    about = {"settings": {"N": 2}, "max_steps": 6, "reference": REFERENCE, "versions": {"mpe2": "0"}}
    save_data(file, replace(played, metadata={**played.metadata, **about}))
    there = {"environment": "simple-spread", "env_settings": {"N": 2}}
    small_run(tmp_path / "own", str(file), steps=1, final_episodes=2)
    small_run(tmp_path / "run", str(file), steps=1, final_episodes=2, **there, max_steps=8)
    told = json.loads((tmp_path / "run/task.json").read_text())
    assert (told["elsewhere"], told["reference"], told["recorded_reference"]) == (True, None, REFERENCE)
    own = json.loads((tmp_path / "own/task.json").read_text())
    assert told["dataset"] == own["dataset"] == json.loads((tmp_path / "run/DONE").read_text())["data"]
    capsys.readouterr()
    again = run.evaluate(tmp_path / "run", 2)
    assert again.normalized is None and again.other_versions is None
    assert "was recorded with" not in capsys.readouterr().err
    back = run.evaluate(tmp_path / "run", 2, **there, max_steps=6)
    assert back.row() == run.evaluate(tmp_path / "own", 2).row() and back.normalized is not None
    file.unlink()
    assert scored_task_of(RunFolder(tmp_path / "run")).elsewhere


def test_the_body_of_the_data_is_remembered_where_a_run_is_scored_on_another(tmp_path: Path) -> None:
    task = open_task(f"{saved(tmp_path, reacher_recording())}_2x1_full")
    swimmer = scored_in_named(task, EnvironmentChoice(environment="swimmer_2x1_full"), ImportPath)
    told = describe_task(swimmer)
    assert swimmer.elsewhere and swimmer.partition != task.partition
    assert [told[name] for name in ("scenario", "conf", "view")] == ["reacher", "2x1", "full"]
    assert told["recorded_reference"]["random"] == -11.0 != told["reference"]


def test_data_that_names_no_environment_is_of_the_one_that_is_named(tmp_path: Path) -> None:
    plain = {"name": "mine", "reference": REFERENCE}
    made = play_uniformly(find_environment_task("rendezvous", permit=ImportPath), 100)
    task = open_task(saved(tmp_path, replace(made, metadata=plain)))
    there = scored_in_named(task, EnvironmentChoice(environment="rendezvous"), ImportPath)
    assert there.elsewhere and there.data_reference == there.reference != task.reference


def test_a_run_that_is_over_tells_what_uniform_play_returned_on_a_body_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_in_point_env(monkeypatch)
    played = reacher_recording()
    plain = replace(played, metadata={**played.metadata, "reference": {}})
    made = small_run(tmp_path / "run", f"{saved(tmp_path, plain)}_2x1_full", steps=1)
    assert made.score is not None and made.score.random_return == UNIFORM_RETURNS["reacher"]
    again = run.resume(tmp_path / "run")
    assert again.score is not None and again.score.row() == made.score.row()


def test_a_folder_of_an_earlier_version_asks_the_data(tmp_path: Path, data: str) -> None:
    small_run(tmp_path / "run", data)
    before = run.evaluate(tmp_path / "run", episodes=2)
    (tmp_path / "run/task.json").unlink()
    assert run.evaluate(tmp_path / "run", episodes=2).row() == before.row()
    assert run.resume(tmp_path / "run").score is not None
    assert not (tmp_path / "run/task.json").exists(), "a finished run changes no more"
    Path(data).unlink()
    with pytest.raises(DataError, match="There is no file"):
        run.evaluate(tmp_path / "run", episodes=2)


def test_an_unfinished_run_of_an_earlier_version_remembers_its_task_from_now_on(tmp_path: Path, data: str) -> None:
    start_and_kill(tmp_path / "run", data, 30)
    kept = (tmp_path / "run/task.json").read_bytes()
    (tmp_path / "run/task.json").unlink()
    run.resume(tmp_path / "run")
    assert (tmp_path / "run/task.json").read_bytes() == kept


@pytest.mark.parametrize(
    "change",
    [
        "",
        "{",
        "[1]",
        "\xff",
        "[" * 100_000,
        {"spec": None},
        {"spec": {"obs_dims": [3], "act_dims": [1]}},
        {"spec": {"obs_dims": [], "act_dims": []}},
        {"scenario": 3},
        {"scenario": ["rendezvous"]},
        {"conf": "2x1"},
        {"conf": "9x9", "view": "full", "scenario": "reacher"},
        {"settings": "N=2"},
        {"max_steps": -1},
        {"reference": {"random": "low", "expert": 1.0}},
        {"reference": [0, 1]},
        {"random_return": "none"},
        {"code": "import os"},
    ],
)
def test_a_damaged_or_edited_task_is_one_sentence(tmp_path: Path, data: str, change: Any) -> None:
    small_run(tmp_path / "run", data, steps=1)
    file = tmp_path / "run/task.json"
    if isinstance(change, str):
        file.write_bytes(change.encode("latin-1"))
    else:
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    for what in (lambda: run.evaluate(tmp_path / "run"), lambda: run.resume(tmp_path / "run")):
        with pytest.raises(RunFolderError, match=r"task\.json was damaged or edited: [^\n]*$"):
            what()


@pytest.mark.parametrize("scenario", ["os:system", "antigravity:main", "no-such", "os"])
def test_a_task_imports_nothing_that_is_no_registered_environment(
    tmp_path: Path, data: str, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_run(tmp_path / "run", data, steps=1)
    file = tmp_path / "run/task.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scenario": scenario}))
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imported {name}"))
    assert scored_task_of(RunFolder(tmp_path / "run")).environment is None


def hunted(path: Path, prey: str) -> str:
    """Data that says it was recorded with a run as prey, of hunters who never moved."""
    spec = Spec((16, 16, 16), (5, 5, 5), 62, "discrete")
    rows = {"obs": torch.zeros(4, 3, 16), "state": torch.zeros(4, 62), "lengths": torch.tensor([3])}
    over, cut = torch.zeros(3, 3, dtype=torch.bool), torch.tensor([[False] * 3] * 2 + [[True] * 3])
    steps = {"actions": torch.zeros(3, 3, dtype=torch.int64), "rewards": torch.zeros(3, 3)}
    about = {"scenario": "simple-tag-prey", "settings": {"prey": prey}, "reference": {"random": 0.0, "expert": 9.0}}
    data = Dataset(**rows, **steps, terminations=over, truncations=cut, spec=spec, metadata=about)
    save_data(path, data.check())
    return str(path)


@pytest.mark.parametrize("said", ["runs/tag", "./runs/tag", "whole", "lost"])
def test_a_run_that_acted_where_data_was_recorded_has_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    pytest.importorskip("mpe2")
    monkeypatch.chdir(tmp_path)
    if said != "lost":
        (tmp_path / "runs" / "tag").mkdir(parents=True)
    said = str(tmp_path / "runs" / "tag") if said == "whole" else said
    task = open_task(hunted(tmp_path / "data.safetensors", said))
    assert task.environment is None and task.make_env(1) is None
    assert f'--environment simple-tag-prey --env-settings \'{{"prey": "{said}"}}\' if you trust the run' in task.hint


@pytest.mark.parametrize("recorded", ["runs/tag", "whole"])
@pytest.mark.parametrize("named", ["runs/tag", "./runs/../runs/tag", "whole", "runs/other"])
def test_a_run_that_acts_is_the_same_however_its_folder_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: str, named: str
) -> None:
    pytest.importorskip("mpe2")
    monkeypatch.chdir(tmp_path)
    for name in ("tag", "other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    monkeypatch.setattr(environment_tasks, "with_actors", lambda settings, permit: {})
    paths = [str(tmp_path / "runs" / "tag") if path == "whole" else path for path in (recorded, named)]
    task = open_task(hunted(tmp_path / "data.safetensors", paths[0]))
    choice = EnvironmentChoice(environment="simple-tag-prey", env_settings={"prey": paths[1]})
    scored = scored_in_named(task, choice, ImportPath)
    assert scored.elsewhere is (named == "runs/other") and (scored.reference is None) is scored.elsewhere


@pytest.mark.long
def test_data_recorded_with_a_run_as_prey_is_trained_on_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mpe2")
    monkeypatch.chdir(tmp_path)
    small_run(Path("runs/tag"), None, "vdn", environment="simple-tag", steps=1, warmup_steps=30, recurrent=False)
    fields = {"settings": {"prey": "runs/tag"}, "who": ("random",), "episodes": 4, "score_episodes": 4}
    fields |= {"reference": (0.0, 9.0), "environment": "simple-tag-prey", "out": "prey.safetensors"}
    assert load_data(collect(build(CollectConfig, fields))).metadata["settings"] == {"prey": str(tmp_path / "runs/tag")}
    assert small_run(Path("plain"), "prey.safetensors", steps=2).score is None
    assert "--env-settings" in capsys.readouterr().err
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    where = {"environment": "simple-tag-prey", "env_settings": {"prey": "../runs/tag"}}
    score = small_run(Path("named"), "../prey.safetensors", steps=2, **where).score
    assert score is not None and score.reference is not None and score.reference.expert == 9.0
    assert run.evaluate(Path("../plain"), 2, **where).reference is not None
