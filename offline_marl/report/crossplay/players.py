"""Players of cross-play: loading of runs, their compatibility, and teams mixed agent by agent."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from offline_marl.core.acting.history import begin_memory, newest
from offline_marl.core.axes import PerAgent
from offline_marl.core.config import ConfigError
from offline_marl.core.types import AvailActions, DataError, History, Memory, Obs, Policy, Spec
from offline_marl.runs.config import NO_CHOICE, EnvironmentChoice
from offline_marl.runs.folder import RunFolder, RunFolderError, newest_state
from offline_marl.tasks.data_tasks import ScoredTask
from offline_marl.tasks.run_tasks import OWN_DATA, acts_elsewhere, scored_task_of
from offline_marl.training.run import load


@dataclass(frozen=True)
class Player:
    """Run with its loaded policy."""

    name: str
    """Its folder's name, with as much of the path as tells it from the others."""
    folder: str
    """As it was given."""
    algorithm: str
    task: str
    """Data set or environment that it was trained on."""
    seed: int
    step: int
    """Of the checkpoint that plays: the newest."""
    finished: bool
    policy: Policy


class MixedTeam:
    """Policy of a team whose agents act by different policies, each from its own observations and memory.

    Args:
        members: The policy of each agent. They act in one environment, through one split of it.
        spec: The team in that environment.
    """

    def __init__(self, members: Sequence[Policy], spec: Spec) -> None:
        self.window, self.spec = max(member.window for member in members), spec
        self.shares = [
            (policy, [agent for agent, other in enumerate(members) if other is policy])
            for policy in dict.fromkeys(members)
        ]

    def begin(self, copies: int, history: History | None = None) -> Memory:
        """A memory for each policy, which sees what the whole team did."""
        return _MixedMemory([begin_memory(policy, self.spec, copies, history=history) for policy, _ in self.shares])

    def act(
        self,
        obs: Obs,
        *,
        history: History | None = None,
        reads: Sequence[Mapping[str, Any]] | None = None,
        avail_actions: AvailActions | None = None,
        explore: bool = False,
    ) -> Tensor:
        """Act as `Policy.act` says; `reads` has each policy's memory, in place of the newest part of the history."""
        if reads is None:
            reads = [{"history": newest(history, policy.window)} for policy, _ in self.shares]
        team: Tensor | None = None
        for (policy, agents), read in zip(self.shares, reads, strict=True):
            actions = policy.act(obs, **read, avail_actions=avail_actions, explore=explore)
            team = actions.clone() if team is None else team
            team[:, agents] = actions[:, agents]
        assert team is not None
        return team


class _MixedMemory:
    """Memories of a mixed team, one of each policy."""

    def __init__(self, memories: Sequence[Memory]) -> None:
        self.memories = memories

    def read(self) -> Mapping[str, Any]:
        return {"reads": [memory.read() for memory in self.memories]}

    def remember(self, obs: Obs, actions: Tensor, rewards: PerAgent) -> None:
        for memory in self.memories:
            memory.remember(obs, actions, rewards)


def open_players(
    runs: Sequence[str | Path], choice: EnvironmentChoice = NO_CHOICE
) -> tuple[list[Player], list[ScoredTask]]:
    """Load runs and their tasks; data that several share is read once.

    Raises:
        ConfigError: There are fewer than two, or one is named twice.
        RunFolderError: A folder holds no run, or no checkpoint that can be read.
        DataError: Their agents cannot meet, or there is nothing to act in.
    """
    folders = [RunFolder(run) for run in runs]
    if len(folders) < 2:
        raise ConfigError("crossplay needs at least two runs: offline-marl crossplay RUN RUN ...")
    _refuse_duplicates(folders)
    for folder in folders:
        folder.config()  # what is no run is said before anything is read
    tasks = _tasks(folders, choice)
    for folder, task in zip(folders, tasks, strict=True):
        _refuse_other_environment(folders[0], tasks[0], folder, task, choice)
    return [_open(folder, name) for folder, name in zip(folders, names_of(folders), strict=True)], tasks


def _refuse_duplicates(folders: Sequence[RunFolder]) -> None:
    seen: dict[Path, Path] = {}
    for folder in folders:
        real = folder.path.resolve()
        if real in seen:
            raise ConfigError(f"{folder.path} is named twice: give different runs, self-play is always part of it.")
        seen[real] = folder.path


def names_of(folders: Sequence[RunFolder]) -> list[str]:
    """Name folders uniquely, all with the same number of parents in front."""
    parts = [folder.path.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = [os.sep.join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different folders have different paths")


def _tasks(folders: Sequence[RunFolder], choice: EnvironmentChoice) -> list[ScoredTask]:
    known: dict[tuple[object, ...], ScoredTask] = {}
    tasks = []
    for folder in folders:
        config = folder.config()
        has_own_data = config.dataset in {None, OWN_DATA} or folder.task_file.is_file()
        key = (
            (folder.path,)
            if has_own_data
            else (config.dataset, config.clip_actions, config.memory, config.action_scale)
        )
        if key not in known:
            known[key] = scored_task_of(folder, choice)
        tasks.append(known[key])
    return tasks


def _open(folder: RunFolder, name: str) -> Player:
    config, state = folder.config(), newest_state(folder)
    if state is None:
        raise RunFolderError(f"{folder.path} holds no checkpoint yet.")
    step = int(state["step"])
    policy = load(folder.path, step)
    return Player(name, str(folder.path), config.algorithm, config.task, config.seed, step, folder.done, policy)


def _refuse_other_environment(
    folder: RunFolder, task: ScoredTask, other: RunFolder, its_task: ScoredTask, choice: EnvironmentChoice
) -> None:
    first, second = _environment_key(folder, task, choice), _environment_key(other, its_task, choice)
    if first != second or _team(task.spec) != _team(its_task.spec):
        raise DataError(
            f"{folder.path} and {other.path} cannot play together: {task.id} and {its_task.id} are not the same "
            "environment, shared among agents in the same way."
        )


def _environment_key(folder: RunFolder, task: ScoredTask, choice: EnvironmentChoice) -> tuple[object, ...]:
    """Compose the key of an environment, equal for runs that can play together.

    Environments of teams are told apart by their names and settings: each has a class of its own whenever it is opened.
    """
    if task.environment is None:
        raise DataError(f"{folder.path} cannot play: no environment belongs to its data ({task.id}).")
    if task.partition is not None:
        return task.environment, task.partition.obs_index, task.partition.act_index
    config, metadata = folder.config(), task.about
    if acts_elsewhere(choice, config):
        return choice.environment, choice.env_settings, choice.max_steps
    if config.environment is not None:
        return config.environment, config.env_settings, config.max_steps
    return metadata.get("scenario"), metadata.get("settings") or {}, metadata.get("max_steps")


def _team(spec: Spec) -> tuple[object, ...]:
    return spec.obs_dims, spec.act_dims, spec.action_kind
