"""The examples run as they are given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from warm import Warm
from worlds import reacher_recording, saved

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
