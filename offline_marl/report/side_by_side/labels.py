"""Labels beside what reward models make of them: probability that the first is preferred, and disagreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from offline_marl.core.errors import BadInputError
from offline_marl.losses.preferences import compared_scores
from offline_marl.preferences.labels import TEAM, AskedPair, Label, index_of
from offline_marl.preferences.reward_model import RewardModel
from offline_marl.report.side_by_side.sides import Side
from offline_marl.runs.folder import RewardFolder
from offline_marl.training.models.report import read_report, verdict
from offline_marl.training.preferences.folders import ComparisonFolder, masked, numbers_of
from offline_marl.training.preferences.labelled import Labelled
from offline_marl.training.preferences.loading import load_reward
from offline_marl.training.preferences.splits import load_split

MOST = 2_000
"""Questions of one folder that are shown."""


@dataclass(frozen=True)
class Told:
    """Probability and disagreement of one reward model for one question."""

    probability: float
    """That the first is preferred: the mean over members."""
    disagreement: float
    """Deviation of the members' probabilities."""


@dataclass(frozen=True)
class Asked:
    """One question: a pair, and whose doings it is about."""

    pair: AskedPair
    target: str
    labels: tuple[Label, ...]
    told: dict[str, Told]
    """By the run that learned from that model."""


@dataclass(frozen=True)
class Agreement:
    """How often one reward model prefers what answers for one of the two prefer, on either side of its fit's split."""

    held_out: tuple[int, int]
    """Answers that it tells, and how many there are."""
    train: tuple[int, int]
    """The same of those that it learnt from."""
    verdict: str
    """Of its report: whether it is to be trusted."""


@dataclass(frozen=True)
class Browser:
    """Questions of one folder of comparisons."""

    folder: Path
    models: tuple[str, ...]
    """Names of the runs whose reward model speaks."""
    asked: tuple[Asked, ...]
    agreements: dict[str, Agreement | None]
    """By the run that learned from that model; None where its folder does not say which labels the fit knew."""
    left_out: int = 0


def browsers_of(sides: Sequence[Side]) -> tuple[list[Browser], list[str]]:
    """Questions of every folder that reward models of these runs learned from, and why some are missing."""
    by_folder: dict[Path, list[Side]] = {}
    reasons = []
    for side in sides:
        if side.reward_model is None:
            continue
        try:
            folder = Path(RewardFolder(side.reward_model).config().preferences)
            if not folder.is_dir():
                raise FileNotFoundError(f"There is no {folder}")
            by_folder.setdefault(folder.resolve(), []).append(side)
        except (BadInputError, OSError) as error:
            reasons.append(f"No labels of {side.name}: {str(error).rstrip('.')}.")
    made = []
    for folder, those in by_folder.items():
        try:
            made.append(_browser(folder, those))
        except (BadInputError, OSError) as error:
            reasons.append(f"No labels of {folder.name}: {str(error).rstrip('.')}.")
    return made, reasons


def _browser(place: Path, sides: Sequence[Side]) -> Browser:
    with ComparisonFolder(place) as folder:
        pairs = {one.pair.id: one for one in folder.store.pairs()}
        labels = [label for label in folder.store.labels() if label.answer != "withdrawn"]
        by_question: dict[tuple[str, str], list[Label]] = {}
        for label in labels:
            by_question.setdefault((label.pair_id, label.target), []).append(label)
        answered = {label.pair_id for label in labels}
        by_question |= {(name, TEAM): [] for name in pairs if name not in answered}
        chosen = sorted(by_question, key=lambda question: not by_question[question])[:MOST]
        copies = folder.copies([pairs[name] for name in dict.fromkeys(name for name, _ in chosen)])
        models = {side.name: load_reward(_place(side)) for side in sides}
        agreements = {side.name: _agreement(folder, _place(side), models[side.name]) for side in sides}
    segments, rows = masked(copies.segments), numbers_of(copies)
    index = torch.tensor([[rows[pairs[name].pair.first], rows[pairs[name].pair.second]] for name, _ in chosen])
    targets = torch.tensor([index_of(target, copies.spec.n_agents) for _, target in chosen])
    told: list[dict[str, Told]] = [{} for _ in chosen]
    for side in sides:
        scores = models[side.name].scores(segments)[:, index]
        compared = compared_scores(scores, targets.view(1, -1, 1).expand(scores.shape[:-1]))
        likely = torch.sigmoid(compared[..., 0] - compared[..., 1])
        means, spreads = likely.mean(0).tolist(), likely.std(0, correction=0).tolist()
        for row, mean, spread in zip(told, means, spreads, strict=True):
            row[side.name] = Told(mean, spread)
    asked = [
        Asked(pairs[name], target, tuple(by_question[name, target]), row)
        for (name, target), row in zip(chosen, told, strict=True)
    ]
    return Browser(place, tuple(models), tuple(asked), agreements, len(by_question) - len(chosen))


def _place(side: Side) -> Path:
    assert side.reward_model is not None
    return side.reward_model


def _agreement(folder: ComparisonFolder, place: Path, model: RewardModel) -> Agreement | None:
    """Of the labels that its fit knew: what came later was neither learnt from nor held out."""
    run = RewardFolder(place)
    until = run.versions().get("labels")
    if not isinstance(until, int):
        return None
    config = run.config()
    split = load_split(folder, until, model.config.holdout, config.seed, "cpu", count=config.labels)
    return Agreement(_told(split.held_out, model), _told(split.train, model), verdict(read_report(place)))


def _told(labelled: Labelled, model: RewardModel) -> tuple[int, int]:
    decided = (labelled.values != 0.5) & labelled.there  # as in the fit's own report
    likely = torch.sigmoid(labelled.margins(model)).mean(0)[decided]
    right = ((likely > 0.5) == (labelled.values[decided] == 1.0)) & (likely != 0.5)
    return int(right.sum()), len(right)
