"""A folder or a file that a stranger prepared: code that it names is not imported unless the user names it too."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from launch.conftest import *  # noqa: F403 - the fixture `cli`
from runs import small_run
from worlds import saved, world

import offline_marl
from offline_marl.core.config import ConfigError
from offline_marl.core.permissions import ImportPath
from offline_marl.datasets.catalog import home
from offline_marl.datasets.files import load_data, save_data
from offline_marl.films.videos import film
from offline_marl.report.crossplay.crossplay import crossplay
from offline_marl.runs.permissions import ForbiddenImportError, permit_of, remember
from offline_marl.tasks import environment_tasks
from offline_marl.training import training_run
from offline_marl.training.run import evaluate, resume

OWN = "own_world:make"
SOURCE = '''
"""A world of one's own, which leaves a mark when it is imported."""
import os
import numpy as np
from gymnasium.spaces import Box
from pettingzoo import ParallelEnv

def note(word):
    with open(os.environ["MARK"], "a") as stream:
        stream.write(word)

note("imported ")

class World(ParallelEnv):
    metadata = {"name": "own"}
    possible_agents = ["a_0", "a_1"]
    def __init__(self, size=1.0): self.size = size
    def observation_space(self, agent): return Box(-9, 9, (3,), np.float32)
    def action_space(self, agent): return Box(-1, 1, (1,), np.float32)
    def reset(self, seed=None, options=None):
        self.agents, self.t = list(self.possible_agents), 0
        return {a: np.zeros(3, np.float32) for a in self.agents}, {a: {} for a in self.agents}
    def step(self, actions):
        self.t += 1
        seen = {a: np.full(3, self.t, np.float32) for a in self.agents}
        flags, end = {a: False for a in self.agents}, {a: self.t >= 5 for a in self.agents}
        out = seen, {a: self.size for a in self.agents}, flags, end, {a: {} for a in self.agents}
        if self.t >= 5: self.agents = []
        return out

def make(**settings): return World(**settings)
def flee(obs):
    note("acted ")
    return 0
'''
RUN = {"environment": OWN, "max_steps": 5, "steps": 3, "batch_size": 20}


@pytest.fixture(autouse=True)
def mark(tmp_path, monkeypatch):
    """The module on the path, not imported yet, and the file that tells whether it was."""
    pytest.importorskip("pettingzoo")
    place = tmp_path / "modules"
    place.mkdir()
    (place / "own_world.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 100)
    yield tmp_path / "mark"
    sys.modules.pop("own_world", None)


def forget(mark: Path) -> None:
    sys.modules.pop("own_world", None)
    mark.unlink(missing_ok=True)


def received(tmp_path: Path, mark: Path, **fields) -> Path:
    """A run folder as it comes from elsewhere: nobody named anything for it here."""
    begun = small_run(tmp_path / "begun", None, algorithm="ma-ppo", **{**RUN, **fields}).folder
    folder = tmp_path / "received"
    shutil.copytree(begun, folder)
    forget(mark)
    return folder


def test_whoever_trains_names_the_code_and_is_not_asked_again(tmp_path, mark):
    begun = small_run(tmp_path / "run", None, algorithm="ma-ppo", **RUN).folder
    assert json.loads((home() / "allowed.json").read_text()) == {str(begun.resolve()): [OWN]}
    forget(mark)
    assert evaluate(begun, 2).mean == 5.0 and mark.exists()


def test_a_folder_from_elsewhere_imports_nothing(tmp_path, mark):
    folder = received(tmp_path, mark)

    def resume_unfinished() -> None:
        (folder / "DONE").unlink()
        resume(folder)

    for what in (
        lambda: evaluate(folder),
        lambda: resume(folder),
        lambda: film(folder, tmp_path / "film.gif"),
        lambda: crossplay([folder, tmp_path / "begun"], 2),
        resume_unfinished,
    ):
        with pytest.raises(ForbiddenImportError, match=rf"asks to import {OWN}.*say --environment {OWN}\.$"):
            what()
        assert not mark.exists()


@pytest.mark.long
def test_naming_it_lets_a_folder_from_elsewhere_act_and_resume_remembers_it(tmp_path, mark):
    folder = received(tmp_path, mark)
    (folder / "DONE").unlink()
    assert evaluate(folder, 2, environment=OWN).mean == 5.0
    with pytest.raises(ForbiddenImportError):
        evaluate(folder, 2)  # that was for once
    resume(folder, environment=OWN)
    assert evaluate(folder, 2).mean == 5.0
    with pytest.raises(ConfigError, match="cannot go on in coordination"):
        resume(folder, environment="coordination")
    with pytest.raises(ConfigError, match="acts where size is None, not 2.0"):
        resume(folder, environment=OWN, env_settings={"size": 2.0})


@pytest.mark.long
def test_a_callable_named_in_config_json_is_not_called(cli, tmp_path, mark):
    folder = received(tmp_path, mark)
    config = json.loads((folder / "config.json").read_text())
    versions = json.loads((folder / "versions.json").read_text())
    del versions["settings"]  # who sends a folder writes all of its files
    config |= {"environment": "os:system", "env_settings": {"command": f"touch {tmp_path}/owned"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "versions.json").write_text(json.dumps(versions))
    for words in (["evaluate", folder], ["resume", folder], ["crossplay", folder, tmp_path / "begun"]):
        said = cli(*words)
        assert said.code == 2 and "asks to import os:system" in said.error
    (folder / "DONE").unlink()
    assert cli("resume", folder).code == 2
    assert not (tmp_path / "owned").exists()


@pytest.mark.long
def test_a_prey_named_in_settings_needs_permission_too(tmp_path, mark):
    pytest.importorskip("mpe2")
    fields = {"environment": "simple-tag-prey", "env_settings": {"prey": "own_world:flee"}, "max_steps": 3}
    folder = received(tmp_path, mark, **fields)
    with pytest.raises(ForbiddenImportError, match="asks to import own_world:flee"):
        evaluate(folder, 2)
    assert not mark.exists()
    evaluate(folder, 2, environment="simple-tag-prey", env_settings=fields["env_settings"], max_steps=3)
    assert "acted" in mark.read_text()


def test_metadata_of_data_import_nothing_and_say_which_flag_would(cli, tmp_path, mark, capsys):
    pytest.importorskip("mpe2")
    prey = ("--settings", '{"prey": "own_world:flee"}', "--score-episodes", 0)
    done = cli("collect", "simple-tag-prey", "--who", "random", "--episodes", 4, "--out", "tag.safetensors", *prey)
    assert done.code == 0 and mark.exists()
    forget(mark)
    words = (
        "train",
        "bc",
        "--dataset",
        "tag.safetensors",
        "--steps",
        3,
        "--hidden",
        8,
        "--batch-size",
        8,
        "--out",
        "run",
    )
    said = cli(*words)
    assert said.code == 0 and not mark.exists()
    assert "no scores" in said.err and "--env-settings" in said.err and "own_world:flee" in said.err


def test_data_of_ones_own_is_scored_where_the_user_says(cli, tmp_path, mark):
    collected = cli("collect", OWN, "--who", "random", "--episodes", 6, "--max-steps", 5, "--out", "own.safetensors")
    assert collected.code == 0
    forget(mark)
    train = ("train", "bc", "--dataset", "own.safetensors", "--steps", 3, "--hidden", 8, "--batch-size", 8)
    silent = cli(*train, "--out", "silent")
    assert silent.code == 0 and not mark.exists() and f"say --environment {OWN}" in silent.err
    scored = cli(*train, "--out", "scored", "--environment", OWN, "--max-steps", 5, "--final-episodes", 3,
                 "--reference=-5,5")  # fmt: skip
    assert scored.code == 0 and "normalized return 100.0" in scored.out
    done = json.loads((tmp_path / "scored" / "DONE").read_text())
    assert done["score"]["return"] == 5.0 and done["score"]["normalized_return"] == 100.0
    (tmp_path / "own.safetensors").unlink()
    assert evaluate(tmp_path / "scored", 2).normalized[0] == 100.0
    assert evaluate(tmp_path / "silent", 2, environment=OWN, max_steps=5).mean == 5.0
    assert evaluate(tmp_path / "silent", 2, environment=OWN, env_settings={"size": 2.0}, max_steps=5).mean == 10.0


def test_an_environment_of_another_team_is_refused_with_both_widths(tmp_path):
    data = saved(tmp_path, world("continuous"))
    with pytest.raises(
        offline_marl.DataError if hasattr(offline_marl, "DataError") else ValueError, match="is of a team"
    ):
        offline_marl.train("bc", data, out=tmp_path / "run", steps=3, hidden=[8], environment=OWN, max_steps=5)


def test_a_sweep_from_elsewhere_starts_nothing_that_it_names(cli, tmp_path, mark):
    (tmp_path / "sweep.toml").write_text(
        f'algorithms = ["ma-ppo"]\nenvironments = ["{OWN}"]\nseeds = [0]\n[fields]\nsteps = 2\nbatch_size = 10\n'
        "max_steps = 5\nhidden = [8]\neval_every = 0\nfinal_episodes = 2\n"
    )
    assert cli("sweep", "sweep.toml", "--out", "mine", "--executor", "debug").code == 0
    shutil.copytree(tmp_path / "mine", tmp_path / "theirs")
    for done in (tmp_path / "theirs").rglob("DONE"):
        done.unlink()
    forget(mark)
    said = cli("sweep", "theirs", "--executor", "debug")
    assert said.code == 2 and f"asks to import {OWN}" in said.error and not mark.exists()


def test_permissions_are_of_a_folder_and_survive_others(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    remember(one, ["a.b:c", "coordination"])
    remember(two, ["d.e"])
    remember(one, ["f:g"])
    assert permit_of(one)("a.b:c") == ImportPath("a.b:c") and permit_of(one)("f:g") == ImportPath("f:g")
    for path in ("d.e", "coordination:x"):
        with pytest.raises(ForbiddenImportError):
            permit_of(one)(path)
    assert permit_of(tmp_path / "three", ["d.e"])("d.e") == ImportPath("d.e")


def test_a_damaged_list_of_permissions_permits_nothing(tmp_path):
    remember(tmp_path / "run", ["a:b"])
    for text in ("{", "[]", '{"x": "a:b"}', '{"x": [1]}', ""):
        (home() / "allowed.json").write_text(text)
        with pytest.raises(ConfigError, match="allowed.json"):
            permit_of(tmp_path / "run")("a:b")


def test_a_file_that_says_that_it_was_recorded_by_code_does_not_run_it(tmp_path, mark):
    data = load_data(Path(saved(tmp_path, world("continuous"))))
    about = {**data.metadata, "scenario": "os:system", "settings": {"command": f"touch {tmp_path}/owned"}}
    save_data(tmp_path / "bad.safetensors", replace(data, metadata=about))
    offline_marl.train("bc", str(tmp_path / "bad.safetensors"), out=tmp_path / "run",
                       steps=3, hidden=[8])  # fmt: skip
    assert not (tmp_path / "owned").exists()
