from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from offline_marl.algorithms.base import Algorithm
from offline_marl.algorithms.bc import BC
from offline_marl.core.types import Batch, Metrics, Needs
from offline_marl.datasets.files import load_data, save_data

Cli = Callable[..., Any]
Register = Callable[[str, type[Algorithm]], None]

MIX = "reacher-scripted-mix-v0"
TINY = ("--steps", 4, "--eval-every", 0, "--final-episodes", 2, "--batch-size", 8, "--hidden", "8")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("trian", "Unknown command 'trian': did you mean 'train'?"),
        ("--vesrion", "Unknown flag '--vesrion'"),
        ("data lst", "Unknown command 'data lst': did you mean 'list'?"),
        ("data list x", "'x' is one word too many for data list"),
        ("data info", "data info needs ID"),
        ("data info nosuch", "Unknown data set 'nosuch': there are: "),
        (f"data info {MIX}_9x9_0", "Unknown reacher conf '9x9': there are: 2x1, 2x1first"),
        ("data info nosuch.safetensors", "There is no file nosuch.safetensors."),
        ("list algoritms", "Unknown list 'algoritms': did you mean 'algorithms'?"),
        ("train maiql --dataset x", "Unknown algorithm 'maiql': did you mean 'ma-iql'? (there are: bc, "),
        ("train --dataset x bc", "train needs the ALGORITHM first"),
        ("train bc", "train bc needs --dataset ID"),
        ("train ma-ppo", "needs --environment NAME (`offline-marl list environments`) or --dataset ID."),
        ("train ma-ppo --environment cordination", "Unknown environment 'cordination': did you mean 'coordination'?"),
        ("train bc --environment coordination", "bc learns from recorded data: give it --dataset"),
        ("resume gone --environment os:system", "gone holds no run"),
        ("evaluate gone --video-episodes 3", "--video-episodes counts what is filmed: it needs --video FILE.mp4."),
        ("collect rendezvous --out x.safetensors --tier-tolerance 0.2", "--tier-tolerance is of files by quality: it"),
        ("train ma-ppo --environment coordination --env-settings {", "Parsing error encountered for env_settings"),
        ("train ma-ppo --environment coordination --max-steps 0", "Field 'max_steps' cannot be '0'"),
        ("train bc --dataset x.hdf5 --max-steps 3", "--env-settings and --max-steps are for an --environment"),
        ("train bc --dataset reacher-scripted-mx-v0_2x1_0", f"did you mean '{MIX}'?"),
        (f"train bc --dataset {MIX}_4x2_0", "Unknown reacher conf '4x2': "),
        (f"train bc --dataset {MIX}_2x1_0t", "Unknown reacher view '0t': did you mean '0'?"),
        (f"train bc --dataset {MIX}", "does not say who sees what: a task is"),
        ("train bc --dataset gone.safetensors_2x1_0", "There is no file"),
        (f"train ma-iql --dataset {MIX}_2x1_0 --expectil 1", "Unknown flag '--expectil' of train ma-iql: did you mean"),
        (f"train ma-iql --dataset {MIX}_2x1_0 --expectile", "Flag --expectile of train ma-iql: expected one argument"),
        (f"train ma-iql --dataset {MIX}_2x1_0 --expectile 1", "Field 'expectile' cannot be '1'"),
        (f"train ma-iql --dataset {MIX}_2x1_0 --mixer x", "Field 'mixer' cannot be 'x'"),
        (f"train bc --dataset {MIX}_2x1_0 --steps many", "Field 'steps' cannot be 'many'"),
        (f"train bc --dataset {MIX}_2x1_0 --steps 0", "Field 'steps' cannot be '0'"),
        (f"train bc --dataset {MIX}_2x1_0 --seeds 3..1", "--seeds 3..1 should be seeds such as 0..7 or 0,3,5"),
        (f"train bc --dataset {MIX}_2x1_0 --seeds 0..3 --seed 1", "leave --seed away"),
        (f"train bc --dataset {MIX}_2x1_0 --seeds 0,0", "--seeds names the seeds of several runs, each once"),
        (f"train ma-iql --dataset {MIX}_2x1_0 --seeds=0..3", "ma-iql computes losses of the whole team, and --seeds"),
        ("train cql --environment coordination --seeds 0..3", "train cql was given no --dataset"),
        (f"submit train bc --dataset {MIX}_2x1_0 --seeds 0..3", "A job makes one run: give it a --seed"),
        (f"train bc --dataset {MIX}_2x1_0 --seed -1", "Field 'seed' cannot be '-1'"),
        (f"train bc --dataset {MIX}_2x1_0 --lr nan", "Field 'lr' cannot be 'nan'"),
        (f"train bc --dataset {MIX}_2x1_0 --hidden 8,x", "Field 'hidden.1' cannot be 'x'"),
        (f"train bc --dataset {MIX}_2x1_0 --hidden [8", "hidden"),
        (f"train bc --dataset {MIX}_2x1_0 --layer-norm maybe", "Field 'layer_norm' cannot be 'maybe'"),
        (f"train bc --dataset {MIX}_2x1_0 --no-layer-norm true", "Flag --no-layer-norm of train bc: takes no value"),
        (f"train bc --dataset {MIX}_2x1_0 --device tpu", "Field 'device' cannot be 'tpu'"),
        (f"train bc --dataset {MIX}_2x1_0 word", "'word' is one word too many for train bc"),
        (f"train bc --dataset {MIX}_2x1_0 --config gone.toml", "There is no config file gone.toml."),
        ("resume", "resume needs RUN"),
        ("resume gone", "gone holds no run"),
        ("evaluate gone", "gone holds no run"),
        ("evaluate gone --episodes 0", "Field 'episodes' cannot be '0'"),
        ("evaluate gone --vidoe x", "Unknown flag '--vidoe' of evaluate"),
    ],
)
def test_bad_words_are_told_in_one_sentence(cli: Cli, command: str, said: str) -> None:
    failed = cli(*command.split())
    assert failed.code == 2
    assert said in failed.error
    assert failed.out == ""


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "stepz = 3", "Unknown field 'stepz' in a.toml: did you mean 'steps'?"),
        ("a.toml", "steps = ", "Config file a.toml cannot be read"),
        ("a.yaml", "- steps", "should hold named fields, not a list"),
        ("a.yaml", "steps: [", "Config file a.yaml cannot be read"),
        ("a.ini", "steps=3", "should be .toml, .yaml or .json"),
        ("a.toml", "steps = 'many'", "Field 'steps' cannot be 'many'"),
        ("a.toml", "out = 3", "Field 'out' cannot be 3"),
        ("a.toml", "dataset = 3", "Field 'dataset' cannot be 3"),
        ("a.json", '{"config": "b.toml"}', "Unknown field 'config' in a.json"),
    ],
)
def test_bad_files_are_told_in_one_sentence(cli: Cli, team: Path, name: str, text: str, said: str) -> None:
    Path(name).write_text(text)
    dataset = [] if "dataset" in text else ["--dataset", team]
    failed = cli("train", "bc", *dataset, "--config", name)
    assert failed.code == 2
    assert said in failed.error


def test_an_algorithm_that_cannot_eat_the_data_is_refused(cli: Cli, discrete_team: Path, register: Register) -> None:
    class Smooth(BC):
        needs = Needs(actions=frozenset({"continuous"}))

    class Worldly(BC):
        needs = Needs(state=True)

    register("toy-smooth", Smooth)
    register("toy-worldly", Worldly)
    for name, said in (("toy-smooth", "needs continuous actions"), ("toy-worldly", "needs a global state")):
        failed = cli("train", name, "--dataset", discrete_team, *TINY)
        assert failed.code == 2
        assert said in failed.error
        assert not Path("runs").exists()


def test_a_folder_that_holds_something_else_is_left_alone(cli: Cli, team: Path) -> None:
    assert cli("train", "bc", "--dataset", team, *TINY, "--out", "run").code == 0
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*") if path.name != "lock"}
    for flags, said in ((["--seed", "1"], "another run"), ([], "this very run")):
        failed = cli("train", "bc", "--dataset", team, *TINY, "--out", "run", *flags)
        assert failed.code == 2
        assert said in failed.error
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*") if path.name != "lock"} == before
    Path("letters").mkdir()
    Path("letters/a.txt").write_text("dear")
    assert cli("train", "bc", "--dataset", team, *TINY, "--out", "letters").code == 2
    assert Path("letters/a.txt").read_text() == "dear"


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        del content[len(content) // 2 :]
    elif how == "empty":
        content.clear()
    else:
        content[-5] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["truncated", "changed", "empty"])
def test_damaged_data_is_refused(cli: Cli, team: Path, how: str) -> None:
    damage(team, how)
    for command in (("train", "bc", "--dataset", team, *TINY), ("data", "info", team)):
        failed = cli(*command)
        assert failed.code == 2
        assert str(team) in failed.error
        assert not Path("runs").exists()


def test_data_that_is_not_finite_is_refused_with_its_place(cli: Cli, team: Path) -> None:
    data = load_data(team)
    rewards = data.rewards.clone()
    rewards[7] = float("nan")
    save_data(team, replace(data, rewards=rewards))
    failed = cli("train", "bc", "--dataset", team, *TINY)
    assert failed.code == 2
    assert "Field 'rewards' is not finite in episode 1, step 2" in failed.error


def test_actions_outside_the_box_are_counted_and_refused_or_clipped_by_choice(cli: Cli, team: Path) -> None:
    data = load_data(team)
    actions = data.actions.clone()
    actions[3, 0, 0], actions[4, 1, 0], actions[5, 0, 0] = 1.5, -2.0, 1.0
    save_data(team, replace(data, actions=actions))
    failed = cli("train", "bc", "--dataset", team, *TINY)
    assert failed.code == 2
    assert f"2 of {actions.numel():,} action entries lie outside [-1, 1]" in failed.error
    assert "clip_actions = true" in failed.error
    trained = cli("train", "bc", "--dataset", team, "--clip-actions", *TINY, "--out", "run")
    assert trained.code == 0
    assert f"2 of {actions.numel():,} action entries lay outside [-1, 1]: clipped." in trained.err
    assert load_data(team, clip_actions=True).actions.abs().max() == 1.0
    Path("run/DONE").unlink()
    assert cli("resume", "run").code == 0
    actions[6, 0, 0] = float("inf")
    save_data(team, replace(data, actions=actions))
    failed = cli("train", "bc", "--dataset", team, "--clip-actions", *TINY)
    assert failed.code == 2
    assert "Field 'actions' is not finite" in failed.error


@pytest.mark.parametrize("how", ["truncated", "changed", "empty"])
def test_damaged_checkpoints(cli: Cli, team: Path, how: str) -> None:
    assert cli("train", "bc", "--dataset", team, *TINY, "--checkpoint-every", 2, "--out", "run").code == 0
    Path("run/DONE").unlink()
    old, new = sorted(Path("run/checkpoints").iterdir())
    damage(new, how)
    went_on = cli("resume", "run")
    assert went_on.code == 0
    assert "warning:" in went_on.err
    assert "Going on from step_000000002" in went_on.err
    for path in (old, new):
        damage(path, how)
    for command in ("resume", "evaluate"):
        failed = cli(command, "run")
        assert failed.code == 2
        assert "No checkpoint of run can be read" in failed.error


def test_a_damaged_config_is_told(cli: Cli, team: Path) -> None:
    assert cli("train", "bc", "--dataset", team, *TINY, "--out", "run").code == 0
    damage(Path("run/config.json"), "truncated")
    failed = cli("resume", "run")
    assert failed.code == 2
    assert "config.json was damaged or edited" in failed.error


def test_a_path_that_cannot_be_made_is_named(cli: Cli, team: Path) -> None:
    Path("file").write_text("")
    failed = cli("train", "bc", "--dataset", team, *TINY, "--out", "file/run")
    assert failed.code == 2
    assert "file/run cannot be a folder: file is a file." in failed.error


def test_a_full_disk_keeps_the_last_good_checkpoint(cli: Cli, team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def full(source: str, target: Path) -> None:
        if "step_000000004" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        failed = cli("train", "bc", "--dataset", team, *TINY, "--checkpoint-every", 2, "--out", "run")
    assert failed.code == 1
    assert "No space left on device: run/checkpoints/step_000000004" in failed.error
    assert "the last good checkpoint is kept, go on with `offline-marl resume run`" in failed.error
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["step_000000002.safetensors"]
    assert cli("resume", "run").code == 0


def test_a_read_only_disk_before_the_run_began(cli: Cli, team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", read_only)
    failed = cli("train", "bc", "--dataset", team, *TINY, "--out", "run")
    assert failed.code == 1
    assert "Read-only file system" in failed.error
    assert "run" in failed.error
    assert "kept" not in failed.error


def test_divergence_names_the_step_and_keeps_the_checkpoint(cli: Cli, team: Path, register: Register) -> None:
    class Wild(BC):
        updates = 0

        def update(self, batch: Batch) -> Metrics:
            type(self).updates += 1
            metrics = super().update(batch)
            return metrics if self.updates < 4 else {name: torch.tensor(float("nan")) for name in metrics}

    register("toy-wild", Wild)
    failed = cli("train", "toy-wild", "--dataset", team, *TINY, "--checkpoint-every", 2, "--out", "run")
    assert failed.code == 1
    assert "loss/actor became nan at step 4" in failed.error
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["step_000000002.safetensors"]


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, KeyError])
def test_a_bug_keeps_its_traceback(cli: Cli, team: Path, register: Register, kind: type[Exception]) -> None:
    class Buggy(BC):
        def update(self, batch: Batch) -> Metrics:
            raise kind("a bug")

    register("toy-buggy", Buggy)
    with pytest.raises(kind, match="a bug"):
        cli("train", "toy-buggy", "--dataset", team, *TINY)


def test_a_logger_that_is_not_installed_is_told(cli: Cli, team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    failed = cli("train", "bc", "--dataset", team, *TINY, "--wandb", "offline")
    assert failed.code == 2
    assert "pip install 'offline-marl[log]'" in failed.error
