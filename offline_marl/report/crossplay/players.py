"""Runs that play together: opened, refused where they cannot meet, and put into one team agent by agent."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from offline_marl.core.axes import PerAgent
from offline_marl.core.config import ConfigError
from offline_marl.core.history import begin_memory, newest
from offline_marl.core.types import AvailActions, DataError, History, Memory, Obs, Policy, Spec
from offline_marl.runs.folder import RunFolder, RunFolderError, newest_state
from offline_marl.training.run import OWN_DATA, load, task_of
from offline_marl.training.tasks import Task


@dataclass(frozen=True)
class Player:
    """A run as one that plays."""

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
    """A policy whose agents act as different policies would have them; each reads its own memory and obs alone.

    Args:
        members: The policy of each agent. They act in one environment, through one split of it.
        spec: The team in that environment.
    """

    def __init__(self, members: Sequence[Policy], spec: Spec) -> None:
        self.window, self.spec = max(each.window for each in members), spec
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
        """As `Policy.act`; `reads` is what each policy's memory holds, without it the newest part of the history."""
        if reads is None:
            reads = [{"history": newest(history, policy.window)} for policy, _ in self.shares]
        team: Tensor | None = None
        for (policy, agents), read in zip(self.shares, reads, strict=True):
            own = policy.act(obs, **read, avail_actions=avail_actions, explore=explore)
            team = own.clone() if team is None else team
            team[:, agents] = own[:, agents]
        assert team is not None
        return team


class _MixedMemory:
    """The memories of the policies of a mixed team."""

    def __init__(self, memories: Sequence[Memory]) -> None:
        self.memories = memories

    def read(self) -> Mapping[str, Any]:
        return {"reads": [memory.read() for memory in self.memories]}

    def remember(self, obs: Obs, actions: Tensor, rewards: PerAgent) -> None:
        for memory in self.memories:
            memory.remember(obs, actions, rewards)


def open_players(runs: Sequence[str | Path]) -> tuple[list[Player], list[Task]]:
    """Runs and what each was trained on; data that several share is read once.

    Raises:
        ConfigError: There are fewer than two, or one is named twice.
        RunFolderError: A folder holds no run, or no checkpoint that can be read.
        DataError: Their agents cannot meet, or there is nothing to act in.
    """
    folders = [RunFolder(run) for run in runs]
    if len(folders) < 2:
        raise ConfigError("crossplay needs at least two runs: offline-marl crossplay RUN RUN ...")
    _refuse_twins(folders)
    for folder in folders:
        folder.config()  # what is no run is said before anything is read
    tasks = _tasks(folders)
    for folder, task in zip(folders, tasks, strict=True):
        _refuse_strangers(folders[0], tasks[0], folder, task)
    return [_open(folder, name) for folder, name in zip(folders, names_of(folders), strict=True)], tasks


def _refuse_twins(folders: Sequence[RunFolder]) -> None:
    seen: dict[Path, Path] = {}
    for folder in folders:
        real = folder.path.resolve()
        if real in seen:
            raise ConfigError(f"{folder.path} is named twice: give different runs, self-play is always part of it.")
        seen[real] = folder.path


def names_of(folders: Sequence[RunFolder]) -> list[str]:
    """Folder names, with parents in front of them where that tells them apart."""
    parts = [folder.path.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = [os.sep.join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different folders have different paths")


def _tasks(folders: Sequence[RunFolder]) -> list[Task]:
    known: dict[tuple[object, ...], Task] = {}
    tasks = []
    for folder in folders:
        config = folder.config()
        own = config.dataset in {None, OWN_DATA}
        key = (folder.path,) if own else (config.dataset, config.clip_actions, config.memory)
        if key not in known:
            known[key] = task_of(folder)
        tasks.append(known[key])
    return tasks


def _open(folder: RunFolder, name: str) -> Player:
    config, state = folder.config(), newest_state(folder)
    if state is None:
        raise RunFolderError(f"{folder.path} holds no checkpoint yet.")
    step = int(state["step"])
    policy = load(folder.path, step)
    return Player(name, str(folder.path), config.algorithm, config.task, config.seed, step, folder.done, policy)


def _refuse_strangers(folder: RunFolder, task: Task, other: RunFolder, its_task: Task) -> None:
    first, second = _meeting_place(folder, task), _meeting_place(other, its_task)
    if first != second or _team(task.data.spec) != _team(its_task.data.spec):
        raise DataError(
            f"{folder.path} and {other.path} cannot play together: {task.id} and {its_task.id} are not the same "
            "environment, shared among agents in the same way."
        )


def _meeting_place(folder: RunFolder, task: Task) -> tuple[object, ...]:
    """What must be equal for two runs to meet."""
    if task.environment is None:
        raise DataError(f"{folder.path} cannot play: no environment belongs to its data ({task.id}).")
    if task.partition is not None:
        return task.partition.scenario, task.partition.obs_index, task.partition.act_index
    config, about = folder.config(), task.data.metadata
    if config.environment is not None:
        return config.environment, config.env_settings, config.max_steps
    return about.get("scenario"), about.get("settings") or {}, about.get("max_steps")


def _team(spec: Spec) -> tuple[object, ...]:
    return spec.obs_dims, spec.act_dims, spec.action_kind
