"""The examples run as they are given."""

from __future__ import annotations

import json
import runpy
import sqlite3
import sys
from pathlib import Path

import pytest
from warm import Warm
from worlds import reacher_recording, saved, world

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.mujoco
def test_train_api_trains_scores_loads_and_acts(tmp_path: Path, warm: Warm) -> None:
    pytest.importorskip("mujoco")
    data = saved(tmp_path, reacher_recording())
    script = [str(ROOT / "examples" / "train_api.py")]
    options = ["--dataset", f"{data}_2x1notip_0", "--steps", "10", "--episodes", "2", "--out", str(tmp_path / "run")]
    done = warm.run(*script, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "normalized return" in done.stdout
    assert "team does" in done.stdout


@pytest.mark.mujoco
def test_custom_algorithm_trains_and_scores(tmp_path: Path, warm: Warm) -> None:
    pytest.importorskip("mujoco")
    data = saved(tmp_path, reacher_recording())
    script = [str(ROOT / "examples" / "custom_algorithm.py")]
    options = ["--dataset", f"{data}_2x1notip_0", "--steps", "10", "--episodes", "2", "--out", str(tmp_path / "run")]
    done = warm.run(*script, *options, "--spared", "0.1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "normalized return" in done.stdout
    assert json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["spared"] == 0.1


@pytest.mark.long
def test_own_logger_keeps_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = saved(tmp_path, world("continuous"))
    options = ["own_logger.py", "--dataset", str(data), "--steps", "200", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", options)
    runpy.run_path(str(ROOT / "examples" / "own_logger.py"), run_name="__main__")
    assert "loss/actor" in capsys.readouterr().out
    with sqlite3.connect(tmp_path / "run" / "rows.sqlite") as base:
        assert base.execute("SELECT DISTINCT step FROM rows").fetchall() == [(100,), (200,)]


def test_own_hook_averages_and_is_saved_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = saved(tmp_path, world("continuous"))
    options = ["own_hook.py", "--dataset", str(data), "--steps", "20", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", options)
    runpy.run_path(str(ROOT / "examples" / "own_hook.py"), run_name="__main__")
    first = capsys.readouterr().out
    assert "the averaged actor is" in first and " 0.000 away" not in first
    runpy.run_path(str(ROOT / "examples" / "own_hook.py"), run_name="__main__")
    assert capsys.readouterr().out == first, "taken up again, it finds the average in the checkpoint"
