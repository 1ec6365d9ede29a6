"""From the name of a task to its data set and its environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from offline_marl.collection.record import make_scripted
from offline_marl.core.partition import SCENARIOS, Partition, confs, partition, split_task
from offline_marl.core.permissions import names_code
from offline_marl.core.reference import UNIFORM_RETURNS, Reference
from offline_marl.core.types import DataError, Spec
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.catalog import find, path_of
from offline_marl.datasets.files import load_data
from offline_marl.datasets.metadata import reference_of
from offline_marl.datasets.places import place_of
from offline_marl.datasets.readers import zipped
from offline_marl.datasets.readers.catalogue_sets import fetch_entry, local
from offline_marl.datasets.readers.convert import load_place
from offline_marl.datasets.staging import turn
from offline_marl.environments.base import Conventions, Environment, JointEnv, State, environments
from offline_marl.environments.guarded import build_in_time
from offline_marl.environments.workers import SideBySide
from offline_marl.runs.config import import_paths, names_actors

TaskKind = TypeVar("TaskKind", "Task", "RecordedTask")
MEMORY = 4.0
"""Gigabytes that a data set may take in memory unless told otherwise."""


class ScoredTask:
    """Task that policies are scored in: an environment shared among agents, and reference scores; needs no data."""

    id: str
    spec: Spec
    about: Mapping[str, Any]
    """Metadata of the data: scenario, settings, max_steps, versions ..."""
    partition: Partition | None
    """None for data of a task made for a team, and for data that no known environment belongs to."""
    reference: Reference | None
    named_environment: type[Environment] | None
    """The environment that the user named: learned in without data, or scored in instead of the data's own."""
    random_return: float | None
    """What uniform play returned, where it was measured."""
    elsewhere: bool
    """Whether it is scored in another environment than the one that it was recorded in."""
    recorded_reference: Reference | None
    """Of a task that is scored elsewhere, the reference scores of its data."""
    opponents: Mapping[str, str]
    """Versions of policies of other runs that act in the environment that the user named, by what they are."""

    def make_env(self, copies: int) -> JointEnv | None:
        """The environment the data came from, or None if none is known.

        Raises:
            DataError: The data was recorded in a task of another size.
        """
        kind = self.environment
        env = None if kind is None else build_in_time(lambda: kind.make(self.partition, copies), self.called)
        if env is None or team_of(env.spec) == team_of(self.spec):
            return env
        if self.named_environment is not None:
            raise DataError(
                f"{self.id} is of a team with {describe_team(self.spec)}, the environment's has "
                f"{describe_team(env.spec)}: name the one that it was recorded in."
            )
        raise DataError(
            f"{self.id} says that it was recorded in {self.about.get('scenario')}, but its team is of another size: "
            f"it has {describe_team(self.spec)}, the environment's has {describe_team(env.spec)}."
        )

    @property
    def called(self) -> str:
        """What messages call the environment, unless the user named it."""
        scenario = self.about.get("scenario") if self.named_environment is None else None
        return str(scenario or f"of {self.id}")

    def make_envs(self, copies: int, workers: int) -> JointEnv | None:
        """As `make_env`, its copies shared among processes."""
        if workers == 1 or self.environment is None:
            return self.make_env(copies)

        def make(share: int) -> JointEnv:
            env = self.make_env(share)
            if env is None:
                raise DataError(f"No environment belongs to {self.id}.")
            return env

        return SideBySide(make, copies, workers)

    @property
    def environment(self) -> type[Environment] | None:
        """What the data came from, or None if it is not known."""
        if self.named_environment is not None:
            return self.named_environment
        scenario = self.about.get("scenario") if self.partition is None else self.partition.scenario
        if self.partition is None and (scenario in SCENARIOS or not environments.knows(scenario)):
            return None
        settings, most = (self.about.get(name) for name in ("settings", "max_steps"))
        if isinstance(settings, Mapping) and names_actors(settings):
            return None  # what a file names is neither imported nor loaded, see `hint`
        if not isinstance(settings, Mapping | None) or not (most is None or (type(most) is int and most > 0)):
            raise DataError(f"{self.id} names no settings that {scenario} could be made with: {settings}, {most}.")
        return environments.get(str(scenario)).told(settings or {}, most)

    @property
    def hint(self) -> str:
        """Which flag would give scores, where no environment is known."""
        scenario, settings = self.about.get("scenario"), self.about.get("settings")
        if isinstance(scenario, str) and isinstance(settings, Mapping) and names_actors(settings):
            what = "code" if import_paths(None, settings) else "run"
            return (
                f"say --environment {scenario} --env-settings '{json.dumps(settings)}' if you trust the {what} it names"
            )
        if isinstance(scenario, str) and names_code(scenario):
            return f"say --environment {scenario}, which recorded it, if you trust that code"
        return "name one by --environment NAME or package.module:function"

    @property
    def data_reference(self) -> Reference | None:
        """Reference scores that normalise the returns of the data, which are those of where it was recorded.

        Data that does not say where that was is taken for that of the environment that the user named.
        """
        return self.recorded_reference if self.elsewhere and self.about.get("scenario") else self.reference

    @property
    def uniform_return(self) -> float | None:
        """What uniform play returned, where it was measured: here, or on a body as it is that has no reference."""
        if self.random_return is not None or self.reference is not None or self.partition is None:
            return self.random_return
        body = self.partition.scenario
        return UNIFORM_RETURNS.get(body) if self.environment is environments.get(body) else None

    def conventions(self, ends: State) -> Conventions | None:
        """Which convention each agent followed, from the last states of episodes; None where there are none."""
        kind = self.environment
        return None if kind is None else kind.conventions(ends, self.partition)


def team_of(spec: Spec) -> tuple[object, ...]:
    """Widths and kind of actions, by which a team's policies fit an environment."""
    return spec.obs_dims, spec.act_dims, spec.action_kind


def describe_team(spec: Spec) -> str:
    """Widths and kind of actions in words."""
    return f"observations of {spec.obs_dims} and {spec.action_kind} actions of {spec.act_dims}"


@dataclass(frozen=True)
class Task(ScoredTask):
    """A data set and how to score policies that were trained on it."""

    id: str
    data: Dataset
    partition: Partition | None
    reference: Reference | None
    mapped: bool = False
    """Whether the data stays on disk, and rows are read as they are drawn."""
    named_environment: type[Environment] | None = None
    """See `ScoredTask`; of a run without data, `data` is uniform play in it."""
    random_return: float | None = None
    elsewhere: bool = False
    recorded_reference: Reference | None = None
    opponents: Mapping[str, str] = field(default_factory=dict)
    recorded: bool = True
    """Whether the data is a data set, and not uniform play of a run without one."""
    spec: Spec = field(init=False)
    about: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", self.data.spec)
        object.__setattr__(self, "about", self.data.metadata)


@dataclass(frozen=True, kw_only=True)
class RecordedTask(ScoredTask):
    """A task as the folder of a run remembers it, whether or not its data is still there."""

    id: str
    spec: Spec
    about: Mapping[str, Any]
    partition: Partition | None
    reference: Reference | None
    named_environment: type[Environment] | None
    random_return: float | None
    elsewhere: bool = False
    recorded_reference: Reference | None = None
    opponents: Mapping[str, str] = field(default_factory=dict)


def load_recording(name: str, clip_actions: bool = False, action_scale: float = 1.0) -> Recording | Dataset:
    """A catalogue's set, made or fetched on first use, or what is in a file or folder of a format known.

    Raises:
        UnknownDatasetError: The catalogue has no such name.
        DataError: The file is missing, damaged or unusable.
    """
    place = place_of(name)
    if place is not None and place[1] is None:
        return load_place(local(place[0]), clip_actions, action_scale)
    entry = find(name)
    path = path_of(name)
    if not path.exists():
        with turn(path):  # the jobs of a sweep begin together
            if not path.exists():
                (fetch_entry if entry.recipe is None else make_scripted)(entry, path)
    try:
        return load_data(path, clip_actions, action_scale)
    except DataError as error:
        if not _is_unusable(path):
            raise
        raise DataError(f"{error} Delete it, and it is made again.") from None


def _is_unusable(path: Path) -> bool:
    """Check whether the fault lies in the file, and not in what its actions were to be scaled by."""
    try:
        load_data(path, clip_actions=True)
    except DataError:
        return True
    return False


def open_task(task: str, clip_actions: bool = False, memory: float = MEMORY, action_scale: float = 1.0) -> Task:
    """The data set of a task id: `reacher-scripted-mix-v0_2x1notip_0`, `coordination-mix-v0`, `mine.safetensors`.

    What one body did takes a conf and a view behind its name, also in a file (`mine.safetensors_2x1_full`,
    `ant-medium.hdf5_4x2_0`); what a team did takes none.

    Args:
        task: The id.
        clip_actions: Clip actions outside [-1, 1] instead of refusing them.
        memory: Gigabytes; a set that would take more stays on disk.
        action_scale: What recorded actions are divided by, before they are clipped or refused.

    Raises:
        UnknownDatasetError: The catalogue has no such name.
        PartitionError: The conf or the view is unknown, or the id has another form.
        DataError: The data cannot be used.
    """
    name, share = place_of(task) or _of_catalogue(task)
    recording = load_recording(name, clip_actions, action_scale)
    if share is None:
        if isinstance(recording, Recording):
            raise DataError(f"{task} is a recording: name who sees what, such as {task}_{_example(recording)}.")
        spec = recording.spec
        mapped = _bytes(recording.lengths, spec.obs_dims, spec.act_dims) > memory * 1e9
        return Task(task, recording, known_partition(recording), reference_of(recording.metadata), mapped)
    if not isinstance(recording, Recording):
        raise DataError(f"{name} is split among agents already: leave _{share[0]}_{share[1]} away.")
    if "scenario" not in recording.metadata:
        raise DataError(
            f"{name} does not say which scenario it was recorded in, so it cannot be split among agents: name one in "
            f"its file name or its attribute 'scenario' ({', '.join(SCENARIOS)})."
        )
    shares = partition(str(recording.metadata["scenario"]), *share)
    mapped = _bytes(recording.lengths, shares.obs_dims, shares.act_dims) > memory * 1e9
    data = recording.split(shares, mapped)
    return Task(task, data, shares, reference_of(data.metadata), mapped)


def refuse_unknown(task: str) -> None:
    """Judge a task id by its name alone: nothing is made, fetched or read.

    Raises:
        UnknownDatasetError: The catalogue has no such name.
        PartitionError: The conf or the view is unknown, or the id has another form.
        DataError: There is no such file.
    """
    place = place_of(task)
    if place is None:
        _of_catalogue(task)
        return
    file = Path(zipped.split(place[0])[0])
    if "://" not in task and not file.exists():
        raise DataError(f"There is no file {file}.")


def _bytes(lengths: Tensor, obs_dims: Sequence[int], act_dims: Sequence[int]) -> int:
    """What the large tables of a set take in memory."""
    rows, agents = int(lengths.sum()) + len(lengths), len(obs_dims)
    return 4 * rows * agents * (max(obs_dims) + max(act_dims))


def _of_catalogue(task: str) -> tuple[str, tuple[str, str] | None]:
    """Name in the catalogue, conf and view; refuses before anything is made or fetched."""
    if "_" not in task and find(task).scenario not in SCENARIOS:
        return task, None
    name, conf, view = split_task(task)
    scenario = find(name).scenario
    if scenario not in SCENARIOS:
        raise DataError(f"{name} is split among agents already: leave _{conf}_{view} away.")
    partition(scenario, conf, view)
    return name, (conf, view)


def _example(recording: Recording) -> str:
    scenario = recording.metadata.get("scenario")
    return f"{confs(scenario)[0]}_full" if scenario in SCENARIOS else "2x1_full"


def load_dataset(task: str, clip_actions: bool = False, action_scale: float = 1.0) -> Dataset:
    """The data set of a task id; see `open_task` for its forms and errors."""
    return open_task(task, clip_actions, action_scale=action_scale).data


def known_partition(data: Dataset) -> Partition | None:
    """How the data was split among agents, by its metadata; None for what was made for a team."""
    metadata = data.metadata
    if not {"scenario", "conf", "view"} <= set(metadata) or metadata["scenario"] not in environments.names():
        return None
    return partition(metadata["scenario"], metadata["conf"], metadata["view"])
