"""Behaviour policies that data is collected with: scripted experts, trained runs, uniform actions.

What an episode becomes depends on its own number and seed alone, never on which episodes run beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from offline_marl.algorithms.base import Algorithm
from offline_marl.collection.assignment import RANDOM
from offline_marl.collection.recordable import Recordable
from offline_marl.core.partition import SCENARIOS, Partition, PartitionError, partition, split_task
from offline_marl.core.seeding import derive
from offline_marl.core.small_files import read_table
from offline_marl.core.types import DataError, Spec
from offline_marl.environments.base import Floats, ScriptedExpert, Seen, TeamActions
from offline_marl.environments.episodes import Controller, Memoryless, PolicyController
from offline_marl.runs.folder import RunFolder
from offline_marl.runs.loading import load
from offline_marl.runs.policies import PREFIX, shipped_policy

BLOCK = 32
"""Rows of every call of a trained policy: the last digit of a matrix product may depend on how many rows it has."""


class Behaviour(Protocol):
    """A behaviour policy: begins a controller for each batch of episodes, and describes itself for the metadata."""

    @property
    def takes_noise(self) -> bool:
        """Whether noise is added to its actions."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the metadata say of it."""
        ...

    def begin(self, numbers: Sequence[int], seeds: Sequence[int]) -> Controller:
        """Its controller in the episodes of these numbers, from their first step on."""
        ...


@dataclass(frozen=True, slots=True)
class ScriptedBehaviour:
    """A policy written by hand; on a body it reads the whole state."""

    expert: ScriptedExpert
    body: bool
    takes_noise: bool = True

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"kind": "scripted", "name": self.expert.name}

    def begin(self, numbers: Sequence[int], seeds: Sequence[int]) -> Controller:
        """The expert, which needs no memory."""
        return Memoryless(lambda seen, step: self.expert.act(self._read(seen)))

    def _read(self, seen: Seen) -> npt.NDArray[np.float32]:
        return seen.state if self.body and seen.state is not None else seen.obs


@dataclass(frozen=True, slots=True)
class UniformBehaviour:
    """Uniform random actions, drawn from each episode's own seed."""

    task: Recordable
    takes_noise: bool = False

    def describe(self) -> dict[str, Any]:
        """That it is random."""
        return {"kind": RANDOM, "name": RANDOM}

    def begin(self, numbers: Sequence[int], seeds: Sequence[int]) -> Controller:
        """Draws of each episode's own seed."""
        draws = [np.random.default_rng(derive(seed, "random")) for seed in seeds]
        lots = np.stack([draw.random((self.task.max_steps, *self.task.action_shape), np.float32) for draw in draws])
        return Memoryless(lambda seen, step: self.task.uniform(lots[:, step], seen))


class RunBehaviour:
    """The deterministic policy of a run's checkpoint.

    Args:
        folder: The run folder.
        task: Where it acts.
        step: Of the checkpoint; without it, the newest one that can be read.

    Raises:
        RunFolderError: The folder holds no run or no such checkpoint that can be read.
        DataError: The run's team is of another size, or of another kind of actions.
    """

    takes_noise = True

    def __init__(self, folder: Path, task: Recordable, step: int | None = None) -> None:
        self.folder, self.step, self.config = folder, step, RunFolder(folder).config()
        self.policy: Algorithm = load(folder, step)
        self.partition = _partition(RunFolder(folder), task.name) if task.body else None
        refuse_another_team(self.policy, self.partition or task.spec, f"The run {folder}", task)

    def describe(self) -> dict[str, Any]:
        """What it was trained by and on, and which weights these are; no paths."""
        name, at = self.folder.resolve().name, {} if self.step is None else {"step": self.step}
        origin = {"kind": "run", "name": f"{name}@{self.step}" if at else name, **at}
        return {
            **origin,
            "algorithm": self.config.algorithm,
            "dataset": Path(self.config.task).name,
            "weights_sha256": weights_checksum(self.policy),
        }

    def begin(self, numbers: Sequence[int], seeds: Sequence[int]) -> Controller:
        """The policy with a memory of these episodes."""
        return _BlockController(self.policy, self.partition, numbers)


class TierBehaviour:
    """A policy of some quality that ships with the package for this environment.

    Args:
        name: Such as `tier:expert`.
        task: Where it acts.

    Raises:
        DataError: None of that name ships for the environment, or the team is of another size or kind of actions.
    """

    takes_noise = True

    def __init__(self, name: str, task: Recordable) -> None:
        self.name, self.saved = name, shipped_policy(name, task.name)
        refuse_another_team(self.saved.policy, task.spec, f"The policy {name}", task)

    def describe(self) -> dict[str, Any]:
        """What it was trained by, how it scored, and which weights these are."""
        origin = {"kind": "tier", "name": self.name, "algorithm": self.saved.algorithm}
        return {**origin, **self.saved.about, "weights_sha256": weights_checksum(self.saved.policy)}

    def begin(self, numbers: Sequence[int], seeds: Sequence[int]) -> Controller:
        """The policy with a memory of these episodes."""
        return _BlockController(self.saved.policy, None, numbers)


def refuse_another_team(policy: Algorithm, here: Spec | Partition | None, what: str, task: Recordable) -> None:
    """Refuse a policy of other widths, or of another kind of actions, than those who act here.

    Raises:
        DataError: It is one.
    """
    spec = policy.spec
    if here is None or (spec.obs_dims, spec.act_dims) != (here.obs_dims, here.act_dims):
        raise DataError(f"{what} was trained for a team of another size than {task.name}'s.")
    kind = here.action_kind if isinstance(here, Spec) else "continuous"  # bodies know no choices
    if spec.action_kind != kind:
        raise DataError(f"{what} was trained for {spec.action_kind} actions, but {task.name}'s are {kind}.")


def weights_checksum(policy: Algorithm) -> str:
    """Checksum of a policy's parameters."""
    digest = hashlib.sha256()
    for value in policy.parameters():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class _BlockController:
    """A controller that calls a policy with blocks of `BLOCK` rows, so that results do not depend on the other rows.

    An episode has its row in a block by its number; rows of other episodes are zeros.
    """

    def __init__(self, policy: Algorithm, partition: Partition | None, numbers: Sequence[int]) -> None:
        self.spec, self.partition = policy.spec, partition
        blocks = sorted({number // BLOCK for number in numbers})
        self.rows = np.array([blocks.index(number // BLOCK) * BLOCK + number % BLOCK for number in numbers])
        self.controllers = [PolicyController(policy, self.spec, BLOCK) for _ in blocks]

    @property
    def blocks(self) -> Iterator[tuple[PolicyController, slice]]:
        """The controller of each block, and its rows."""
        for number, controller in enumerate(self.controllers):
            yield controller, slice(number * BLOCK, (number + 1) * BLOCK)

    def act(self, seen: Seen, step: int) -> TeamActions:
        """The policy's actions in the rows of these episodes, joined on a body."""
        spec, size = self.spec, len(self.controllers) * BLOCK
        obs = torch.zeros(size, spec.n_agents, spec.obs_dim).numpy()
        obs[self.rows] = self._split(seen)
        avail = None
        if seen.avail_actions is not None:
            avail = spec.present("act").expand(size, -1, -1).clone().numpy()
            avail[self.rows] = seen.avail_actions
        present = None
        if seen.present is not None:
            present = np.ones((size, spec.n_agents), np.bool_)
            present[self.rows] = seen.present
        chosen = [
            controller.act(
                Seen(obs[rows], None, *(None if values is None else values[rows] for values in (avail, present))), step
            )
            for controller, rows in self.blocks
        ]
        actions: TeamActions = np.concatenate(chosen)[self.rows]
        return actions if self.partition is None else self.partition.join_actions(actions)

    def remember(self, rewards: Floats) -> None:
        """Add the step to each block's memory; a body's reward is that of every agent."""
        earned = np.zeros((len(self.controllers) * BLOCK, self.spec.n_agents), np.float32)
        earned[self.rows] = rewards[:, None] if rewards.ndim == 1 else rewards
        for controller, rows in self.blocks:
            controller.remember(earned[rows])

    def _split(self, seen: Seen) -> npt.NDArray[np.float32]:
        return seen.obs if self.partition is None or seen.state is None else self.partition.split_obs(seen.state)


def _partition(run: RunFolder, scenario: str) -> Partition:
    """How a run's agents share the body of this name: by what the run recorded of its task, else by its task's name."""
    try:
        about = read_table(run.task_file)
    except (OSError, ValueError):  # of an earlier version, or damaged
        about = {}
    body, conf, view = (about.get(name) for name in ("scenario", "conf", "view"))
    if body in SCENARIOS and body != scenario:
        raise DataError(f"The run {run.path} moves {body}, which is another body than {scenario}.")
    try:
        if conf is None or view is None:
            _, conf, view = split_task(Path(run.config().task).name)
        return partition(scenario, str(conf), str(view))
    except PartitionError:
        raise DataError(f"The run {run.path} does not say how its agents share {scenario}.") from None


def find_behaviour(name: str, task: Recordable) -> Behaviour:
    """Find a behaviour: `random`, `tier:NAME`, a scripted expert of the environment, a run folder, or FOLDER@STEP.

    Raises:
        RegistryError: There is none of that name; the answer lists the experts.
        RunFolderError, DataError: The run cannot act here, or no such tier ships.
    """
    if name == RANDOM:
        return UniformBehaviour(task)
    if name.startswith(PREFIX):
        return TierBehaviour(name, task)
    if name not in task.kind.experts:
        folder, _, step = name.rpartition("@")
        if Path(name).is_dir():
            return RunBehaviour(Path(name), task)
        if step.isdecimal() and Path(folder).is_dir():
            return RunBehaviour(Path(folder), task, int(step))
    return ScriptedBehaviour(task.kind.scripted(name), task.body)
