from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from warm import Warm

from offline_marl.algorithms.base import AlgorithmConfig, algorithms
from offline_marl.algorithms.bc import BC
from offline_marl.core.config import Config
from offline_marl.environments.base import environments
from offline_marl.launch.cli.parser import format_value
from offline_marl.runs.config import RunFlags

Cli = Callable[..., Any]

QUICK = ("--help", "list", "list algorithms", "list --help", "train --help", "data list", "data --help", "--version")
TINY = ("--steps", 4, "--eval-every", 0, "--final-episodes", 2, "--batch-size", 8, "--hidden", "8")


def settings_of(run: Path) -> dict[str, Any]:
    config = json.loads((run / "config.json").read_text())
    return {**config, **config["settings"]}


def test_answers_without_torch() -> None:
    program = (
        "import contextlib, io, sys\nfrom offline_marl.launch.cli import main\n"
        f"for command in {QUICK!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as said:\n"
        "        code = None\n        try: main(command.split())\n"
        "        except SystemExit as end: code = end.code\n"
        "    heavy = {'torch', 'mujoco', 'gymnasium', 'pydantic_settings'} & set(sys.modules)\n"
        "    assert code == 0 and not heavy and said.getvalue(), (command, code, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["--help", "list", "train --help"])
def test_answers_at_once(command: str) -> None:
    # 0.3 to 0.45 s. The processor's time, of which a busy machine takes little more; torch alone takes 2 s.
    began = os.times()
    subprocess.run([sys.executable, "-m", "offline_marl", *command.split()], check=True, capture_output=True)
    ended = os.times()
    spent = (ended.children_user - began.children_user) + (ended.children_system - began.children_system)
    assert spent < 1.2


def test_list_names_everything_with_its_first_docstring_line(cli: Cli) -> None:
    said = cli("list")
    for entry in (*algorithms.listings(), *environments.listings()):
        assert re.search(rf"{entry.name} +{entry.origin} +{re.escape(entry.summary)}", said.out)
    assert "reacher-scripted-mix-v0" in said.out
    assert "reacher-scripted-mix-v0" not in cli("list", "algorithms").out


def test_a_plugin_is_listed_with_its_package_and_not_imported(tmp_path: Path, warm: Warm) -> None:
    (tmp_path / "their_algo.py").write_text("raise RuntimeError('imported')")
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[offline_marl.algorithms]\ntheir-algo = their_algo:Their\n")

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        paths = filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])
        return warm.run("-m", "offline_marl", *args, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})

    assert re.search(r"their-algo +their-package", run("list").stdout)
    broken = run("train", "their-algo", "--dataset", "x")
    assert (broken.returncode, broken.stderr.count("\n")) == (2, 1)
    assert "plugin their-package does not import" in broken.stderr


@pytest.mark.parametrize("name", algorithms.names())
def test_help_shows_every_field_with_its_docstring_and_true_default(cli: Cli, name: str) -> None:
    said = cli("train", name, "--help")
    text = " ".join(said.out.split())
    assert said.code == 0
    for kind in (RunFlags, algorithms.get(name).Config):
        assert issubclass(kind, Config)
        for field, info in kind.model_fields.items():
            default = info.get_default(call_default_factory=True, validated_data={})
            note = " [required]" if info.is_required() else f" [default: {format_value(default)}]"
            assert info.description
            assert f"{' '.join(info.description.split())}{note if default is not None else ''}" in text
            assert re.search(rf"^ +--{field.replace('_', '-')}[ ,]", said.out, re.MULTILINE), field


@pytest.mark.parametrize("command", ["resume", "evaluate", "data info", "data list", "data"])
def test_every_command_has_help(cli: Cli, command: str) -> None:
    said = cli(*command.split(), "--help")
    assert said.code == 0
    assert said.out.startswith(f"usage: offline-marl {command}")


def test_train_leaves_a_run_and_says_where(cli: Cli, team: Path) -> None:
    said = cli("train", "bc", "--dataset", team, *TINY)
    assert said.code == 0
    run = Path("runs/bc_team.safetensors_seed0")
    assert (run / "DONE").exists()
    assert f"{run}" in said.out
    assert f"offline-marl resume {run}" in said.out
    assert f"bc on {team}: 4 of 4 updates on cpu, in {run}\n" in said.err


def test_flags_are_read_in_all_their_spellings(cli: Cli, team: Path) -> None:
    flags = ("--layer_norm", "--no-standardize-obs", "--hidden", "8,4", "--batch_size=7", "--share-parameters", "true")
    assert cli("train", "bc", "--dataset", team, "--steps", 2, "--out", "run", *flags).code == 0
    settings = settings_of(Path("run"))
    assert settings["hidden"] == [8, 4]
    assert settings["batch_size"] == 7
    assert settings["layer_norm"] is settings["share_parameters"] is True
    assert settings["standardize_obs"] is False


def test_a_switch_that_is_on_by_default_can_be_turned_off(
    cli: Cli, team: Path, register: Callable[[str, type[BC]], None]
) -> None:
    class ToyConfig(AlgorithmConfig):
        fast: bool = True
        """Whether to hurry."""

    class Toy(BC):
        Config = ToyConfig

    register("toy-switch", Toy)
    for number, flags in enumerate((["--no-fast"], ["--fast=false"], ["--fast", "false"])):
        assert cli("train", "toy-switch", "--dataset", team, "--steps", 1, "--out", number, *flags).code == 0
        assert settings_of(Path(str(number)))["fast"] is False


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", 'dataset = "{team}"\nsteps = 3\nbatch-size = 5\nhidden = [6]\nlayer_norm = true\n'),
        ("a.yaml", "dataset: {team}\nsteps: 3\nbatch-size: 5\nhidden: [6]\nlayer_norm: true\n"),
        ("a.json", '{{"dataset": "{team}", "steps": 3, "batch-size": 5, "hidden": [6], "layer_norm": true}}'),
    ],
)
def test_a_file_lies_under_the_flags(cli: Cli, team: Path, name: str, text: str) -> None:
    Path(name).write_text(text.format(team=team))
    assert cli("train", "bc", "--config", name, "--steps", 2, "--no-layer-norm", "--out", "run").code == 0
    settings = settings_of(Path("run"))
    assert settings["dataset"] == str(team)
    assert (settings["steps"], settings["batch_size"], settings["hidden"]) == (2, 5, [6])
    assert settings["layer_norm"] is False


def test_the_environment_sets_no_flag(cli: Cli, team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPS", "9")
    monkeypatch.setenv("seed", "9")
    assert cli("train", "bc", "--dataset", team, "--steps", 1, "--out", "run").code == 0
    assert settings_of(Path("run"))["seed"] == 0


def test_resume_goes_on_after_an_interruption(cli: Cli, team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def interrupt(source: str, target: Path) -> None:
        if "step_000000004" in str(target):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    stopped = cli("train", "bc", "--dataset", team, *TINY, "--checkpoint-every", 2, "--out", "my run")
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1] == "interrupted: go on with `offline-marl resume 'my run'`"
    monkeypatch.undo()
    assert cli("resume", team.parent / "my run").code == 0
    assert (team.parent / "my run" / "DONE").exists()


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, r"stopped after update [\d,]+, which is saved: go on with `offline-marl resume run`"),
        (signal.SIGTERM, 143, r"stopped after update [\d,]+, which is saved: go on with `offline-marl resume run`"),
    ],
)
def test_an_interrupted_process_ends_in_one_line(
    team: Path, tmp_path: Path, warm: Warm, number: signal.Signals, code: int, said: str
) -> None:
    command = ["-m", "offline_marl", "train", "bc", "--dataset", str(team), "--out", "run", "--steps", "100000000"]
    process = warm.start(*command, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, number)
    done = process.wait()
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert re.fullmatch(said, done.stderr.splitlines()[-1])


@pytest.mark.mujoco
def test_train_scores_and_evaluate_scores_again(cli: Cli, recording: str) -> None:
    trained = cli("train", "ma-iql", "--dataset", recording, *TINY, "--out", "run")
    assert trained.code == 0
    assert re.match(r"normalized return .* 2 episodes\)", trained.out)
    assert "offline-marl evaluate run" in trained.out
    if (Path("run") / "picture.png").exists():
        assert "run/picture.png" in trained.out
    scored = cli("evaluate", "run", "--episodes", 3, "--seed", 1)
    assert scored.code == 0
    assert re.fullmatch(r"normalized return .* 3 episodes\)\n", scored.out)
    assert cli("resume", "run").out == trained.out


def test_data_info_of_a_task(cli: Cli, recording: str) -> None:
    said = json.loads(cli("data", "info", recording, "--json").out)
    assert (said["episodes"], said["transitions"]) == (6, 30)
    assert (said["agents"], said["obs_widths"], said["action_widths"]) == (2, [5, 5], [1, 1])
    assert said["file"] == recording.removesuffix("_2x1notip_0")
    assert said["reference"]["note"] == "made up"
    raw, normalized = said["returns"]["mean"], said["normalized_returns"]["mean"]
    assert normalized == pytest.approx(100 * (raw + 11) / 7)
    assert -1 <= said["action_range"][0] < said["action_range"][1] <= 1
    assert re.search(rf"^sha256 +{said['sha256']}$", cli("data", "info", recording).out, re.MULTILINE)


def test_data_info_of_a_file(cli: Cli, recording: str, discrete_team: Path) -> None:
    whole = json.loads(cli("data", "info", recording.removesuffix("_2x1notip_0"), "--json").out)
    assert (whole["state_width"], whole["action_width"]) == (10, 2)
    team = json.loads(cli("data", "info", discrete_team, "--json").out)
    assert (team["action_kind"], team["action_widths"], team["normalized_returns"]) == ("discrete", [3, 3], None)


LEFT = """
import os, sys

read, write = os.pipe()
os.dup2(write, 1)
os.close(write)
os.close(read)
from offline_marl.launch.cli import main

main(sys.argv[1:])
"""
"""A command whose output nobody reads any more."""


@pytest.mark.long
@pytest.mark.parametrize("command", ["list", "train bc --help"])
def test_a_reader_that_leaves_early_is_no_error(warm: Warm, command: str) -> None:
    done = warm.run("-c", LEFT, *command.split())
    assert done.stderr == ""
    # argparse itself overlooks a closed pipe.
    assert done.returncode in {0, 141}
