from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from offline_marl.runs.config import FitConfig, RunConfig
from offline_marl.runs.folder import ModelFolder, RunFolder, RunFolderError, kind_of, restoring
from offline_marl.runs.kinds import FIT, TRAIN
from offline_marl.runs.software import describe_software

CONFIG = RunConfig(algorithm="bc", dataset="x_2x1_full", settings={"lr": 1e-3, "hidden": [16]})


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def test_the_settings_come_back_as_they_were(folder):
    with folder.locked():
        folder.begin(CONFIG, {"torch": "2"})
    assert folder.config() == CONFIG and folder.versions()["torch"] == "2" and not folder.done


def test_an_empty_or_absent_folder_is_free(folder):
    with folder.locked():
        folder.refuse_strangers(CONFIG)


def test_what_a_run_killed_at_its_very_beginning_left_is_no_hindrance(folder):
    with folder.locked():
        for name in ("versions.json", "dataset.safetensors", ".config.json.ab12.part"):
            (folder.path / name).write_text("{}")
        folder.refuse_strangers(CONFIG)


@pytest.mark.parametrize(
    ("other", "done", "said"),
    [
        (CONFIG, False, r"holds this very run \(unfinished\): go on with `offline-marl resume .*run`\.$"),
        (CONFIG, True, r"holds this very run \(finished\): choose another --out\.$"),
        (CONFIG.model_copy(update={"seed": 7}), False, r"holds another run \(unfinished\): choose another --out\.$"),
    ],
)
def test_a_folder_with_a_run_is_refused(folder, other, done, said):
    with folder.locked():
        folder.begin(CONFIG, {})
        if done:
            folder.finish({})
        with pytest.raises(RunFolderError, match=said):
            folder.refuse_strangers(other)


def test_a_folder_of_anything_else_is_refused_and_left_alone(folder):
    folder.path.mkdir()
    (folder.path / "thesis.txt").write_text("years of work")
    with folder.locked(), pytest.raises(RunFolderError, match="is no run folder and is not empty"):
        folder.refuse_strangers(CONFIG)
    assert (folder.path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("below", [".", "runs/first"])
def test_a_place_that_a_file_takes_is_refused_by_its_name(tmp_path, below):
    file = tmp_path / "taken"
    file.write_text("notes")
    with (
        pytest.raises(RunFolderError, match=rf"cannot be a folder: {file} is a file\.$"),
        RunFolder(file / below).locked(),
    ):
        pass
    assert file.read_text() == "notes"


def test_a_second_process_is_refused_while_the_first_lives(folder):
    folder.path.mkdir()
    code = (
        "import fcntl, sys, time; s = open(sys.argv[1], 'w'); fcntl.flock(s, fcntl.LOCK_EX); print('held', flush=True)"
    )
    command = [sys.executable, "-c", f"{code}; time.sleep(60)", str(folder.path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match=rf"^Another process is working on {folder.path}\.$"), folder.locked():
            pass
        first.kill()
        first.wait()
        second = pytest.raises(RunFolderError, match="Another process")
        with folder.locked(), second, RunFolder(folder.path).locked():
            pass


@pytest.mark.parametrize("content", ["", "{", '{"algorithm": "bc"}', '{"algoritm": 3}', "[1]", "\xff\xfe"])
def test_damaged_settings_are_one_sentence(folder, content):
    folder.path.mkdir()
    folder.config_file.write_text(content, encoding="latin-1")
    with pytest.raises(RunFolderError, match=r"config.json was damaged or edited: "):
        folder.config()


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"steps": 400}, "steps was 100000, is 400"),
        ({"settings": {"lr": 1e-9, "hidden": [16]}}, "lr was 0.001, is 1e-09"),
        ({"settings": {"lr": 1e-3}}, "hidden was [16], is None"),
        ({"dataset": "/data/y_2x1_full"}, "dataset was '/d/x_2x1_full', is '/data/y_2x1_full'"),
        ({"env_settings": {"prey": "/new/prey", "N": 6}}, "env_settings was {'N': 5"),
    ],
)
def test_settings_that_were_edited_since_the_run_began_are_refused_by_name(folder, edit, said):
    environment = {"environment": "mpe", "env_settings": {"prey": "/old/prey", "N": 5}}
    with folder.locked():
        folder.begin(CONFIG.model_copy(update={"dataset": "/d/x_2x1_full", **environment}), {})
    folder.refuse_edits()
    folder.config_file.write_text(json.dumps({**json.loads(folder.config_file.read_text()), **edit}))
    with pytest.raises(RunFolderError, match=r"config\.json was edited since the run began \(") as refusal:
        folder.refuse_edits()
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
    folder.versions_file.write_text("{}")  # as of a run of an earlier version
    folder.refuse_edits()


def test_what_machines_and_watchers_need_and_moved_files_may_be_edited(folder):
    with folder.locked():
        folder.begin(CONFIG.model_copy(update={"dataset": "/d/x_2x1_full"}), {})
    edit = {"device": "cuda:1", "threads": 4, "loggers": ["mine"], "keep_checkpoints": 0, "dataset": "/new/x_2x1_full"}
    folder.config_file.write_text(json.dumps({**json.loads(folder.config_file.read_text()), **edit}))
    folder.refuse_edits()


def test_a_folder_of_the_other_kind_says_which_it_is(folder):
    model = ModelFolder(folder.path)
    with folder.locked():
        folder.begin(CONFIG, {})
        assert kind_of(folder.path) is TRAIN
        with pytest.raises(RunFolderError, match=rf"^{folder.path} holds a training run, not a world model\.$"):
            model.config()
        model.begin(FitConfig(model="ensemble", dataset="x_2x1_full"), {})
        assert kind_of(folder.path) is FIT
        with pytest.raises(RunFolderError, match=rf"^{folder.path} holds a world model, not a training run\.$"):
            folder.config()


def test_a_folder_without_a_run_says_so(folder):
    with pytest.raises(RunFolderError, match=r"holds no run \(there is no config.json in it\)"):
        folder.config()


def test_lost_versions_are_no_error(folder):
    assert folder.versions() == {}
    folder.path.mkdir()
    folder.versions_file.write_text("{")
    assert folder.versions() == {}


def test_sweeping_removes_half_written_files_and_nothing_else(folder):
    folder.checkpoints.mkdir(parents=True)
    kept = [folder.path / "config.json", folder.checkpoints / "step_000000005.safetensors", folder.path / "my.part"]
    gone = [folder.path / ".DONE.x1.part", folder.checkpoints / ".step_000000005.safetensors.y2.part"]
    for path in kept + gone:
        path.write_text("x")
    folder.sweep()
    assert all(path.exists() for path in kept) and not any(path.exists() for path in gone)


def test_the_software_is_described_with_versions_and_commit():
    found = describe_software()
    assert {"python", "torch", "numpy", "offline-marl"} <= set(found)
    assert json.dumps(found)


# --- marks and checkpoints of anybody -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"returns": []}', '{"returns": ["a"]}', '{"steps": -1}', '{"score": 3}', "[" * 10**6]
)
def test_a_damaged_mark_is_one_sentence(tmp_path: Path, content: str) -> None:
    folder = RunFolder(tmp_path)
    folder.done_file.write_text(content)
    with pytest.raises(RunFolderError) as caught:
        folder.summary()
    assert "DONE was damaged or edited: " in str(caught.value) and "\n" not in str(caught.value)
    assert f"Remove it, and `offline-marl resume {folder.path}` writes it again." in str(caught.value)


def test_a_sound_mark_is_read_as_it_is(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.finish({"steps": 3, "returns": [1, 2.5], "mine": {"a": None}})
    assert folder.summary() == {"steps": 3, "returns": [1, 2.5], "mine": {"a": None}}


def test_a_checkpoint_that_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    learner = torch.nn.Linear(3, 2)
    expected = pytest.raises(RunFolderError, match=r"does not fit the config\.json beside it.*size mismatch")
    with expected as caught, restoring(tmp_path):
        learner.load_state_dict(torch.nn.Linear(4, 2).state_dict())
    assert "\n" not in str(caught.value)
    with pytest.raises(RunFolderError, match="does not fit"), restoring(tmp_path):
        learner.load_state_dict({}["algorithm"])
