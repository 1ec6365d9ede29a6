from __future__ import annotations

from pathlib import Path

import pytest
import torch

import offline_marl
from offline_marl import Dataset

WORLD = """
import numpy as np
from gymnasium.spaces import Box
from odd_worlds import OddWorld


def narrow():
    return OddWorld(acts=Box(0, 1, (1,), np.float32))


def usual():
    return OddWorld()
"""


@pytest.mark.parametrize(
    ("least", "world", "warned", "workers"),
    [
        (0.0, "narrow", True, 1),
        pytest.param(0.0, "narrow", True, 2, marks=pytest.mark.long),
        (-0.5, "narrow", False, 1),
        (0.0, "usual", False, 1),
    ],
)
def test_actions_in_the_environments_own_units_are_warned_of(
    least: float, world: str, warned: bool, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """[0, 1] is what -1 and 1 stand for there; who copies .2 would do .6."""
    (tmp_path / "own_units.py").write_text(WORLD)
    monkeypatch.syspath_prepend(str(tmp_path))
    actions = torch.linspace(least, 0.9, 40).reshape(20, 2, 1)
    data = Dataset.from_arrays(torch.zeros(20, 2, 3), actions, torch.ones(20), lengths=[5] * 4)
    fields = {"hidden": [4], "batch_size": 4, "device": "cpu", "eval_every": 0, "final_episodes": 2, "max_steps": 5}
    fields |= {"workers": workers, "environment": f"own_units:{world}"}
    offline_marl.train("bc", data, steps=2, out=tmp_path / "run", **fields)
    said = "lie within the bounds that own_units:narrow has itself, 0 and 1, which -1 and 1 stand for here"
    assert (said in capsys.readouterr().err) == warned
