"""Who acts when data is collected: scripted experts, trained runs, chance; each with noise of its own.

What an episode becomes depends on its own number and seed alone, never on which episodes run beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from offline_marl.algorithms.base import Algorithm
from offline_marl.collection.assignment import CHANCE
from offline_marl.collection.record import Act
from offline_marl.collection.recordable import Stage
from offline_marl.core.history import WindowMemory
from offline_marl.core.partition import Partition, PartitionError, partition, split_task
from offline_marl.core.seeding import derive
from offline_marl.core.types import DataError
from offline_marl.environments.base import ScriptedExpert, Seen, TeamActions
from offline_marl.runs.folder import RunFolder
from offline_marl.runs.loading import load

BLOCK = 32
"""Rows of every call of a trained policy: the last digit of a matrix product may depend on how many rows it has."""


class Actor(Protocol):
    """Somebody who acts in episodes."""

    @property
    def shaken(self) -> bool:
        """Whether noise is added to what it does."""
        ...

    def about(self) -> dict[str, Any]:
        """What is written down of it."""
        ...

    def begin(self, numbers: Sequence[int], seeds: Sequence[int]) -> Act:
        """Act in the episodes of these numbers, from their first step on."""
        ...


@dataclass(frozen=True, slots=True)
class Scripted:
    """A policy written by hand."""

    expert: ScriptedExpert
    body: bool
    shaken: bool = True

    def about(self) -> dict[str, Any]:
        """Its name."""
        return {"kind": "scripted", "name": self.expert.name}

    def begin(self, numbers: Sequence[int], seeds: Sequence[int]) -> Act:
        """On a body it sees the whole state."""
        return lambda seen, step: self.expert.act(seen.state if self.body and seen.state is not None else seen.obs)


@dataclass(frozen=True, slots=True)
class Chance:
    """Uniform actions."""

    stage: Stage
    shaken: bool = False

    def about(self) -> dict[str, Any]:
        """That it is chance."""
        return {"kind": CHANCE, "name": CHANCE}

    def begin(self, numbers: Sequence[int], seeds: Sequence[int]) -> Act:
        """Each episode draws from its own seed."""
        draws = [np.random.default_rng(derive(seed, "random")) for seed in seeds]
        lots = np.stack([draw.random((self.stage.steps, *self.stage.wide), np.float32) for draw in draws])
        return lambda seen, step: self.stage.uniform(lots[:, step], seen)


class Trained:
    """A checkpoint of a run, deterministic.

    Args:
        folder: The run folder.
        stage: Where it acts.
        step: Of the checkpoint; without it, the newest one that can be read.

    Raises:
        RunFolderError: The folder holds no run or no such checkpoint that can be read.
        DataError: The run's team is of another size.
    """

    shaken = True

    def __init__(self, folder: Path, stage: Stage, step: int | None = None) -> None:
        self.folder, self.step, self.config = folder, step, RunFolder(folder).config()
        self.policy: Algorithm = load(folder, step)
        self.shares = _shares(self.config.task, stage.name) if stage.body else None
        spec, here = self.policy.spec, self.shares or stage.spec
        if here is None or (spec.obs_dims, spec.act_dims) != (here.obs_dims, here.act_dims):
            raise DataError(f"The run {folder} was trained for a team of another size than {stage.name}'s.")

    def about(self) -> dict[str, Any]:
        """What it was trained by and on, and which weights these are; no paths."""
        digest = hashlib.sha256()
        for value in self.policy.parameters():
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        name, at = self.folder.resolve().name, {} if self.step is None else {"step": self.step}
        said = {"kind": "run", "name": f"{name}@{self.step}" if at else name, **at, "algorithm": self.config.algorithm}
        return {**said, "dataset": Path(self.config.task).name, "weights_sha256": digest.hexdigest()}

    def begin(self, numbers: Sequence[int], seeds: Sequence[int]) -> Act:
        """An episode has its row in a block by its number, whoever sits in the others."""
        blocks = sorted({number // BLOCK for number in numbers})
        rows = np.array([blocks.index(number // BLOCK) * BLOCK + number % BLOCK for number in numbers])
        spec, size = self.policy.spec, len(blocks) * BLOCK
        memory = WindowMemory(spec, self.policy.window, size, "cpu")

        def act(seen: Seen, step: int) -> TeamActions:
            obs = torch.zeros(size, spec.n_agents, spec.obs_dim)
            obs[rows] = torch.from_numpy(self._split(seen))
            avail = None
            if seen.avail_actions is not None:
                avail = spec.present("act").expand(size, -1, -1).clone()
                avail[rows] = torch.from_numpy(seen.avail_actions)
            chosen = torch.cat([self._act(slice(i, i + BLOCK), obs, memory, avail) for i in range(0, size, BLOCK)])
            memory.remember(obs, chosen, torch.zeros(size, spec.n_agents))
            own: TeamActions = chosen[rows].numpy()
            return own if self.shares is None else self.shares.join_actions(own)

        return act

    def _split(self, seen: Seen) -> npt.NDArray[np.float32]:
        return seen.obs if self.shares is None or seen.state is None else self.shares.split_obs(seen.state)

    @torch.no_grad()
    def _act(self, rows: slice, obs: torch.Tensor, memory: WindowMemory, avail: torch.Tensor | None) -> torch.Tensor:
        history = None if memory.history is None else memory.history[rows]
        return self.policy.act(obs[rows], history=history, avail_actions=None if avail is None else avail[rows])


def _shares(task: str, scenario: str) -> Partition:
    try:
        _, conf, view = split_task(Path(task).name)
        return partition(scenario, conf, view)
    except PartitionError:
        raise DataError(f"A run on {Path(task).name} does not say how its agents share {scenario}.") from None


def find_actor(name: str, stage: Stage) -> Actor:
    """Who is called so: `random`, a scripted expert of the environment, a run folder, or FOLDER@STEP of one.

    Raises:
        RegistryError: Nobody; the answer lists the experts.
        RunFolderError, DataError: The run cannot act here.
    """
    if name == CHANCE:
        return Chance(stage)
    if name not in stage.kind.experts:
        folder, _, step = name.rpartition("@")
        if Path(name).is_dir():
            return Trained(Path(name), stage)
        if step.isdecimal() and Path(folder).is_dir():
            return Trained(Path(folder), stage, int(step))
    return Scripted(stage.kind.scripted(name), stage.body)
