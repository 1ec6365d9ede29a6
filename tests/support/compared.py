"""Small sets of comparisons, and reward models that are fitted to them in a fraction of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offline_marl.preferences.teachers import TeacherConfig
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.kinds import fit_reward
from offline_marl.training.preferences.answering import simulate
from offline_marl.training.preferences.asking import Plan, ask
from offline_marl.training.preferences.fit import RewardFit
from offline_marl.training.preferences.folders import ComparisonFolder

SMALL_REWARD: dict[str, Any] = {
    "steps": 60,
    "device": "cpu",
    "hidden": [8, 8],
    "members": 2,
    "batch_size": 8,
    "log_every": 7,
    "eval_every": 10,
    "checkpoint_every": 20,
    "min_labels": 3,
}


def compare(place: Path, data: str, *, target: str = "team", budget: int = 60, length: int = 3, **teacher: Any) -> Path:
    """A folder of labelled comparisons of this data."""
    with ComparisonFolder(place, make=True) as folder:
        ask(folder, open_task(data), Plan(budget=budget, length=length))
        simulate(folder, TeacherConfig(**teacher), target=target)
    return place


def small_reward(out: Path, data: str, comparisons: Path, **fields: Any) -> RewardFit:
    """A fit of a fraction of a second."""
    return fit_reward(data, comparisons, out=out, **{**SMALL_REWARD, **fields})
