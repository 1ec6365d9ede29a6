"""World model of a run: found in a folder, fitted first, or of a kind that learns nothing from data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from offline_marl.core.config import ConfigError, build
from offline_marl.core.seeding import derive, seeded_globally
from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.runs.checkpoint import found
from offline_marl.runs.config import FitConfig, RunConfig
from offline_marl.runs.folder import ModelFolder, RunFolder, RunFolderError
from offline_marl.runs.sizes import refuse_too_large
from offline_marl.tasks.data_tasks import Task, known_partition
from offline_marl.training.models.fit import (
    Fit,
    WrongModelError,
    begin_fit,
    config_for,
    continue_fit,
    facts_of,
    prepare_fit,
    refuse_short,
)
from offline_marl.training.models.report import verdict
from offline_marl.worldmodels.base import WorldModel, worldmodels
from offline_marl.worldmodels.uncertainty import OF_PREDICTIONS, UNCERTAINTIES


def plan_fit(
    model_folder: ModelFolder, name: str, config: RunConfig, folder: RunFolder, task: Task
) -> Callable[[], tuple[WorldModel, TransitionBuffer]]:
    """Gives the model of a folder and its held-out rows, after its fit where that is not finished.

    Raises:
        BadInputError: It is another model than the run asks for, or cannot tell how far it is to be trusted.
    """
    settings = _settings_of_fit(model_folder, name, config, folder, task)
    if not model_folder.done:
        refuse_unmeasured(config, lambda: _made_anew(settings, task, config.device), task.data)

    def fitted() -> tuple[WorldModel, TransitionBuffer]:
        if not model_folder.done:
            print(f"no finished world model in {model_folder.path} yet: fitting one", file=sys.stderr)
            if model_folder.config_file.is_file():
                continue_fit(model_folder, task)
            else:
                begin_fit(model_folder, settings, task)
        return _warned(continue_fit(model_folder, task, config))

    return fitted


def _settings_of_fit(
    model_folder: ModelFolder, kind: str, config: RunConfig, folder: RunFolder, task: Task
) -> FitConfig:
    """Those of the fit in this folder, or those that one will be begun with.

    Raises:
        RunFolderError: The folder holds something else, or its model has gone since the run began.
        WrongModelError: The model was fitted to something else, such as actions on another scale.
        ConfigError: The fit is to read actions on another scale than the run.
    """
    shared: Mapping[str, Any] = config.model_dump(include={"seed", "device", "threads", "clip_actions", "action_scale"})
    if model_folder.config_file.is_file():
        settings = config_for(model_folder, task)
        if settings.action_scale != config.action_scale:
            raise WrongModelError(
                f"The world model in {model_folder.path} was fitted with --action-scale {settings.action_scale:g}, "
                f"which the run should have too, not {config.action_scale:g}: its actions would mean something else."
            )
        if config.fit and not folder.config_file.is_file():
            _refuse_other_fit(
                model_folder, settings, prepare_fit(settings.model, task.id, {**shared, **config.fit}), config
            )
        return settings
    if found(folder.checkpoints):
        raise RunFolderError(f"{model_folder.path} holds no world model any more, but {folder.path} began with one.")
    settings = prepare_fit(kind, task.id, {**shared, **config.fit})
    if settings.action_scale != config.action_scale:
        raise ConfigError("--fit takes no action_scale: the run's --action-scale is that of its world model too.")
    refuse_short(settings)
    if model_folder.path.exists():
        model_folder.refuse_strangers(settings)
    return settings


def _refuse_other_fit(model_folder: ModelFolder, settings: FitConfig, wanted: FitConfig, config: RunConfig) -> None:
    """Refuse settings of a fit that the model there was not fitted with."""
    stored, given = ({**made.settings, **dict(made)} for made in (settings, wanted))
    for name in config.fit:
        now = given[name]
        then = stored.get(name, now)  # fits of earlier versions had fewer settings
        if then != now:
            raise WrongModelError(
                f"The world model in {model_folder.path} was fitted with {name} = {then}, not {now}: leave that --fit "
                "away, or name another folder."
            )


def _made_anew(settings: FitConfig, task: Task, device: str) -> WorldModel:
    """A model as a fit with these settings begins with it."""
    kind, facts = worldmodels.get(settings.model), facts_of(task.data)
    own = build(kind.Config, settings.settings)
    refuse_too_large(settings.model, lambda: kind(own, facts), own.model_dump(), task.data.spec)
    with seeded_globally(settings.seed, "initialisation"):
        model = kind(own, facts)
    model.place(device, 0)
    return model


def _warned(fit: Fit) -> tuple[WorldModel, TransitionBuffer]:
    fit.model.requires_grad_(False)
    if fit.report is None or not fit.report["trusted"]:
        print(f"warning: the world model in {fit.folder} is {verdict(fit.report)}.", file=sys.stderr)
    if fit.model.config.rewrites_observations:
        print(
            f"warning: the world model in {fit.folder} tells observations by tokens: in imagination policies see what "
            "these stand for, in the environment what is there.",
            file=sys.stderr,
        )
    return fit.model, fit.held_out


def kind_in(model_folder: ModelFolder) -> str:
    """The kind of model that a folder holds, or that one would be fitted in it."""
    return model_folder.config().model if model_folder.config_file.is_file() else "ensemble"


def refuse_unmeasured(config: RunConfig, make: Callable[[], WorldModel], data: Dataset) -> None:
    """Refuse a measure of spread that this kind of model does not tell, by one step of it before its fit.

    Raises:
        DataError: Says which kinds do.
    """
    if config.spread in OF_PREDICTIONS:
        return
    model = make()
    rows = TransitionBuffer(data, state=model.needs_state).transitions(torch.zeros(1, dtype=torch.int64))
    if model.window:
        rows = replace(rows, history=torch.zeros(1, data.spec.n_agents, model.window, data.spec.step_dim))
    rows, state = rows.to(config.device), model.generator.get_state()
    prediction, _ = model.step(model.begin(rows), rows.actions)
    model.generator.set_state(state)
    if prediction.spread is not None:
        UNCERTAINTIES[config.spread](prediction.spread)


def refuse_fitting(name: str, config: RunConfig) -> None:
    """Refuse settings of a fit beside a model that is not fitted, which would be passed over in silence.

    Raises:
        ConfigError: Names the flag.
    """
    if config.fit:
        raise ConfigError(f"--fit is of a world model that is fitted first, and {name} is not fitted: leave it away.")
    if config.cutoff_quantile is not None:
        raise ConfigError(
            f"--cutoff-quantile is measured on held-out steps of a fit, and {name} is not fitted: give --cutoff."
        )


def refuse_other_environment(name: str, task: Task) -> None:
    """Refuse to imagine in another environment than the data's; where that is unknown, the one named is its.

    Raises:
        DataError: Says that another one is named.
    """
    own = replace(task, partition=known_partition(task.data), named_environment=None)
    if task.elsewhere and own.environment is not None:
        raise DataError(
            f"The {name} imagines in the environment that {task.id} was recorded in, and --environment names another "
            "one, or other settings of it: leave it away, and `offline-marl evaluate` the run there."
        )


def make_unfitted(name: str, config: RunConfig, task: Task, copies: int) -> WorldModel:
    """A model of a kind that learns nothing from the data, with what it needs besides."""
    kind = worldmodels.get(name)
    env = task.make_env(copies) if kind.needs_environment else None
    wanted = {f"the environment of {task.id}": kind.needs_environment, "states in its data": kind.needs_state}
    if (kind.needs_environment and env is None) or (kind.needs_state and task.data.state is None):
        parts = [part for part, needed in wanted.items() if needed]
        raise DataError(f"The {name} needs {' and '.join(parts)}; {'one' if len(parts) > 1 else 'that'} is missing.")
    made = kind(build(kind.Config, {}), facts_of(task.data))
    if env is not None:
        made.attach(env)
    made.place(config.device, derive(config.seed, "elites"))
    return made
