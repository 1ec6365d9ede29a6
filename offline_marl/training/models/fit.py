"""Fits of world models, as runs of their own that stop when the error on held-out episodes falls no further."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from offline_marl.core.attempts import attempt
from offline_marl.core.config import ConfigError, build
from offline_marl.core.errors import BadInputError
from offline_marl.core.learner import Learner
from offline_marl.core.seeding import Generators, derive, seeded_globally
from offline_marl.core.types import Batch, Metrics, Source
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.episode_index import episodes_apart
from offline_marl.runs.config import FitConfig, LearnFlags
from offline_marl.runs.devices import pick_device
from offline_marl.runs.folder import ModelFolder, naming_plugins
from offline_marl.runs.kinds import FIT, build_settings
from offline_marl.runs.log_files import SILENT
from offline_marl.runs.places import resolve_fit
from offline_marl.runs.sizes import refuse_too_large
from offline_marl.runs.software import describe_software
from offline_marl.runs.unused_flags import warn_unread
from offline_marl.tasks.data_tasks import Task, open_task
from offline_marl.training.loop import Enough, LogHook
from offline_marl.training.models.cost import tell_cost
from offline_marl.training.models.foresight import evenly
from offline_marl.training.models.picture import draw_report
from offline_marl.training.models.report import read_report, write_report
from offline_marl.training.models.rows import members_of, source_for
from offline_marl.training.session import Session
from offline_marl.worldmodels.base import Phase, WorldModel, worldmodels
from offline_marl.worldmodels.facts import Facts, measure, restated

ROWS_AT_ONCE = 4_096


class WrongModelError(BadInputError, ValueError):
    """A world model that was fitted to something else; the message names both."""


@dataclass(frozen=True)
class Fit:
    """Result of a finished fit: model, held-out errors and report."""

    folder: Path
    model: WorldModel
    errors: list[float]
    """Held-out error of each member, in units of the data's own deviations."""
    steps: int
    held_out: TransitionBuffer
    """Transitions of the episodes that it did not learn from."""
    report: dict[str, Any] | None
    """How it does on these, see `model_report`; None where the folder holds no report."""

    def __repr__(self) -> str:
        errors = ", ".join(f"{error:.3g}" for error in self.errors)
        return f"Fit({type(self.model).__name__} in {str(self.folder)!r}: held-out errors {errors})"


def prepare_fit(model: str, dataset: str, fields: Mapping[str, Any]) -> FitConfig:
    """The full settings of a fit from loose fields, each the fit's or the model's own; its paths are whole.

    Raises:
        RegistryError: The kind of model is unknown.
        ConfigError: A field is neither's, or has a bad value; or the kind needs no fit.
    """
    kind = worldmodels.get(model)
    if not kind.fitted:
        raise ConfigError(f"There is nothing to fit in {model}: name it as --world-model.")
    fields = resolve_fit(model, {**fields, "dataset": dataset})
    dataset = fields.pop("dataset")
    config = build_settings(FIT, model, kind.Config, dataset, fields)
    return config.model_copy(update={"device": str(pick_device(config.device))})


def fit_model(model: str, dataset: str, *, out: str | Path | None = None, **fields: Any) -> Fit:
    """Fit a world model to a data set.

    Args:
        model: Registry name of its kind.
        dataset: Task id or file, as for `train`.
        out: The model's folder; by default `models/<kind>_<dataset>_seed<seed>`.
        fields: Any field of the fit (`steps`, `seed` ...) or of the kind's config.

    Raises:
        ConfigError: A setting is unknown or has a bad value.
        RegistryError: The kind is unknown or does not import.
        DataError: The data cannot be used.
        RunFolderError: The folder holds something else or is in use.
    """
    config = prepare_fit(model, dataset, fields)
    folder = ModelFolder(out if out is not None else default_model_folder(config))
    return begin_fit(folder, config, open_task(config.dataset, config.clip_actions, config.memory, config.action_scale))


def refuse_short(config: FitConfig) -> None:
    """Refuse a fit that ends before all of its model is learnt.

    Raises:
        ConfigError: Says how many steps it takes.
    """
    kind = worldmodels.get(config.model)
    _refuse_short(config, kind.first_look_of(build(kind.Config, config.settings)))


def _refuse_short(config: FitConfig, least: int) -> None:
    if least > config.steps:
        raise ConfigError(
            f"{config.steps} steps end before all of {config.model} is learnt, which takes {least} or more: give more "
            "--steps."
        )


def default_model_folder(config: FitConfig) -> Path:
    """Where a fit goes that names no folder."""
    return Path("models") / f"{config.model}_{Path(config.dataset).name}_seed{config.seed}"


def begin_fit(folder: ModelFolder, config: FitConfig, task: Task) -> Fit:
    """Fit in a folder that holds nothing yet."""
    with folder.locked():
        folder.refuse_strangers(config)
        folder.sweep()
        session = FitSession(folder, config, task)
        folder.begin(config, {**describe_software(), "dataset_sha256": task.data.metadata.get("sha256")})
        return session.run()


def resume_fit(path: str | Path) -> Fit:
    """Go on with a fit that was stopped; its end equals that of a fit that never stopped, bit for bit."""
    folder = ModelFolder(path)
    config = folder.config()
    with naming_plugins(folder):
        return continue_fit(folder, open_task(config.dataset, config.clip_actions, config.memory, config.action_scale))


def continue_fit(folder: ModelFolder, task: Task, reader: LearnFlags | None = None) -> Fit:
    """Go on in a folder that holds a fit to this task; a finished one is read, on the reader's device.

    Raises:
        WrongModelError: It was fitted to another task, or to other data of that name.
        RunFolderError: Its settings were edited.
    """
    config = config_for(folder, task)
    if folder.done:  # read by as many at once as like to
        read = {} if reader is None else reader.model_dump(include={"device", "threads"})
        return FitSession(folder, config.model_copy(update={**read, **SILENT}), task).run()
    with folder.locked():
        folder.sweep()
        return FitSession(folder, config, task).run()


def config_for(folder: ModelFolder, task: Task) -> FitConfig:
    """The settings of a fit to this task; raises what `continue_fit` does."""
    config = folder.unedited_config()
    then, now = folder.versions().get("dataset_sha256"), task.data.metadata.get("sha256")
    if Path(config.dataset).name != Path(task.id).name:
        raise WrongModelError(f"The world model in {folder.path} was fitted to {config.dataset}, not to {task.id}.")
    if then is not None and then != now:
        raise WrongModelError(
            f"The world model in {folder.path} was fitted to another version of {task.id}: sha256 was {then}, is {now}."
        )
    return config


class FitSession(Session[FitConfig, Fit]):
    """One process's work on a fit, which ends when the error on held-out episodes falls no further.

    Args:
        folder: The model's folder, held by this process.
        config: The settings of the fit.
        task: Its data.
    """

    learner_key = "model"
    at_most = True
    learner: WorldModel

    def __init__(self, folder: ModelFolder, config: FitConfig, task: Task) -> None:
        super().__init__(folder, config, config.model, config.steps)
        self.task = task
        kind = worldmodels.get(config.model)
        with seeded_globally(config.seed, "initialisation"):
            settings, data, stays = build(kind.Config, config.settings), task.data, task.mapped
            seen, held_out = episodes_apart(data.lengths, settings.holdout, config.seed)
            facts = facts_of(data, seen)
            refuse_too_large(config.model, lambda: kind(settings, facts), settings.model_dump(), data.spec)
            self.learner = kind(settings, facts)
        _refuse_short(config, self.learner.first_look)
        self.learner.place(self.device, derive(config.seed, "elites"))
        self.held_out = TransitionBuffer(data, self.learner.window, self.device, False, held_out, stays)
        buffer = TransitionBuffer(data, self.learner.window, self.device, False, seen, stays)
        draws = Generators(config.seed, buffer.device).get("batches")
        self._made = source_for(self.learner, buffer, draws)
        self.looking = HeldOutHook(
            self.learner,
            lambda: held_out_errors(self.learner, self.held_out),
            config.eval_every,
            self.log,
            members_of(self.learner),
            self.learner.first_look,
        )
        self.own_hooks = {"held_out": self.looking}

    @property
    def title(self) -> str:
        return f"{self.name} of {self.task.id}"

    def announce(self) -> None:
        first = min(self.learner.first_look, self.steps)
        updates = {"tokenizer": first, "model": self.steps - first} if first else {"model": self.steps}
        warn_unread(self.name, self.learner.config.unread())
        tell_cost(self.name, self.learner, cast(dict[Phase, int], updates), 0, self.device)
        super().announce()

    def make_source(self) -> Source:
        return self._made

    def conclude(self) -> None:
        updates = self.learner.updates
        self.log.flush(updates)
        self.looking.conclude(updates)
        self.ended = True
        self.save(updates)

    def finish(self) -> Fit:
        path, best = self.folder.path, self.looking.best
        report = write_report(path, self.learner, self.held_out)
        self.folder.finish({"steps": self.step, "wall_s": round(self.elapsed, 2), "errors": best.tolist()})
        attempt(lambda: draw_report(path, self.title, *report), "picture")
        return self.read()

    def read(self) -> Fit:
        path, errors = self.folder.path, self.looking.best.tolist()
        return Fit(path, self.learner, errors, self.step, self.held_out, read_report(path))


class Fitted(Protocol):
    """A model whose fit is stopped, and whose weights are chosen, by errors on what it did not learn from."""

    config: Any
    """Its `patience` and `min_improvement` decide when the fit ends."""

    def snapshot(self, improved: Tensor) -> None:
        """Remember the present weights of the members (bool) that improved."""
        ...

    def conclude(self, errors: Tensor) -> None:
        """End the fit, given each member's least error."""
        ...


class HeldOutHook:
    """Early stopping: measures the held-out errors at intervals and keeps the best weights.

    Args:
        model: The model that is fitted.
        errors: Its members' held-out errors now.
        every: Updates between looks.
        log: Takes the rows and shows the error.
        members: How many errors there are.
        first: Updates before the first look.
    """

    def __init__(
        self, model: Fitted, errors: Callable[[], Tensor], every: int, log: LogHook, members: int, first: int = 0
    ) -> None:
        self.first = first
        self.model, self.errors, self.every, self.log = model, errors, every, log
        self.best = torch.full((members,), math.inf)
        self.stale = 0
        self.looked = -1

    def __call__(self, step: int, learner: Learner, metrics: Metrics) -> None:
        """Look if it is time.

        Raises:
            Enough: No member was better by enough for `patience` looks.
        """
        if step % self.every == 0 and step >= self.first:
            self.look(step)
            if self.stale >= self.model.config.patience:
                raise Enough

    def look(self, step: int) -> None:
        """Note the errors of now."""
        errors = self.errors().cpu()
        better = errors < self.best * (1 - self.model.config.min_improvement)
        self.model.snapshot(better)
        self.best = torch.where(better, errors, self.best)
        self.stale = 0 if bool(better.any()) else self.stale + 1
        self.looked = step
        self.log.flush(step)
        self.log.write("eval", {"step": step, "held_out_error": float(errors.mean()), "best": float(errors.min())})
        self.log.show({"held-out": f"{errors.mean():.3f}"})

    def conclude(self, step: int) -> None:
        """Conclude the fit: best weights back, elites chosen."""
        if self.looked != step:
            self.look(step)
        self.model.conclude(self.best)

    def state_dict(self) -> dict[str, Any]:
        """All that decides when the fit ends."""
        return {"best": self.best, "stale": self.stale, "looked": self.looked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the saved hook stood."""
        self.best, self.stale, self.looked = state["best"], state["stale"], state["looked"]


@torch.no_grad()
def held_out_errors(model: WorldModel, buffer: TransitionBuffer, every: Tensor | None = None) -> Tensor:
    """Root-mean-square error of each member over rows of a buffer, all unless `every` says which."""
    total, counted = torch.zeros(members_of(model), device=buffer.device), 0.0
    every = torch.arange(len(buffer), device=buffer.device) if every is None else every
    every = every if model.held_out_rows is None else evenly(every, model.held_out_rows)
    for index in torch.split(every, ROWS_AT_ONCE):
        rows = buffer.view(index, model.needs)
        # Rewards count wherever somebody is there, whether or not it is known what was seen next.
        count = float(len(index) if rows.mask is None else rows.mask.flatten(1).any(-1).sum())
        total += model.errors(rows).square() * count
        counted += count
    return (total / counted).sqrt()


MEASURED = 4_000_000
"""Transitions that a world model's facts are measured on, at most."""


def facts_of(data: Dataset, seen: Tensor | None = None, growing: bool = False) -> Facts:
    """What a world model must know of the data.

    Args:
        data: All of it, in which coordinates are told apart and ends looked for.
        seen: Episodes that statistics and borders are taken from: those that a model is fitted to.
        growing: Whether more is to come than this data, see `measure`.
    """
    every = _rows(TransitionBuffer(data, state=False))
    facts = measure(
        data.spec, every.obs, every.next_obs, every.rewards, every.terminations, every.mask, every.next_seen, growing
    )
    if seen is None:
        return facts
    rows = _rows(TransitionBuffer(data, state=False, episodes=seen))
    return restated(facts, rows.obs, rows.next_obs, rows.rewards, rows.mask, rows.next_seen)


def _rows(buffer: TransitionBuffer) -> Batch:
    # Of more rows than memory may hold, so many all over the data.
    index = torch.arange(len(buffer))
    if len(buffer) > MEASURED:
        index = torch.arange(MEASURED) * len(buffer) // MEASURED
    return buffer.transitions(index)
