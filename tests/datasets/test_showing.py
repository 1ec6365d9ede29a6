"""Reprs of what people print, tables for notebooks, and `Dataset.save`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from runs import score_in_point_env, small_fit, small_run
from worlds import saved, world

import offline_marl
from offline_marl.core.reference import Reference
from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.environments.scores import summarize
from offline_marl.runs.folder import RunFolder

SHORT = 300
"""Letters that a repr has at most."""


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_saved_set_is_read_as_it_was(tmp_path, kind):
    data = world(kind)
    path = data.save(tmp_path / "deep" / "mine.safetensors")
    again = offline_marl.load_dataset(str(path))
    assert again.spec == data.spec and torch.equal(again.lengths, data.lengths)
    for name in ("obs", "actions", "rewards", "terminations", "truncations", "state", "avail_actions"):
        one, other = getattr(again, name), getattr(data, name)
        assert (one is None) == (other is None) and (one is None or torch.equal(one, other)), name
    with pytest.raises(DataError, match="should end in .safetensors"):
        data.save(tmp_path / "mine.npz")


@pytest.mark.long
def test_reprs_are_short_and_say_what_there_is(tmp_path, monkeypatch):
    score_in_point_env(monkeypatch)
    data = world("continuous")
    assert repr(data).startswith(
        "Dataset(episodes 10, steps "
    ) and "agents 3, obs 4/2/3, continuous actions 1/2/2" in repr(data)
    episode = data.episode(0)
    assert repr(episode).startswith(f"Episode(obs {len(episode) + 1}x3x4, actions {len(episode)}x3x2")
    result = small_run(tmp_path / "run", saved(tmp_path, data), steps=3)
    assert repr(result).startswith("Result(BehaviourCloning in ") or repr(result).startswith("Result(BC in ")
    assert repr(RunFolder(tmp_path / "run")).endswith("run', done)")
    assert repr(RunFolder(tmp_path / "none")).endswith("none', not begun)")
    fit = small_fit(tmp_path / "model", saved(tmp_path, data))
    assert "held-out errors" in repr(fit)
    flat = torch.zeros(3)
    recording = Recording(torch.zeros(4, 2), torch.zeros(3, 1), flat, flat.bool(), flat.bool(), torch.tensor([3]))
    assert repr(recording) == "Recording(1 episodes, 3 steps, state 4x2, actions 3x1)"
    for thing in (data, episode, result, fit, result.score, recording):
        assert len(repr(thing)) < SHORT and "tensor(" not in repr(thing) and "\n" not in repr(thing)


def test_notebooks_get_small_tables_in_which_names_are_text():
    data = Dataset.from_arrays(
        np.zeros((11, 1, 2)), np.zeros((10, 1, 1)), np.ones(10), lengths=[10], metadata={"scenario": "<b>x</b>"}
    )
    page = data._repr_html_()
    assert (
        page.startswith("<table>")
        and "&lt;b&gt;x" in page
        and "<b>" not in page
        and "<td style='text-align:left'>1</td>" in page
    )
    score = summarize(np.arange(5.0), Reference(random=0.0, expert=4.0))
    assert repr(score) == f"Score({score})" and ">50<" in score._repr_html_() and ">2<" in score._repr_html_()
