"""Labelled pairs of small data sets."""

from __future__ import annotations

from pathlib import Path

import torch

from offline_marl.datasets.base import Dataset
from offline_marl.preferences.labels import NAME, TEAM, AskedPair, Label, LabelStore
from offline_marl.preferences.pairs import Pair, SegmentKey
from offline_marl.training.sources.pairs import LabelledPairs


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


def store(folder: Path, data: Dataset, pairs: LabelledPairs, split: str = "train", **more: str) -> list[str]:
    """Write pairs of a data set, and their labels, into a folder of comparisons; returns the ids of the pairs."""
    answers = {1.0: "first", 0.0: "second", 0.5: "equal"}
    asked, labels = [], []
    for row in range(len(pairs)):
        first, second = (
            SegmentKey(
                data.metadata["sha256"],
                *(int(part[row, side]) for part in (pairs.episodes, pairs.starts, pairs.lengths)),
            )
            for side in range(2)
        )
        asked.append(AskedPair(Pair(first, second), 1, split, "uniform"))
        target = TEAM if pairs.targets[row] < 0 else f"agent_{int(pairs.targets[row])}"
        answer = answers[float(pairs.labels[row])]
        labels.append(Label(asked[-1].pair.id, answer, **{"annotator": str(row), "target": target, **more}))
    with LabelStore(folder / NAME, make=True) as comparisons:
        comparisons.ask_about(asked)
        comparisons.add(labels)
    return [each.pair.id for each in asked]
