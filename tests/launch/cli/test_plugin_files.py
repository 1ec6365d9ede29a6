"""`--plugin FILE`: one file's algorithm on every command, in jobs and sweeps, and never by a folder's word."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from warm import Warm
from worlds import saved, world

from offline_marl.core.config import ConfigError
from offline_marl.core.plugin_files import load_plugin, take_plugins

FILE = '''
from pathlib import Path

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.bc import BC, BCConfig
from offline_marl.runs.loggers import Logger, loggers

with open(Path(__file__).with_suffix(".count"), "a") as stream:
    stream.write("imported\\n")


class MineConfig(BCConfig):
    """Fields of mine."""

    bonus: float = 0.5
    """Of mine."""


@algorithms.register("mine")
class Mine(BC):
    """My own algorithm."""

    Config = MineConfig


@loggers.register("quiet")
class Quiet(Logger):
    def write(self, kind, row):
        pass
'''
TINY = ["--steps", "3", "--hidden", "8", "--batch-size", "4", "--final-episodes", "1", "--device", "cpu"]


@pytest.fixture
def place(tmp_path):
    """A folder with a plugin of one file and a data set."""
    (tmp_path / "mine.py").write_text(FILE)
    saved(tmp_path, world("continuous"))
    return tmp_path


def data_in(place: Path) -> str:
    return next(path.name for path in place.glob("*.safetensors"))


def command(warm: Warm, place: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    home = {"OFFLINE_MARL_HOME": str(place / "home"), "OMP_NUM_THREADS": "1"}
    done = warm.run("-m", "offline_marl", *words, cwd=place, env={**os.environ, **home})
    assert done.returncode == code and "Traceback" not in done.stderr, (words, done.stdout, done.stderr)
    return done


@pytest.mark.slow
def test_a_run_of_a_plugin_names_it_again_to_go_on(place, warm):
    train = ["train", "mine", "--dataset", data_in(place), "--bonus", "2", "--out", "run", *TINY]
    assert "--plugin FILE" in command(warm, place, "--help").stdout
    assert "Unknown algorithm 'mine'" in command(warm, place, *train, code=2).stderr
    command(warm, place, *train, "--plugin", "mine.py", "--loggers", "quiet")
    assert json.loads((place / "run" / "config.json").read_text())["settings"]["bonus"] == 2
    (place / "run" / "DONE").unlink()
    count = (place / "mine.count").read_text()
    refused = command(warm, place, "resume", "run", code=2).stderr
    assert f"The run was begun with --plugin {place / 'mine.py'}: name it again" in refused
    assert (place / "mine.count").read_text() == count, "nothing is imported because a folder says so"
    command(warm, place, "--plugin=mine.py", "resume", "run")
    assert (place / "run" / "DONE").exists()
    listed = command(warm, place, "list", "plugins", "--plugin", "mine.py").stdout.splitlines()
    assert any(line.split() == ["mine", "--plugin", "works"] for line in listed)
    assert any(line.split() == ["quiet", "--plugin", "logger:", "works"] for line in listed)


@pytest.mark.parametrize("executor", [pytest.param("local", marks=pytest.mark.slow), "debug"])
def test_jobs_get_the_plugins_of_who_submits_them(place, warm, executor):
    words = ["submit", "train", "mine", "--dataset", data_in(place), "--out", "run", *TINY, "--executor", executor]
    command(warm, place, *words, "--plugin", "mine.py")
    assert (place / "run" / "DONE").exists()
    assert "mine.py" not in (place / "run" / "job.json").read_text()


@pytest.mark.slow
def test_a_sweep_file_names_plugins_beside_it(place, warm):
    (place / "sub").mkdir()
    (place / "mine.py").rename(place / "sub" / "mine.py")
    fields = "steps = 2\nhidden = [8]\nbatch_size = 4\nfinal_episodes = 1\ndevice = 'cpu'\n"
    (place / "sub" / "sweep.toml").write_text(
        f"plugins = ['mine.py']\nalgorithms = ['mine']\ndatasets = ['{data_in(place)}']\nseeds = [0]\n"
        f"[fields]\n{fields}"
    )
    command(warm, place, "sweep", "sub/sweep.toml", "--out", "all")
    assert len(list((place / "all").rglob("DONE"))) == 1
    assert "mine.py" not in (place / "all" / "sweep.json").read_text()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("none.py", None, "should be a Python file"),
        ("x.txt", "", "should be a Python file"),
        ("bad.py", "import no_such_thing_anywhere", "does not import .ModuleNotFoundError"),
        ("ends.py", "raise SystemExit(3)", "does not import .SystemExit: 3"),
        ("wrong.py", "def f(:", "does not import .SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_refused(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_plugin(tmp_path / name)


def test_the_flag_stands_anywhere_and_a_file_is_imported_once(tmp_path):
    (tmp_path / "a.py").write_text(f"with open({str(tmp_path / 'count')!r}, 'a') as stream:\n    stream.write('x')\n")
    file = str(tmp_path / "a.py")
    assert take_plugins(["train", "--plugin", file, "bc", f"--plugin={file}", "--steps", "3"]) == [
        "train",
        "bc",
        "--steps",
        "3",
    ]
    assert (tmp_path / "count").read_text() == "x"
    with pytest.raises(ConfigError, match="--plugin needs a value"):
        take_plugins(["train", "--plugin"])
