"""The Python API of a run: train, resume, evaluate, load. From settings to objects happens here alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import ConfigError, build
from offline_marl.core.permissions import ImportPath
from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset, clipped, rescaled
from offline_marl.datasets.files import save_data
from offline_marl.environments.scores import Score
from offline_marl.environments.workers import ended_behind
from offline_marl.runs.combinations import refuse_beginning, refuse_mixtures, with_budget
from offline_marl.runs.config import ACTING_RUNS, FROZEN, EnvironmentChoice, RunConfig, import_paths
from offline_marl.runs.devices import pick_device
from offline_marl.runs.folder import RunFolder, naming_plugins, warn_unfinished, write_json
from offline_marl.runs.kinds import TRAIN, build_settings
from offline_marl.runs.loading import load, load_with_step, make_algorithm
from offline_marl.runs.loggers import Logger, apart
from offline_marl.runs.permissions import permit_of, remember
from offline_marl.runs.places import resolve_run
from offline_marl.runs.software import describe_software
from offline_marl.tasks.data_tasks import Task, load_dataset
from offline_marl.tasks.environment_tasks import UNIFORM, open_environment_task
from offline_marl.tasks.infos_file import InfosFile
from offline_marl.tasks.run_tasks import OWN_DATA, describe_task, open_for, open_to_go_on, scored_task_of
from offline_marl.tasks.scoring import make_scorer
from offline_marl.training.loop import Hook
from offline_marl.training.training_run import Result, TrainingSession, read_finished

__all__ = ["Result", "evaluate", "load", "load_dataset", "prepare", "resume", "train"]


def prepare(algorithm: str, dataset: str | None, fields: Mapping[str, Any]) -> RunConfig:
    """The full settings of a run from loose fields, each the run's or the algorithm's own; its paths are whole.

    Raises:
        RegistryError: The algorithm is unknown.
        ConfigError: A field is neither's, or has a bad value.
    """
    fields = resolve_run(algorithm, fields if dataset is None else {**fields, "dataset": dataset})
    dataset = fields.pop("dataset", None)
    kind = algorithms.get(algorithm)
    config = build_settings(TRAIN, algorithm, kind.Config, dataset, fields)
    return with_budget(config, kind.needs, fields)


def train(
    algorithm: str,
    dataset: str | Dataset | None = None,
    *,
    out: str | Path | None = None,
    loggers: Sequence[str | Logger] = (),
    hooks: Sequence[Hook] = (),
    **fields: Any,
) -> Result:
    """Train an algorithm on a data set, or in an environment, and score it.

    Args:
        algorithm: Registry name.
        dataset: Task id (`reacher-scripted-mix-v0_2x1notip_0`), a file, or a Dataset of your own, which
            is kept in the run folder. None for an algorithm that learns in an `environment`.
        out: The run folder; by default `runs/<algorithm>_<dataset>_seed<seed>`.
        loggers: Names of loggers, which the run remembers, and objects, which `resume` has to be given again.
        hooks: Callables that are called with `(step, learner, metrics)` after every update: after the row of metrics
            and the evaluation of that step, in the order given, before its checkpoint. One that has `state_dict` and
            `load_state_dict` is saved in checkpoints, under its `name` or else its class's; one that raises ends the
            run, whose last checkpoint stays. `resume` has to be given them again.
        fields: Any field of the run (`steps`, `seed`, `device` ...) or of the algorithm's config.

    Raises:
        ConfigError: A setting is unknown or has a bad value.
        RegistryError: The algorithm is unknown or does not import.
        UnknownDatasetError: The data set is unknown.
        DataError: The data cannot be used, or not by this algorithm.
        RunFolderError: The run folder holds something else or is in use.
        DivergedError: A loss stopped being finite; the last good checkpoint stays.
    """
    own_data = dataset if isinstance(dataset, Dataset) else None
    named = OWN_DATA if own_data is not None else None if dataset is None else str(dataset)
    names, objects = apart(loggers)
    config = prepare(algorithm, named, {**fields, "loggers": names})
    refuse_mixtures(config, algorithms.get(algorithm).needs)
    refuse_beginning(config, algorithms.get(algorithm).needs)
    # Written down as what it is here: a generator's state cannot move between kinds of device.
    here = {"device": str(pick_device(config.device)), "dataset": config.dataset if own_data is None else OWN_DATA}
    config = config.model_copy(update=here)
    folder = RunFolder(out if out is not None else default_folder(config))
    if own_data is not None:
        own_data = rescaled(own_data, config.action_scale)
        own_data = (clipped(own_data) if config.clip_actions else own_data).check()
    task = open_for(config, None, ImportPath) if own_data is None else Task(OWN_DATA, own_data, None, None)
    learner = make_algorithm(config, task.data.spec)
    with folder.locked(), ended_behind():
        folder.refuse_strangers(config)
        folder.sweep()
        if own_data is not None or not task.recorded:
            save_data(folder.path / (OWN_DATA if task.recorded else UNIFORM), task.data)
            task = open_for(config, folder.path, ImportPath)
        # Made first: settings that it refuses should not leave the folder taken.
        session = TrainingSession(folder, config, task, learner, objects, hooks)
        folder.begin(config, provenance(task), describe_task(task))
        remember(folder.path, import_paths(config.environment, config.env_settings))
        return session.run()


def default_folder(config: RunConfig) -> Path:
    """Where a run goes that names no folder."""
    return Path("runs") / f"{config.algorithm}_{Path(config.task).name.replace(':', '.')}_seed{config.seed}"


def resume(
    run: str | Path,
    *,
    loggers: Sequence[Logger] = (),
    hooks: Sequence[Hook] = (),
    environment: str | None = None,
    env_settings: Mapping[str, Any] | None = None,
) -> Result:
    """Go on with a run that was stopped; its end equals that of a run that never stopped, bit for bit.

    What a finished run came to is read from its folder, and needs no data.

    Args:
        run: The run folder.
        loggers: Objects, besides those whose names the run was begun with.
        hooks: As for `train`; each that was saved goes on where it stood, and one that is missing is warned of.
        environment: The import path that the run's settings hold: permission for a folder from elsewhere.
        env_settings: The same for actors in its settings.

    Raises:
        ForbiddenImportError: The run acts in code that nobody named on this machine.
        ConfigError: The environment named is not the run's, or is made otherwise.
        RunFolderError: The folder holds no run, its settings or its data changed, or no checkpoint can be read.
        DataError: The run is unfinished and its data is not there any more.
    """
    folder = RunFolder(run)
    config = folder.unedited_config()
    if environment is not None and environment != config.environment:
        trained_in = config.environment or "the environment of its data"
        raise ConfigError(f"{folder.path} acts in {trained_in}: it cannot go on in {environment}.")
    for name, value in (env_settings or {}).items() if config.environment is not None else ():
        if name not in (*ACTING_RUNS, FROZEN) and config.env_settings.get(name) != value:
            raise ConfigError(f"{folder.path} acts where {name} is {config.env_settings.get(name)}, not {value}.")
    choice = EnvironmentChoice(environment=environment, env_settings=dict(env_settings or {}))
    with folder.locked(), naming_plugins(folder), ended_behind():
        _warn_of_other_software(folder.versions())
        folder.sweep()
        if folder.done:
            return read_finished(folder, config, scored_task_of(folder, choice), hooks)
        if config.dataset is None and not (folder.path / UNIFORM).exists():
            permit = permit_of(folder.path, choice.import_paths)
            save_data(folder.path / UNIFORM, open_environment_task(config, permit=permit).data)
        task = open_to_go_on(folder, choice.import_paths)
        remember(folder.path, choice.import_paths)
        if not folder.task_file.is_file():  # of an earlier version
            write_json(folder.task_file, describe_task(task))
        learner = make_algorithm(config, task.data.spec)
        return TrainingSession(folder, config, task, learner, loggers, hooks).run()


def evaluate(
    run: str | Path,
    episodes: int = 100,
    seed: int = 0,
    environment: str | None = None,
    env_settings: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    infos: str | Path | None = None,
) -> Score:
    """Score a run's newest checkpoint, on the CPU, in the environment its data came from, or in another.

    Args:
        run: The run folder.
        episodes: How many episodes to play.
        seed: Decides their starts; runs scored with the same one are scored on the same starts.
        environment: Act here instead: a registered name, or `package.module:function`.
        env_settings: What it is made with.
        max_steps: Length of its episodes.
        infos: File to write what the environment tells of each step and agent, .csv or .jsonl.

    Raises:
        RunFolderError: The folder holds no run or no readable checkpoint.
        ConfigError: The file of infos has another ending, or cannot be written.
        DataError: No environment belongs to the data, or the one named is of another team.
        ForbiddenImportError: The run acts in code that nobody named on this machine.
        EnvironmentFailedError: The environment died.
    """
    choice = build(
        EnvironmentChoice, {"environment": environment, "env_settings": env_settings or {}, "max_steps": max_steps}
    )
    folder = RunFolder(run)
    config = folder.config()
    learner, step = load_with_step(run)
    warn_unfinished(folder, step, "scored")
    torch.set_num_threads(config.threads)
    task = scored_task_of(folder, choice)
    with ended_behind(), InfosFile.maybe(infos) as file:
        name = environment or config.environment
        score = make_scorer(task, seed, episodes, "cpu", watch=None if file is None else file.add, name=name)
        if score is None:
            raise DataError(f"{config.task} cannot be scored here, there is nothing to act in: {task.hint}.")
        return score(learner, episodes)


def _warn_of_other_software(then: Mapping[str, Any]) -> None:
    now = describe_software()
    changed = [f"{name} {then[name]}, now {now[name]}" for name in now if then.get(name, now[name]) != now[name]]
    if changed:
        print(f"warning: the run began with {'; '.join(changed)}: its end may differ.", file=sys.stderr)


def provenance(task: Task) -> dict[str, Any]:
    """What a run's results depend on beside its settings, for versions.json."""
    metadata = task.data.metadata
    return {
        **describe_software(),
        "dataset_sha256": metadata.get("sha256"),
        "dataset_versions": metadata.get("versions"),
        "spec": asdict(task.data.spec),
    }
