"""The task of a run: opened with its data, or without it from the `task.json` of its folder."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.core.errors import BadInputError
from offline_marl.core.fields import CountOrZero
from offline_marl.core.partition import PartitionError, partition, split_task
from offline_marl.core.permissions import ImportPath, Permit
from offline_marl.core.reference import Reference
from offline_marl.core.small_files import read_table
from offline_marl.core.spec_record import SpecRecord
from offline_marl.core.types import DataError, Spec
from offline_marl.datasets.catalog import CATALOG, SUFFIX, path_of
from offline_marl.datasets.files import stated_checksum
from offline_marl.datasets.metadata import FileSettings, FileSteps
from offline_marl.datasets.places import place_of
from offline_marl.runs.config import NO_CHOICE, EnvironmentChoice, RunConfig
from offline_marl.runs.folder import RunFolder, RunFolderError
from offline_marl.runs.permissions import permit_of
from offline_marl.runs.places import resolved_settings
from offline_marl.tasks.data_tasks import RecordedTask, ScoredTask, Task, TaskKind, known_partition, open_task
from offline_marl.tasks.environment_tasks import EnvironmentTask, find_environment_task, open_environment_task
from offline_marl.tasks.scoring import describe_data, mean_return_of

OWN_DATA = f"dataset{SUFFIX}"
"""Name, inside the run folder, of a data set that was given as an object."""
GIVEN = "given by --reference"


class ReferenceRecord(Config):
    """Returns that scores are normalised by."""

    random: float
    """0 of the scale."""
    expert: float
    """100 of the scale."""
    note: str = ""
    """Where they come from."""


class TaskRecord(Config):
    """Record of a task in `task.json`: all that scoring, filming and comparing a run need of its data but the rows."""

    spec: SpecRecord
    """What the team sees and does."""
    scenario: str | None = None
    """Registry name of the environment that the data was recorded in, if it is known."""
    conf: str | None = None
    """Who the agents of a body are."""
    view: str | None = None
    """What they see."""
    settings: FileSettings | None = None
    """What the environment was made with."""
    max_steps: FileSteps | None = None
    """Length of its episodes, where it was chosen."""
    longest_episode: CountOrZero = 0
    """Steps of the longest recorded episode."""
    reference: ReferenceRecord | None = None
    """Of random play and of an expert where the run is scored, when it began."""
    elsewhere: bool = False
    """Whether that is another environment than the one that the data was recorded in."""
    recorded_reference: ReferenceRecord | None = None
    """Of a run that is scored elsewhere, the reference scores of its data."""
    random_return: float | None = None
    """What uniform play returned, where it was measured."""
    versions: dict[str, Any] = Field(default_factory=dict)
    """Of the simulators that recorded the data."""
    dataset: dict[str, Any] = Field(default_factory=dict)
    """Name, sha256 and mean return of the data."""


def describe_task(task: Task) -> dict[str, Any]:
    """Everything of a task but its rows, as `task.json` holds it."""
    metadata, shares = task.about, known_partition(task.data) if task.elsewhere else task.partition
    scenario = metadata.get("scenario") if shares is None else shares.scenario
    settings, most = metadata.get("settings"), metadata.get("max_steps")
    data = describe_data(task.data)
    if task.recorded:
        data |= mean_return_of(task.data, task.data_reference)
    return {
        "spec": asdict(task.spec),
        "scenario": scenario if isinstance(scenario, str) else None,
        "conf": None if shares is None else shares.conf,
        "view": None if shares is None else shares.view,
        "settings": dict(settings) if isinstance(settings, Mapping) else None,
        "max_steps": most if type(most) is int and most > 0 else None,
        "longest_episode": int(task.data.lengths.max()),
        "reference": None if task.reference is None else asdict(task.reference),
        "elsewhere": task.elsewhere,
        "recorded_reference": None if task.recorded_reference is None else asdict(task.recorded_reference),
        "random_return": task.random_return,
        "versions": dict(metadata.get("versions") or {}),
        "dataset": data,
    }


def task_of(folder: RunFolder, named: Iterable[str] = ()) -> Task:
    """The data and the environment of a run that has begun.

    Args:
        folder: The run folder.
        named: Import paths that the user names now.

    Raises:
        RunFolderError: The folder holds no run.
        DataError: The data cannot be used any more.
        ForbiddenImportError: Its environment is code that nobody named.
    """
    return open_for(folder.config(), folder.path, permit_of(folder.path, named))


def open_for(config: RunConfig, folder: Path | None, permit: Permit) -> Task:
    """The task that settings name; what the run folder keeps of its data is read from there."""
    if config.dataset is None:
        task = open_environment_task(config, folder, permit=permit)
    else:
        is_kept = folder is not None and config.dataset == OWN_DATA
        place, scale = (f"{folder}/{OWN_DATA}", 1.0) if is_kept else (config.dataset, config.action_scale)
        task = open_task(place, config.clip_actions, config.memory, scale)
        task = scored_in_named(task, config, permit)
    return task if config.reference is None else replace(task, reference=Reference(*config.reference, GIVEN))


def scored_in_named(task: TaskKind, config: RunConfig | EnvironmentChoice, permit: Permit) -> TaskKind:
    """The task scored in the environment that settings name, if they name one.

    The data's reference scores and versions stay where it was recorded in that environment, made in the same way; else
    they are the environment's.
    """
    if config.environment is None:
        return task
    environment_task = find_environment_task(config.environment, config.env_settings, config.max_steps, permit=permit)
    if _recorded_in(task, config, environment_task):
        return replace(
            task,
            named_environment=environment_task.kind,
            partition=environment_task.partition,
            opponents=environment_task.opponents,
        )
    return replace(
        task,
        named_environment=environment_task.kind,
        partition=environment_task.partition,
        reference=environment_task.reference,
        random_return=None,
        elsewhere=True,
        recorded_reference=task.data_reference,
        opponents=environment_task.opponents,
    )


def _recorded_in(task: ScoredTask, config: RunConfig | EnvironmentChoice, environment_task: EnvironmentTask) -> bool:
    if environment_task.partition is not None or task.partition is not None:
        return environment_task.partition == task.partition and environment_task.kind is task.environment
    then, now = resolved_settings(task.about.get("settings") or {}), resolved_settings(config.env_settings)
    made = (task.about.get("scenario"), then, task.about.get("max_steps"))
    return made == (config.environment, now, config.max_steps)


def scored_task_of(folder: RunFolder, choice: EnvironmentChoice = NO_CHOICE) -> ScoredTask:
    """The environment and the reference scores of a run, as they were when it began.

    They come from its `task.json`, and need no data; folders of earlier versions have none, and their data is opened.

    Args:
        folder: The run folder.
        choice: Another environment, or permission to import what the folder's files name.

    Raises:
        RunFolderError: The folder holds no run, or its task.json was damaged.
        ConfigError: There are settings for an environment that is not named.
        DataError: The data of an earlier version's run cannot be used any more.
        ForbiddenImportError: Its environment is code that nobody named.
    """
    config = folder.config()
    if choice.environment is None and (choice.env_settings or choice.max_steps):
        raise ConfigError("--env-settings and --max-steps are for an --environment.")
    elsewhere = acts_elsewhere(choice, config)
    if elsewhere:
        config = config.model_copy(update={"environment": None} if config.dataset is not None else {})
    if not folder.task_file.is_file():
        opened = open_for(config, folder.path, permit_of(folder.path, choice.import_paths))
        return scored_in_named(opened, choice, ImportPath) if elsewhere else opened
    task = _read(folder, config, None if elsewhere else permit_of(folder.path, choice.import_paths))
    _warn_of_changed_data(folder, task)
    return scored_in_named(task, choice, ImportPath) if elsewhere else task


def acts_elsewhere(choice: EnvironmentChoice, config: RunConfig) -> bool:
    """Whether a choice is of another environment than the run's; without settings of its own it is the same again."""
    if choice.environment is None:
        return False
    if choice.environment != config.environment:
        return True
    has_settings = bool(choice.env_settings) or choice.max_steps is not None
    return has_settings and (choice.env_settings, choice.max_steps) != (config.env_settings, config.max_steps)


def _warn_of_changed_data(folder: RunFolder, task: ScoredTask) -> None:
    now = _checksum_now(task.id)
    if now is not None and now != task.about.get("sha256"):
        print(
            f"warning: {task.id} is not the data that {folder.path} began with: its reference scores and settings are "
            "those of then.",
            file=sys.stderr,
        )


def _read(folder: RunFolder, config: RunConfig, permit: Permit | None) -> RecordedTask:
    """The task of `task.json`; without permission, without the environment that the run named.

    A run that was scored elsewhere is then of where its data was recorded.
    """
    try:
        record: TaskRecord = build(TaskRecord, read_table(folder.task_file))
        spec = Spec.from_plain(record.spec.model_dump())
        _refuse_other_widths(record, spec, folder.versions().get("spec"))
        shares = None
        if record.scenario is not None and record.conf is not None and record.view is not None:
            shares = partition(record.scenario, record.conf, record.view)
    except (OSError, ValueError, ConfigError, PartitionError) as error:
        raise RunFolderError(f"{folder.task_file} was damaged or edited: {error}") from None
    metadata = {name: getattr(record, name) for name in ("scenario", "settings", "max_steps", "versions")}
    metadata |= {"sha256": record.dataset.get("sha256"), "name": record.dataset.get("name")}
    is_own_data = config.dataset == OWN_DATA
    # The name of an environment stands in the settings of the run, and is read from there alone.
    environment_task = None
    if config.environment is not None and permit is not None:
        environment_task = find_environment_task(
            config.environment, config.env_settings, config.max_steps, permit=permit
        )
    elsewhere = record.elsewhere and environment_task is not None
    reference = record.recorded_reference if record.elsewhere and not elsewhere else record.reference
    return RecordedTask(
        id=f"{folder.path}/{OWN_DATA}" if is_own_data else config.task,
        spec=spec,
        about={name: value for name, value in metadata.items() if value is not None},
        partition=shares if environment_task is None else environment_task.partition,
        reference=_reference(reference),
        named_environment=None if environment_task is None else environment_task.kind,
        random_return=record.random_return,
        elsewhere=elsewhere,
        recorded_reference=_reference(record.recorded_reference) if elsewhere else None,
    )


def _reference(record: ReferenceRecord | None) -> Reference | None:
    return None if record is None else Reference(**record.model_dump())


def _refuse_other_widths(record: TaskRecord, spec: Spec, begun: Any) -> None:
    """Make sure that the record is of the team that the run's networks are of."""
    if isinstance(begun, Mapping) and Spec.from_plain(begun) != spec:
        raise ValueError("its spec is not the one in versions.json.")
    if (record.conf is None) != (record.view is None):
        raise ValueError("conf and view go together.")


def _checksum_now(task: str) -> str | None:
    """What a file of our layout says of its content, without reading it; None where there is no such file."""
    place = place_of(task)
    if place is not None:
        path = Path(place[0])
    else:
        name = task if task in CATALOG else _without_share(task)
        if name not in CATALOG:
            return None
        path = path_of(name)
    if path.suffix != SUFFIX:
        return None
    try:
        return stated_checksum(path)
    except (BadInputError, OSError):
        return None


def _without_share(task: str) -> str:
    try:
        return split_task(task)[0]
    except PartitionError:
        return task


def open_to_go_on(folder: RunFolder, named: Iterable[str] = ()) -> Task:
    """The task of a run that is unfinished, with its data.

    Raises:
        RunFolderError: The data is not what the run began with.
        DataError: There is none any more, or it cannot be used.
    """
    try:
        task = task_of(folder, named)
    except DataError as error:
        raise DataError(f"{folder.path} is unfinished and needs its data to go on: {error}") from None
    then, now = folder.versions().get("dataset_sha256"), task.about.get("sha256")
    if then is not None and then != now:
        raise RunFolderError(f"{task.id} is not the data this run began with (sha256 is {now}, was {then}).")
    return task
