"""Small sets of comparisons, and reward models that are fitted to them in a fraction of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from offline_marl.datasets.base import Dataset
from offline_marl.preferences.labels import TEAM, AskedPair, Label
from offline_marl.preferences.pairs import Pair, SegmentKey
from offline_marl.preferences.teachers import TeacherConfig
from offline_marl.tasks.data_tasks import Task, open_task
from offline_marl.training.kinds import fit_reward
from offline_marl.training.preferences.answering import simulate
from offline_marl.training.preferences.asking import Plan, ask
from offline_marl.training.preferences.fit import RewardFit
from offline_marl.training.preferences.folders import ComparisonFolder, key_of, plain_spec
from offline_marl.training.preferences.pair_source import LabelledPairs

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


def random_pairs(data: Dataset, count: int, seed: int = 0, longest: int = 4) -> LabelledPairs:
    """Segments of unequal lengths from anywhere in the episodes; labels of each kind, of the team and of each agent."""
    generator = torch.Generator().manual_seed(seed)

    def below(limits: torch.Tensor) -> torch.Tensor:
        return (torch.rand(limits.shape, generator=generator) * limits).long()

    episodes = torch.randint(len(data.lengths), (count, 2), generator=generator)
    lengths = 1 + below(data.lengths[episodes].clamp(max=longest))
    starts = below(data.lengths[episodes] - lengths + 1)
    numbers = torch.arange(count)
    return LabelledPairs(episodes, starts, lengths, (numbers % 3) / 2, numbers // 3 % (data.spec.n_agents + 1) - 1)


def store(place: Path, task: Task, pairs: LabelledPairs, split: str = "train") -> list[str]:
    """Enter labelled pairs into a folder, each label by an annotator of its own; returns the ids of the pairs."""
    answers: dict[float, Any] = {1.0: "first", 0.0: "second", 0.5: "equal"}
    key = key_of(task.data)
    asked, labels = [], []
    for row in range(len(pairs)):
        numbers = torch.stack([pairs.episodes[row], pairs.starts[row], pairs.lengths[row]], -1).tolist()
        pair = Pair(SegmentKey(key, *numbers[0]), SegmentKey(key, *numbers[1]))
        asked.append(AskedPair(pair, 1, split, "uniform"))
        target = TEAM if pairs.targets[row] < 0 else f"agent_{int(pairs.targets[row])}"
        labels.append(Label(pair.id, answers[float(pairs.labels[row])], str(row), target=target))
    with ComparisonFolder(place, make=True) as folder:
        folder.store.state({"data": {"key": key, "spec": plain_spec(task.data.spec)}, "task": task.id})
        folder.store.ask_about(asked)
        folder.store.add(labels)
    return [each.pair.id for each in asked]
