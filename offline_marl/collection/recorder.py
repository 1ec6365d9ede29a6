"""The recorder of one process: a task, the behaviours in it, and the folder of recorded chunks of episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from offline_marl.collection.assignment import NOBODY, Assignment
from offline_marl.collection.behaviours import Behaviour, RunBehaviour, find_behaviour
from offline_marl.collection.config import CollectConfig
from offline_marl.collection.recordable import Noise, Recordable
from offline_marl.core.config import ConfigError
from offline_marl.core.partition import PartitionError, confs, partition
from offline_marl.core.permissions import ImportPath, names_code
from offline_marl.core.small_files import read_table
from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.catalog import SUFFIX
from offline_marl.datasets.episode_index import episode_sums
from offline_marl.datasets.episodes import join
from offline_marl.datasets.files import load_data, save_data
from offline_marl.environments.base import Environment, Floats, Seen, TeamActions, environments
from offline_marl.environments.checks import BadNumbersError
from offline_marl.environments.episodes import Controller
from offline_marl.environments.guarded import EnvironmentFailedError
from offline_marl.environments.parallel.entry import environment_of
from offline_marl.runs.folder import write_json
from offline_marl.runs.loading import with_actors

KEPT = "chunks that are whole are kept, the same command goes on"
CHUNK = 64
"""Episodes of a chunk, at most."""


@dataclass(frozen=True, slots=True)
class RecordingPlan:
    """Episodes to record, described so that any process can record any chunk of them."""

    config: CollectConfig
    """Names the environment, and how many copies of it a process has."""
    assignment: Assignment
    folder: Path
    """Where chunks are stored."""
    behaviours: tuple[Mapping[str, Any], ...]
    """Descriptions of the behaviours, which must not change meanwhile; the deviating one comes last."""
    conf: str | None = None
    """Who the agents of a body are, where that matters."""
    returns_only: bool = False
    """Store each episode's return alone."""

    def stored(self, numbers: range) -> Any:
        """The stored chunk of these episodes, or None."""
        path = self.path(numbers)
        try:
            if self.returns_only:
                returns = read_table(path)["returns"]
                plain = isinstance(returns, list) and all(isinstance(value, float) for value in returns)
                return returns if plain and len(returns) == len(numbers) else None
            return load_data(path) if path.exists() else None
        except (DataError, OSError, ValueError, KeyError, TypeError):
            return None  # recorded again

    def whole(self, numbers: range) -> Any:
        """The chunk of these episodes, which has been recorded.

        Raises:
            DataError: No learner could use it.
        """
        try:
            return load_data(self.path(numbers))
        except DataError as error:
            first, last = numbers[0], numbers[-1]
            raise DataError(f"What was recorded of episodes {first} to {last} cannot be used: {error}") from None

    def store(self, numbers: range, part: Recording | Dataset) -> None:
        """Write the chunk of these episodes, whole or not at all."""
        if self.returns_only:
            write_json(self.path(numbers), {"returns": returns_of(part).tolist()})
        else:
            save_data(self.path(numbers), part)

    def path(self, numbers: range) -> Path:
        """File of the chunk of these episodes."""
        return self.folder / f"{numbers[0]:09d}{'.json' if self.returns_only else SUFFIX}"


class Recorder:
    """Records episodes of behaviours in the copies of a task that one process has.

    Args:
        config: Names the environment.
        names: The behaviours.
        deviate: The behaviour that deviators follow.
        most: Episodes that run side by side at most.

    Raises:
        BadInputError: The environment or a behaviour is unknown, or a behaviour cannot act here.
    """

    def __init__(self, config: CollectConfig, names: Sequence[str], deviate: str | None, most: int = CHUNK) -> None:
        self.task = Recordable.built(config.environment, environment(config), min(config.copies, most, CHUNK))
        try:
            self.behaviours: list[Behaviour] = [find_behaviour(name, self.task) for name in names]
            self.deviating = None if deviate is None else find_behaviour(deviate, self.task)
            self.conf = self._share(config.conf) if self.deviating else None
        except BaseException:
            self.close()
            raise

    def _share(self, conf: str | None) -> str | None:
        """Say who the agents are, of whom one deviates: as named, or as the runs have it."""
        name = self.task.name
        if not self.task.body:
            if conf is not None:
                raise ConfigError(f"--conf {conf} shares out a body, but {name} is made for a team.")
            return None
        behaviours = (*self.behaviours, self.deviating)
        partitions = [run.partition for run in behaviours if isinstance(run, RunBehaviour)]
        known = {shares.conf for shares in partitions if shares}
        chosen = conf if conf is not None else next(iter(known)) if len(known) == 1 else None
        if chosen is None:
            raise ConfigError(
                f"{name} is one body: say with --conf ({', '.join(confs(name))}) who its agents are, so that one of "
                "them can deviate."
            )
        try:
            self.task.share(partition(name, chosen, "full"))
        except PartitionError as error:
            raise ConfigError(f"--conf cannot be {chosen}: {error}") from None
        return chosen

    def describe(self) -> tuple[dict[str, Any], ...]:
        """What the metadata say of the behaviours, the deviating one last."""
        every = self.behaviours if self.deviating is None else [*self.behaviours, self.deviating]
        return tuple(behaviour.describe() for behaviour in every)

    def record(self, plan: RecordingPlan, numbers: range) -> None:
        """Play a chunk of episodes and store it."""
        copies = self.task.copies
        parts = [self.play(plan.assignment, numbers[i : i + copies]) for i in range(0, len(numbers), copies)]
        plan.store(numbers, join(parts, {}))

    def play(self, assignment: Assignment, numbers: range) -> Any:
        """Play episodes side by side.

        Raises:
            BadNumbersError: The environment shows or pays what no learner could use.
            EnvironmentFailedError: It died.
        """
        followed = [self._begin(assignment, numbers, place) for place in sorted({assignment.who[n] for n in numbers})]
        controller: Controller = _AssignedController([begun for begun in followed if begun is not None])
        deviating = self._begin(assignment, numbers, None)
        if deviating is not None:
            agents = [assignment.deviators[numbers[i]] for i in deviating.rows]
            controller = _DeviatingController(controller, self.task, deviating, agents)
        try:
            return self.task.record([assignment.seeds[number] for number in numbers], controller)
        except BadNumbersError as error:
            raise error.of_episode(f"episode {numbers[error.row]}", KEPT) from None
        except EnvironmentFailedError as error:
            raise EnvironmentFailedError(f"{str(error).rstrip('.')}; {KEPT}.") from error

    def _begin(self, assignment: Assignment, numbers: range, place: int | None) -> _Rows | None:
        """The rows of a behaviour (None: the deviating one) and its controller in them, with its noise."""
        deviators, who = assignment.deviators, assignment.who
        rows = np.flatnonzero([deviators[n] != NOBODY if place is None else who[n] == place for n in numbers])
        behaviour = self.deviating if place is None else self.behaviours[place]
        if behaviour is None or not len(rows):
            return None
        episodes = [numbers[i] for i in rows]
        seeds = [assignment.seeds[number] for number in episodes]
        controller = behaviour.begin(episodes, seeds)
        if behaviour.takes_noise:
            controller = _NoisyController(
                controller, self.task.noise(seeds, [assignment.levels[number] for number in episodes])
            )
        return _Rows(rows, controller)

    def close(self) -> None:
        """Let go of the simulators."""
        self.task.close()


@dataclass(frozen=True, slots=True)
class _Rows:
    """A controller with the rows, of episodes side by side, that it acts in."""

    rows: npt.NDArray[np.int64]
    controller: Controller

    def act(self, seen: Seen, step: int) -> TeamActions:
        state = None if seen.state is None else seen.state[self.rows]
        avail = None if seen.avail_actions is None else seen.avail_actions[self.rows]
        present = None if seen.present is None else seen.present[self.rows]
        return self.controller.act(Seen(seen.obs[self.rows], state, avail, present), step)

    def remember(self, rewards: Floats) -> None:
        self.controller.remember(rewards[self.rows])


@dataclass(frozen=True, slots=True)
class _AssignedController:
    """A controller of all episodes, each by the behaviour that it was assigned."""

    parts: Sequence[_Rows]

    def act(self, seen: Seen, step: int) -> TeamActions:
        chosen = [part.act(seen, step) for part in self.parts]
        actions: TeamActions = np.zeros((len(seen.obs), *chosen[0].shape[1:]), chosen[0].dtype)
        for part, part_actions in zip(self.parts, chosen, strict=True):
            actions[part.rows] = part_actions
        return actions

    def remember(self, rewards: Floats) -> None:
        for part in self.parts:
            part.remember(rewards)


@dataclass(frozen=True, slots=True)
class _DeviatingController:
    """A controller that, in some episodes, takes one agent's actions from another behaviour."""

    controller: Controller
    task: Recordable
    deviating: _Rows
    agents: Sequence[int]
    """The agent that deviates, for each row of `deviating`."""

    def act(self, seen: Seen, step: int) -> TeamActions:
        actions, rows = self.controller.act(seen, step), self.deviating.rows
        actions[rows] = self.task.exchanged(actions[rows], self.deviating.act(seen, step), self.agents)
        return actions

    def remember(self, rewards: Floats) -> None:
        self.controller.remember(rewards)
        self.deviating.remember(rewards)


@dataclass(frozen=True, slots=True)
class _NoisyController:
    """A controller whose actions get noise; its memory holds the actions before the noise."""

    controller: Controller
    noise: Noise

    def act(self, seen: Seen, step: int) -> TeamActions:
        return self.noise(self.controller.act(seen, step), seen, step)

    def remember(self, rewards: Floats) -> None:
        self.controller.remember(rewards)


def environment(config: CollectConfig) -> type[Environment]:
    """The environment that a collection names.

    Raises:
        DataError: It takes no settings.
        RegistryError: It is unknown.
    """
    # Of the command line or the call: nothing that a file says becomes a CollectConfig.
    name, settings = config.environment, with_actors(config.settings, ImportPath)
    if name in environments.names() or not names_code(name):
        return environments.get(name).told(settings, config.max_steps)
    return environment_of(ImportPath(name), settings, config.max_steps)


def returns_of(part: Recording | Dataset) -> torch.Tensor:
    """Return of each episode, averaged over agents."""
    return part.returns() if isinstance(part, Dataset) else episode_sums(part.rewards, part.lengths)
