"""Pictures, films and loggers that fail: DONE and the score stand, a line of warning says why."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from runs import score_in_point_env, small_fit, small_run
from worlds import saved, world

from offline_marl.core.attempts import attempt
from offline_marl.environments.scores import summarize
from offline_marl.launch.cli import main
from offline_marl.runs.log_files import FileLogger
from offline_marl.runs.loggers import Logger
from offline_marl.training import run_picture, training_run
from offline_marl.training.models import fit as fitting
from offline_marl.training.run import resume

COMMAND = "train bc --dataset coordination-single-v0 --steps 20 --final-episodes 5 --hidden 16,16"


@pytest.fixture
def data(tmp_path):
    return saved(tmp_path, world("continuous"))


def spoilt(*_, **__):
    raise RuntimeError("no canvas\nof that name")


def test_a_run_whose_picture_fails_is_done_and_scored(tmp_path, monkeypatch, capsys, data):
    score_in_point_env(monkeypatch, picture=True)
    seen = []
    monkeypatch.setattr(
        training_run, "draw_run", lambda folder, *_: seen.append((folder / "DONE").exists()) or spoilt()
    )
    result = small_run(tmp_path / "run", data, steps=5)
    assert result.score is not None and result.picture is None and seen == [True]
    assert "warning: no picture was drawn (RuntimeError: no canvas of that name)." in capsys.readouterr().err
    assert resume(tmp_path / "run").score.mean == result.score.mean


def test_a_fit_whose_picture_fails_is_done(tmp_path, monkeypatch, capsys, data):
    monkeypatch.setattr(fitting, "draw_report", spoilt)
    fit = small_fit(tmp_path / "model", data)
    assert (fit.folder / "DONE").exists() and fit.report is not None
    assert "warning: no picture was drawn (RuntimeError" in capsys.readouterr().err


def test_a_run_is_done_before_its_loggers_are_closed(tmp_path, monkeypatch, data):
    score_in_point_env(monkeypatch)
    seen = []

    class Last(Logger):
        def write(self, kind, row):
            pass

        def close(self):
            seen.append((tmp_path / "run" / "DONE").exists())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "run", data, steps=5, loggers=[Last()])
    assert seen == [True]
    assert resume(tmp_path / "run").score is not None


def test_attempts_give_what_they_drew(capsys):
    assert attempt(lambda: 3, "picture") == 3
    assert not capsys.readouterr().err
    assert attempt(lambda: 1 / 0, "film") is None
    assert capsys.readouterr().err == "warning: no film was drawn (ZeroDivisionError: division by zero).\n"


def drawn(folder, title):
    """A picture of a run of this title."""
    folder.mkdir()
    score = summarize(np.arange(4.0))
    FileLogger(folder, 0, 100).write("eval", {"step": 1, **score.row()})
    return run_picture.draw_run(folder, title, score).read_bytes()


def test_a_users_style_changes_no_picture_and_is_left_alone(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    plain = drawn(tmp_path / "plain", "bc")
    with matplotlib.rc_context({"text.usetex": True, "figure.facecolor": "red", "savefig.dpi": 7, "font.family": "x"}):
        assert drawn(tmp_path / "own", "bc") == plain
        assert matplotlib.rcParams["text.usetex"] and matplotlib.rcParams["savefig.dpi"] == 7


@pytest.mark.parametrize("title", ["$x", "a_$\\frac$", "bc on \U0001f43a 狼", "100 % $1$ {", "\\", "a\tb"])
def test_any_title_is_drawn(tmp_path, title):
    pytest.importorskip("matplotlib")
    assert drawn(tmp_path / "run", title).startswith(b"\x89PNG")


def test_no_picture_needs_pyplot(warm):
    pytest.importorskip("matplotlib")
    code = (
        "import sys; from offline_marl.datasets.figures import draw_figure; assert draw_figure(lambda f: None, (2, 2))"
    )
    code += "; assert 'matplotlib.pyplot' not in sys.modules"
    done = warm.run("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_a_backend_that_is_not_there_costs_no_picture(tmp_path, warm):
    pytest.importorskip("matplotlib")
    env = {**os.environ, "MPLBACKEND": "module://nowhere.backend_inline"}
    done = warm.run("-m", "offline_marl", *COMMAND.split(), "--out", "nb", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "nb" / "DONE").exists() and (tmp_path / "nb" / "picture.png").exists()


ASCII = {"PYTHONIOENCODING": "ascii"}
C_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize("where", [pytest.param(ASCII, marks=pytest.mark.slow), C_LOCALE], ids=["ascii", "c-locale"])
def test_a_run_whose_name_cannot_be_printed_is_done(tmp_path, where):
    done = run_command(f"{COMMAND} --out läufe_狼", tmp_path, **where)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "run folder" in done.stdout and (tmp_path / "läufe_狼" / "DONE").exists()


@pytest.mark.slow
@pytest.mark.parametrize("where", [ASCII, C_LOCALE], ids=["ascii", "c-locale"])
def test_a_report_whose_names_cannot_be_printed_is_made(tmp_path, monkeypatch, data, where):
    score_in_point_env(monkeypatch)
    small_run(tmp_path / "läufe_狼", data, steps=5)
    done = run_command("report läufe_狼 --out seite_狼", tmp_path, **where)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "seite_狼" / "report.html").exists()


@pytest.mark.long
@pytest.mark.parametrize("words", ["report läufe_狼 --out seite_狼", "resume läufe_狼"])
def test_names_that_cannot_be_printed_are_replaced(tmp_path, monkeypatch, data, words):
    score_in_point_env(monkeypatch)
    monkeypatch.chdir(tmp_path)
    small_run(tmp_path / "läufe_狼", data, steps=5)
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True) for _ in range(2)]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        main(words.split())
    said, told = (stream.buffer.getvalue() for stream in streams)
    assert end.value.code == 0 and b"Traceback" not in told, told
    assert rb"_\u72fc" in said


def run_command(words, folder, **variables):
    """A command in a process of its own, whose output may be of any encoding."""
    env = {**os.environ, **variables}
    command = [sys.executable, "-m", "offline_marl", *words.split()]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", errors="replace")
