"""Fits of reward models, as runs of their own that stop when held-out pairs are told no better."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from offline_marl.core.config import build
from offline_marl.core.seeding import Generators, derive, seeded_globally
from offline_marl.core.types import Batch, Source
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.normalize import obs_statistics
from offline_marl.preferences import registry
from offline_marl.preferences.reward_model import RewardModel, RewardModelConfig
from offline_marl.runs.config import RewardFitConfig
from offline_marl.runs.folder import Folder, RunFolderError, write_json
from offline_marl.runs.sizes import refuse_too_large
from offline_marl.tasks.data_tasks import Task
from offline_marl.training.models.fit import HeldOutHook
from offline_marl.training.models.report import read_report, verdict
from offline_marl.training.preferences.folders import ComparisonFolder, key_of, masked
from offline_marl.training.preferences.labelled import ComparisonSource
from offline_marl.training.preferences.report import measure_reward_model
from offline_marl.training.preferences.splits import Split, load_split, refuse_few
from offline_marl.training.session import Session

UNLABELLED = 4_096
"""Segments without a label that pseudo-labels are made for, at most."""


@dataclass(frozen=True)
class RewardFit:
    """Result of a finished fit: model, held-out losses and report."""

    folder: Path
    model: RewardModel
    errors: list[float]
    """Held-out -log likelihood of each member, in nats."""
    steps: int
    report: dict[str, Any] | None
    """See `measure_reward_model`; None where the folder holds none."""

    def __repr__(self) -> str:
        errors = ", ".join(f"{error:.3g}" for error in self.errors)
        return f"RewardFit({type(self.model).__name__} in {str(self.folder)!r}: held-out losses {errors})"


class RewardFitSession(Session[RewardFitConfig, RewardFit]):
    """One process's work on a fit.

    Args:
        folder: The model's folder, held by this process.
        config: The settings of the fit.
        task: The data that the pairs are of.
    """

    learner_key = "reward_model"
    at_most = True
    learner: RewardModel

    def __init__(self, folder: Folder[RewardFitConfig], config: RewardFitConfig, task: Task) -> None:
        super().__init__(folder, config, config.reward, config.steps)
        self.task = task
        kind: type[RewardModel] = registry.get(config.reward)
        settings: RewardModelConfig = build(kind.Config, config.settings)
        with ComparisonFolder(config.preferences) as comparisons:
            comparisons.refuse_other_data(key_of(task.data), task.spec, task.id)
            self.labels = _labels_of(folder, comparisons.store.cursor())
            self.judgements = _judgements_of(folder, comparisons.store.judgement_cursor())
            self.split = load_split(
                comparisons,
                self.labels,
                settings.holdout,
                config.seed,
                self.device,
                self.judgements,
                config.labels,
            )
            refuse_few(self.split, settings.min_labels, config.preferences)
            self.facts = comparisons.store.facts()
        statistics = obs_statistics(task.data)
        refuse_too_large(
            config.reward, lambda: kind(settings, task.spec, *statistics), settings.model_dump(), task.spec
        )
        with seeded_globally(config.seed, "initialisation"):
            self.learner = kind(settings, task.spec, *statistics)
        self.learner.place(self.device, derive(config.seed, "crops"))
        self.looking = HeldOutHook(
            self.learner,
            lambda: self.split.held_out.errors(self.learner),
            config.eval_every,
            self.log,
            self.learner.members,
        )
        self.own_hooks = {"held_out": self.looking}

    @property
    def title(self) -> str:
        return f"{self.name} of {len(self.split.train):,} labels on {self.task.id}"

    def make_source(self) -> Source:
        settings = self.learner.config
        unlabelled = None
        if settings.surf_weight:
            unlabelled = unlabelled_segments(self.task.data, self.split, self.config.seed, self.task.mapped)
            unlabelled = unlabelled.to(self.device)
        generator = Generators(self.config.seed, self.device).get("batches")
        return ComparisonSource(
            self.split.train,
            settings.members,
            settings.batch_size,
            generator,
            settings.sampling,
            unlabelled,
            self.split.judged,
        )

    def conclude(self) -> None:
        updates = self.learner.updates
        self.log.flush(updates)
        self.looking.conclude(updates)
        self.ended = True
        self.save(updates)

    def finish(self) -> RewardFit:
        report = measure_reward_model(self.learner, self.split, self.task.data, self.facts, self.task.mapped)
        write_json(self.folder.path / "report.json", report)
        errors = self.looking.best.tolist()
        self.folder.finish({"steps": self.step, "wall_s": round(self.elapsed, 2), "errors": errors})
        return self.read()

    def read(self) -> RewardFit:
        path, errors = self.folder.path, self.looking.best.tolist()
        return RewardFit(path, self.learner, errors, self.step, read_report(path))


def _labels_of(folder: Folder[RewardFitConfig], newest: int) -> int:
    """Number of the newest label to learn from: a fit that goes on heeds none that came since it began.

    Raises:
        RunFolderError: What it began with was lost.
    """
    if not folder.config_file.is_file():
        return newest
    began = folder.versions().get("labels")
    if not isinstance(began, int):
        raise RunFolderError(f"{folder.versions_file} is missing or damaged: it says which labels the fit began with.")
    return began


def _judgements_of(folder: Folder[RewardFitConfig], newest: int) -> int:
    """The same of ratings and credit; folders of fits from before there were any name none."""
    if not folder.config_file.is_file():
        return newest
    began = folder.versions().get("judgements", 0)
    return began if isinstance(began, int) else 0


def unlabelled_segments(data: Dataset, split: Split, seed: int, stays: bool = False) -> Batch:
    """Segments as long as the labelled ones, from episodes that nothing held out is of.

    Args:
        data: Where they are drawn.
        split: Says which episodes are held out, and how long segments are.
        seed: Decides which are drawn.
        stays: Whether the data stays on disk.
    """
    segments = split.train.segments
    assert segments.mask is not None
    time = segments.rewards.shape[1]
    away = {episode for _, episode in split.away}
    numbers = torch.tensor([n for n in range(len(data.lengths)) if n not in away], dtype=torch.int64)
    whole = bool((~segments.mask.any(-1)).any()) or time >= int(data.lengths.max())
    enough = numbers if whole else numbers[data.lengths[numbers] >= time]
    generator = torch.Generator().manual_seed(derive(seed, "unlabelled"))
    buffer = TransitionBuffer(data, state=False, episodes=enough, stays=stays)
    lots = torch.randint(len(enough), (UNLABELLED,), generator=generator)
    room = torch.zeros_like(lots) if whole else data.lengths[enough][lots] - time
    offsets = (torch.rand(UNLABELLED, generator=generator) * (room + 1)).long().clamp(max=room)
    return masked(buffer.segments(buffer.first[lots] + offsets, time))


def describe(fit: RewardFit) -> list[str]:
    """What a fit came to, in lines for the terminal."""
    lines = []
    report = fit.report
    if report is not None:
        accuracy, truth = report["accuracy"], report["true_returns"]
        low, high = accuracy["interval"]
        told = f"{accuracy['accuracy']:.3f} of {accuracy['labels']:,} held-out labels ({low:.3f} to {high:.3f})"
        if accuracy["bayes"] is not None:
            told += f"; expected {accuracy['expected']:.3f}, the best possible {accuracy['bayes']:.3f}"
        lines.append(f"{'accuracy':<12}{told}")
        if truth["team"] is not None and truth["team"]["rank"] is not None:
            agents = ", ".join("-" if one["rank"] is None else f"{one['rank']:.3f}" for one in truth["agents"])
            told = (
                f"rank correlation {truth['team']['rank']:.3f} on {truth['episodes']:,} episodes it did not learn from"
            )
            lines.append(f"{'true return':<12}{told}; agents {agents}")
        if not report["labels"]["agents_told_apart"] and len(truth["agents"] or ()) > 1:
            lines.append(f"{'agents':<12}all labels are of the team: how it shares its reward out is the model's guess")
        if report["labels"]["contradictions"]:
            lines.append(f"{'labels':<12}{report['labels']['contradictions']:,} questions were answered in two ways")
    lines.append(f"{'verdict':<12}{verdict(report)}")
    return lines
