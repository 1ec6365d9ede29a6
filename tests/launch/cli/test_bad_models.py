"""Bad input about world models: how they are fitted, and how runs use them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from offline_marl.core.files import load_tree, save_tree
from offline_marl.datasets.files import load_data, save_data
from offline_marl.tasks.data_tasks import ScoredTask
from offline_marl.training import training_run
from offline_marl.training.models import fit as fitting
from offline_marl.training.models import run_models

Cli = Callable[..., Any]

MIX = "reacher-scripted-mix-v0"
TINY = ("--steps", 4, "--eval-every", 0, "--final-episodes", 2, "--batch-size", 8, "--hidden", "8")
FIT = ("--steps", 4, "--eval-every", 2, "--checkpoint-every", 2, "--batch-size", 4, "--hidden", "4")
FEW = ("--members", 2, "--elites", 1, "--holdout", 0.3)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of a small fit's time, and have tests of their own."""
    monkeypatch.setattr(fitting, "draw_report", lambda *_: None)


@pytest.fixture
def model(cli: Cli, team: Path) -> str:
    """The folder of a world model of the team's data."""
    assert cli("fit-model", "ensemble", "--dataset", team, *FIT, *FEW, "--out", "model").code == 0
    return "model"


def refused(cli: Cli, *command: object) -> str:
    """The sentence of a run that is refused before it begins."""
    failed = cli(*command, "--out", "run")
    assert failed.code == 2
    assert not Path("run/config.json").exists()
    return str(failed.error)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("fit-model ensembel --dataset x", "Unknown world model 'ensembel': did you mean 'ensemble'?"),
        ("fit-model --dataset x ensemble", "fit-model needs the KIND first"),
        ("fit-model ensemble", "fit-model ensemble needs --dataset ID"),
        (f"fit-model oracle --dataset {MIX}_2x1_0", "There is nothing to fit in oracle"),
        (f"fit-model ensemble --dataset {MIX}_9x9_0", "Unknown reacher conf '9x9'"),
        (
            "fit-model ensemble --dataset team.safetensors --elites 8",
            "There cannot be more elites (8) than members (7).",
        ),
        (f"fit-model ensemble --dataset {MIX}_2x1_0 --membrs 8", "Unknown flag '--membrs' of fit-model ensemble"),
        ("fit-model ensemble --dataset team.safetensors --holdout 1", "Field 'holdout' cannot be '1'"),
        ("train iql --dataset team.safetensors --world-model ensembel", "Unknown world model 'ensembel': did you mean"),
        ("train bc --dataset team.safetensors --real-fraction 0.5", "--real-fraction needs a --world-model"),
        ("train bc --dataset team.safetensors --real-fraction some", "Field 'real_fraction"),
        ("train bc --dataset team.safetensors --horizon 0", "Field 'horizon' cannot be '0'"),
        ("train bc --dataset team.safetensors --spread size", "Field 'spread' cannot be 'size'"),
        (
            "train moma-ppo --dataset team.safetensors --real-fraction 0.5",
            "moma-ppo learns from its own episodes alone",
        ),
        ("train ma-ppo --dataset team.safetensors --real-fraction 0.5", "ma-ppo learns from its own episodes alone"),
        ("train ma-ppo --dataset team.safetensors --world-model ensemble", "ma-ppo learns in the environment itself"),
        ("train ma-ppo --dataset team.safetensors", "ma-ppo learns in an environment, and none belongs to"),
        ("train iql --dataset team.safetensors --world-model oracle", "The oracle needs the environment of"),
        (
            "train bc --dataset team.safetensors --world-model ensemble",
            "bc clones what was recorded, and imagined actions",
        ),
        (
            "train td3-bc --dataset team.safetensors --world-model ensemble --real-fraction 0",
            "td3-bc learns what was done from recorded rows, of which batches must hold some",
        ),
        ("train bc --dataset team.safetensors --init gone", "gone holds no run"),
    ],
)
def test_bad_words_about_world_models_are_told_in_one_sentence(cli: Cli, team: Path, command: str, said: str) -> None:
    assert said in refused(cli, *command.split())


def test_a_model_of_something_else_is_refused_and_both_are_named(cli: Cli, recording: str) -> None:
    other = Path("other.safetensors")
    other.write_bytes(Path(recording.removesuffix("_2x1notip_0")).read_bytes())
    assert cli("fit-model", "ensemble", "--dataset", recording, *FIT, *FEW, "--out", "model").code == 0
    for dataset in (f"{other.absolute()}_2x1notip_0", recording.replace("notip_0", "_full")):
        said = refused(cli, "train", "iql", "--dataset", dataset, *TINY, "--world-model", "model")
        assert f"model was fitted to {recording}, not to {dataset}." in said


def test_a_model_of_another_version_of_the_data_is_refused(cli: Cli, team: Path, model: str) -> None:
    data = load_data(team)
    save_data(team, replace(data, rewards=data.rewards + 1))
    train = ("train", "iql", "--dataset", team, *TINY, "--world-model", model)
    assert f"was fitted to another version of {team}: sha256 was " in refused(cli, *train)
    failed = cli("resume", model)
    assert failed.code == 2
    assert "was fitted to another version" in failed.error


def test_folders_that_hold_no_model_are_refused(cli: Cli, team: Path, model: str) -> None:
    train = ("train", "iql", "--dataset", team, *TINY)
    assert cli(*train, "--out", "first").code == 0
    assert "first holds a training run, not a world model." in refused(cli, *train, "--world-model", "first")
    assert "model holds a world model, not a training run." in refused(cli, *train, "--init", model)
    Path("letters").mkdir()
    Path("letters/a.txt").write_text("dear")
    assert "letters is no run folder and is not empty" in refused(cli, *train, "--world-model", "letters")
    Path(model, "config.json").write_text("{")
    assert "model/config.json was damaged or edited" in refused(cli, *train, "--world-model", model)


def test_a_model_whose_checkpoints_are_damaged_is_refused(cli: Cli, team: Path, model: str) -> None:
    for path in Path(model, "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    train = ("train", "iql", "--dataset", team, *TINY, "--world-model", model)
    assert "model can be read" in refused(cli, *train)


def test_a_window_longer_than_every_episode_is_refused(cli: Cli, team: Path) -> None:
    said = refused(cli, "fit-model", "ensemble", "--dataset", team, *FIT, *FEW, "--window", 6)
    assert "A window of 6 is longer than every episode of the data (at most 5 steps)" in said
    said = refused(cli, "train", "iql", "--dataset", team, *TINY, "--frame-stack", 7)
    assert "A frame_stack of 7 is longer than every episode of the data (at most 5 steps)" in said


def test_the_word_for_a_kind_of_memory_is_told_apart_from_gigabytes(cli: Cli, team: Path) -> None:
    train = ("train", "iql", "--dataset", team, *TINY)
    assert "what agents remember by is history_encoder" in refused(cli, *train, "--memory", "gru")
    said = refused(cli, *train, "--history-encoder", "gru")
    assert "history_encoder = gru reads the last `window` steps, which are none: give a window, such as 10." in said


def test_a_run_begins_with_another_one_of_the_same_history_encoder_alone(cli: Cli, team: Path) -> None:
    train = ("train", "iql", "--dataset", team, *TINY, "--window", 2)
    assert cli(*train, "--history-encoder", "gru", "--out", "first").code == 0
    assert "give both runs the same hidden, window, history_encoder" in refused(cli, *train, "--init", "first")
    assert cli(*train, "--history-encoder", "gru", "--init", "first", "--out", "second").code == 0


def test_a_model_that_reads_histories_serves_a_policy_that_does_not(cli: Cli, team: Path) -> None:
    fit = ("fit-model", "ensemble", "--dataset", team, *FIT, *FEW, "--window", 5, "--out", "model")
    assert cli(*fit).code == 0
    trained = cli("train", "iql", "--dataset", team, *TINY, "--world-model", "model", "--out", "run")
    assert trained.code == 0


def test_a_spread_that_the_model_cannot_tell_is_refused(cli: Cli, team: Path) -> None:
    fit = ("fit-model", "ensemble", "--dataset", team, *FIT, *FEW, "--kind", "deterministic", "--out", "model")
    assert cli(*fit).code == 0
    train = ("train", "iql", "--dataset", team, *TINY, "--world-model", "model")
    assert "max_aleatoric needs members that tell a deviation" in refused(cli, *train, "--spread", "max_aleatoric")
    assert cli(*train, "--out", "run").code == 0


def test_the_oracle_needs_an_environment_that_can_be_restored_and_states(
    cli: Cli, team: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful:
        copies = 300

        def step(self, actions: Any) -> Any:
            raise NotImplementedError

    train = ("train", "td3-bc", "--dataset", team, *TINY, "--world-model", "oracle")
    monkeypatch.setattr(ScoredTask, "make_env", lambda *_: Forgetful())
    monkeypatch.setattr(training_run, "make_scorer", lambda *_, **__: None)
    assert "The oracle needs the environment of" in refused(cli, *train)
    data = load_data(team)
    state = torch.zeros(len(data.obs), 2)
    save_data(team, replace(data, state=state, spec=replace(data.spec, state_dim=2)))
    assert "This environment cannot be put into recorded states" in refused(cli, *train)


def test_a_full_disk_while_a_model_is_fitted_keeps_its_last_good_checkpoint(
    cli: Cli, team: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def full(source: str, target: Path) -> None:
        if "step_000000004" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        real(source, target)

    fit = ("fit-model", "ensemble", "--dataset", team, *FIT, *FEW, "--out", "model")
    train = ("train", "iql", "--dataset", team, *TINY, "--world-model", "ensemble", "--out", "run")
    small = {"steps": 4, "checkpoint_every": 2, "hidden": [4], "members": 2, "elites": 1}
    prepare = fitting.prepare_fit
    monkeypatch.setattr(run_models, "prepare_fit", lambda kind, task, given: prepare(kind, task, {**small, **given}))
    for command, out, place in ((fit, "model", "model"), (train, "run", "run/world_model")):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            failed = cli(*command)
        assert failed.code == 1
        assert f"No space left on device: {place}/checkpoints/step_000000004" in failed.error
        assert f"the last good checkpoint is kept, go on with `offline-marl resume {out}`" in failed.error
        assert [path.name for path in Path(place, "checkpoints").iterdir()] == ["step_000000002.safetensors"]
        assert cli("resume", out).code == 0


def test_a_model_that_diverges_on_the_policy_stops_the_run(cli: Cli, team: Path, model: str) -> None:
    path = next(iter(sorted(Path(model, "checkpoints").iterdir(), reverse=True)))
    state, _ = load_tree(path, "checkpoint")
    state["model"] = {
        name: torch.full_like(value, 1e38) if name.startswith("nets.") else value
        for name, value in state["model"].items()
    }
    save_tree(path, state, "checkpoint")
    failed = cli("train", "iql", "--dataset", team, *TINY, "--world-model", model, "--out", "run")
    assert failed.code == 1
    assert "256 of 256 imagined rows stopped being finite: the world model diverges on this policy" in failed.error
