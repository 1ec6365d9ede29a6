"""Fits of world models, as runs of their own that stop when the error on held-out episodes falls no further."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offline_marl.core.config import ConfigError, build, suggest
from offline_marl.core.errors import BadInputError
from offline_marl.core.learner import Learner
from offline_marl.core.progress import progress_bar
from offline_marl.core.seeding import Generators, derive, seeded_globally
from offline_marl.core.types import Metrics
from offline_marl.datasets.base import Dataset, episodes_apart
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.runs import checkpoint
from offline_marl.runs.config import FitConfig, LearnFlags
from offline_marl.runs.devices import pick_device
from offline_marl.runs.folder import ModelFolder, describe_software, newest_state
from offline_marl.runs.log_files import SILENT, asked_loggers, loggers_of
from offline_marl.runs.places import resolve_fit
from offline_marl.training.loop import CheckpointHook, Enough, Hook, LogHook, StopHook, train
from offline_marl.training.models.picture import draw_report
from offline_marl.training.models.report import read_report, write_report
from offline_marl.training.models.rows import members_of, source_for
from offline_marl.training.tasks import Task, open_task
from offline_marl.worldmodels.base import WorldModel, worldmodels
from offline_marl.worldmodels.facts import Facts, measure

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
    own = {name: value for name, value in fields.items() if name in kind.Config.model_fields}
    rest = {name: value for name, value in fields.items() if name not in own}
    known = (set(FitConfig.model_fields) | set(kind.Config.model_fields)) - {"model", "settings", "dataset"}
    for name in rest:
        if name not in known:
            raise ConfigError(f"Unknown field '{name}' of {model}: {suggest(name, known)}.")
    settings = build(kind.Config, own).model_dump(mode="json")
    given = {"model": model, "dataset": dataset, "settings": settings, **rest}
    config: FitConfig = build(FitConfig, given)
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
    return begin_fit(folder, config, open_task(dataset, config.clip_actions, config.memory))


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
    return continue_fit(folder, open_task(config.dataset, config.clip_actions, config.memory))


def continue_fit(folder: ModelFolder, task: Task, reader: LearnFlags | None = None) -> Fit:
    """Go on in a folder that holds a fit to this task; a finished one is read, on the reader's device.

    Raises:
        WrongModelError: It was fitted to another task, or to other data of that name.
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
    config = folder.config()
    then, now = folder.versions().get("dataset_sha256"), task.data.metadata.get("sha256")
    if Path(config.dataset).name != Path(task.id).name:
        raise WrongModelError(f"The world model in {folder.path} was fitted to {config.dataset}, not to {task.id}.")
    if then is not None and then != now:
        raise WrongModelError(
            f"The world model in {folder.path} was fitted to another version of {task.id}: sha256 was {then}, is {now}."
        )
    return config


class FitSession:
    """One process's work on a fit: model, source and hooks wired from its settings.

    Args:
        folder: The model's folder, held by this process.
        config: The settings of the fit.
        task: Its data.
    """

    def __init__(self, folder: ModelFolder, config: FitConfig, task: Task) -> None:
        self.folder, self.config, self.task = folder, config, task
        self.loggers = asked_loggers(config)
        torch.set_num_threads(config.threads)
        device = pick_device(config.device)
        kind = worldmodels.get(config.model)
        with seeded_globally(config.seed, "initialisation"):
            self.model = kind(build(kind.Config, config.settings), facts_of(task.data))
        self.model.place(device, derive(config.seed, "elites"))
        own = self.model.config
        data, stays = task.data, task.mapped
        seen, held_out = episodes_apart(data.lengths, own.holdout, config.seed)
        self.held_out = TransitionBuffer(data, own.window, device, False, held_out, stays)
        buffer = TransitionBuffer(data, own.window, device, False, seen, stays)
        draws = Generators(config.seed, buffer.device).get("batches")
        self.source = source_for(self.model, buffer, draws)

    def run(self) -> Fit:
        """Go from the newest checkpoint, or the beginning, to the end."""
        with seeded_globally(self.config.seed, "run"):
            return self._go_on()

    def _go_on(self) -> Fit:
        config, path = self.config, self.folder.path
        looking = HeldOutHook(self.model, lambda: held_out_errors(self.model, self.held_out), config.eval_every)
        stood = self._restore(looking)
        start, elapsed = stood["step"], stood["elapsed"]
        if not stood["ended"]:
            left = f"{config.steps - start:,} of {config.steps:,} updates at most on {config.device}"
            print(f"{config.model} of {self.task.id}: {left}, in {path}", file=sys.stderr)
            start, elapsed = self._learn(looking, stood)
        if not self.folder.done:
            draw_report(path, f"{config.model} of {self.task.id}", *write_report(path, self.model, self.held_out))
            self.folder.finish({"steps": start, "wall_s": round(elapsed, 2), "errors": looking.best.tolist()})
        return Fit(path, self.model, looking.best.tolist(), start, self.held_out, read_report(path))

    def _learn(self, looking: HeldOutHook, stood: Mapping[str, Any]) -> tuple[int, float]:
        config, start = self.config, stood["step"]
        loggers = loggers_of(config, self.folder.path, start, config.steps, self.loggers)
        with contextlib.ExitStack() as stack:
            for logger in loggers:
                stack.callback(logger.close)
            bar = stack.enter_context(progress_bar(config.steps, config.model, "update", initial=start))
            log = LogHook(loggers, config.log_every, bar, stood["elapsed"])
            log.load_state_dict(stood["log"], config.device)
            looking.log = log

            def save(step: int, ended: bool = False) -> None:
                state = {
                    "model": self.model.state_dict(),
                    "source": self.source.state_dict(),
                    "held_out": looking.state_dict(),
                    "log": log.state_dict(),
                    "elapsed": log.elapsed,
                    "ended": ended,
                }
                checkpoint.save(self.folder.checkpoints, step, state, config.keep_checkpoints)

            # Looks before it saves, so that no look is missed by who goes on from there.
            saving = CheckpointHook(save, config.checkpoint_every, 0, log)
            hooks: list[Hook] = [log, looking, saving, StopHook(save, 0, log)]
            train(self.model, self.source, hooks, range(start + 1, config.steps + 1))
            log.flush(self.model.updates)
            looking.conclude(self.model.updates)
            save(self.model.updates, ended=True)
            return self.model.updates, log.elapsed

    def _restore(self, looking: HeldOutHook) -> dict[str, Any]:
        state = newest_state(self.folder)
        if state is None:
            return {"step": 0, "elapsed": 0.0, "ended": False, "log": {"pending": []}}
        self.model.load_state_dict(state["model"])
        if not state["ended"]:  # a finished model may be read on another kind of device than it was fitted on
            self.source.load_state_dict(state["source"])
        looking.load_state_dict(state["held_out"])
        checkpoint.restore_torch(state)
        return {"log": {"pending": []}, **state}


class HeldOutHook:
    """Early stopping: measures the held-out errors at intervals and keeps the best weights.

    Args:
        model: The world model that is fitted.
        errors: Its members' held-out errors now.
        every: Updates between looks.
    """

    def __init__(self, model: WorldModel, errors: Callable[[], Tensor], every: int) -> None:
        self.model, self.errors, self.every = model, errors, every
        self.best = torch.full((members_of(model),), math.inf)
        self.stale = 0
        self.looked = -1
        self.log: LogHook | None = None

    def __call__(self, step: int, learner: Learner, metrics: Metrics) -> None:
        """Look if it is time.

        Raises:
            Enough: No member was better by enough for `patience` looks.
        """
        if step % self.every == 0:
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
        if self.log is not None:
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
def held_out_errors(model: WorldModel, buffer: TransitionBuffer) -> Tensor:
    """Root-mean-square error of each member over all rows of a buffer."""
    total = torch.zeros(members_of(model), device=buffer.device)
    for index in torch.split(torch.arange(len(buffer), device=buffer.device), ROWS_AT_ONCE):
        total += model.errors(buffer.view(index, model.needs)).square() * len(index)
    return (total / len(buffer)).sqrt()


MEASURED = 4_000_000
"""Transitions that a world model's facts are measured on, at most."""


def facts_of(data: Dataset) -> Facts:
    """What a world model must know of the data."""
    buffer = TransitionBuffer(data, state=False)
    # Of more rows than memory may hold, so many all over the data.
    index = torch.arange(len(buffer))
    if len(buffer) > MEASURED:
        index = torch.arange(MEASURED) * len(buffer) // MEASURED
    every = buffer.transitions(index)
    return measure(data.spec, every.obs, every.next_obs, every.rewards, every.terminations)
