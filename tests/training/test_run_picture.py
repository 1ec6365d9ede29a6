from __future__ import annotations

import sys

import numpy as np
import pytest

from offline_marl.core.reference import Reference
from offline_marl.environments.scores import summarize
from offline_marl.runs.log_files import FileLogger
from offline_marl.training.run_picture import draw_run

REFERENCE = Reference(random=-11.0, expert=-4.0)


@pytest.mark.parametrize("reference", [None, REFERENCE], ids=["raw", "normalized"])
@pytest.mark.parametrize("scores", [1, 3])
@pytest.mark.parametrize("episodes", [1, 40])
def test_a_picture_is_drawn_whatever_there_is_to_draw(tmp_path, reference, scores, episodes):
    pytest.importorskip("matplotlib")
    score = summarize(np.random.default_rng(0).normal(-7, 1, episodes), reference)
    logger = FileLogger(tmp_path, 0, 100)
    for step in range(1, scores + 1):
        logger.write("eval", {"step": step, **score.row()})
    path = draw_run(tmp_path, "bc on x, seed 0", score)
    assert path == tmp_path / "picture.png"
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000
    assert not list(tmp_path.glob(".*.part"))


def test_returns_that_are_equal_but_for_rounding_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    score = summarize(np.full(40, 5.0) + np.arange(40) % 2 * 1e-15)
    assert score.returns.min() < score.returns.max()
    FileLogger(tmp_path, 0, 100).write("eval", {"step": 1, **score.row()})
    assert draw_run(tmp_path, "bc on x, seed 0", score) is not None


def test_without_matplotlib_there_is_no_picture_and_no_error(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert draw_run(tmp_path, "bc", summarize(np.ones(3))) is None
    assert not list(tmp_path.iterdir())
