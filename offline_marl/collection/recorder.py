"""What one process needs to record episodes: the stage, the actors, and where chunks of episodes are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offline_marl.collection.assignment import NOBODY, Cast
from offline_marl.collection.behaviours import Actor, Trained, find_actor
from offline_marl.collection.config import CollectConfig
from offline_marl.collection.record import Act, perform
from offline_marl.collection.recordable import Stage
from offline_marl.core.config import ConfigError
from offline_marl.core.partition import PartitionError, confs, partition
from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset, Recording, join
from offline_marl.datasets.catalog import SUFFIX
from offline_marl.datasets.episode_index import episode_sums
from offline_marl.datasets.files import load_data, save_data
from offline_marl.environments.base import Environment, Seen, TeamActions, environments
from offline_marl.environments.pettingzoo import environment_of
from offline_marl.runs.folder import write_json

CHUNK = 64
"""Episodes of a chunk, at most."""


@dataclass(frozen=True, slots=True)
class Work:
    """Episodes to record, said so that any process can record any chunk of them."""

    config: CollectConfig
    """Names the environment, and how many copies of it a process has."""
    cast: Cast
    folder: Path
    """Where chunks are kept."""
    actors: tuple[Mapping[str, Any], ...]
    """What was written down of the actors, who must not change meanwhile; the deviating one comes last."""
    conf: str | None = None
    """Who the agents of a body are, where that matters."""
    returns: bool = False
    """Keep each episode's return alone."""

    def kept(self, numbers: range) -> Any:
        """What was kept of the chunk of these episodes, or None."""
        path = self.path(numbers)
        try:
            if self.returns:
                found = json.loads(path.read_text(encoding="utf-8"))["returns"]
                return found if len(found) == len(numbers) else None
            return load_data(path) if path.exists() else None
        except (DataError, OSError, ValueError, KeyError, TypeError):
            return None  # recorded again

    def keep(self, numbers: range, part: Recording | Dataset) -> None:
        """Write the chunk of these episodes, whole or not at all."""
        if self.returns:
            write_json(self.path(numbers), {"returns": returns_of(part).tolist()})
        else:
            save_data(self.path(numbers), part)

    def path(self, numbers: range) -> Path:
        """File of the chunk of these episodes."""
        return self.folder / f"{numbers[0]:09d}{'.json' if self.returns else SUFFIX}"


class Crew:
    """Stage and actors of one process.

    Args:
        config: Names the environment.
        names: Who may act.
        deviate: Whom deviators follow.
        most: Episodes that run side by side at most.

    Raises:
        BadInputError: The environment or an actor is unknown, or an actor cannot act here.
    """

    def __init__(self, config: CollectConfig, names: Sequence[str], deviate: str | None, most: int = CHUNK) -> None:
        self.stage = Stage.built(config.environment, environment(config), min(config.copies, most, CHUNK))
        try:
            self.actors: list[Actor] = [find_actor(name, self.stage) for name in names]
            self.deviant = None if deviate is None else find_actor(deviate, self.stage)
            self.conf = self._share(config.conf) if self.deviant else None
        except BaseException:
            self.close()
            raise

    def _share(self, conf: str | None) -> str | None:
        """Say who the agents are, of whom one deviates: as named, or as the runs have it."""
        name = self.stage.name
        if not self.stage.body:
            if conf is not None:
                raise ConfigError(f"--conf {conf} shares out a body, but {name} is made for a team.")
            return None
        runs = [each for each in (*self.actors, self.deviant) if isinstance(each, Trained) and each.shares]
        known = {each.shares.conf for each in runs if each.shares}
        chosen = conf if conf is not None else next(iter(known)) if len(known) == 1 else None
        if chosen is None:
            raise ConfigError(
                f"{name} is one body: say with --conf ({', '.join(confs(name))}) who its agents are, so that one of "
                "them can deviate."
            )
        try:
            self.stage.share(partition(name, chosen, "full"))
        except PartitionError as error:
            raise ConfigError(f"--conf cannot be {chosen}: {error}") from None
        return chosen

    def about(self) -> tuple[dict[str, Any], ...]:
        """What is written down of the actors, the deviating one last."""
        every = self.actors if self.deviant is None else [*self.actors, self.deviant]
        return tuple(each.about() for each in every)

    def record(self, work: Work, numbers: range) -> None:
        """Play a chunk of episodes and keep it."""
        copies = self.stage.copies
        parts = [self.play(work.cast, numbers[i : i + copies]) for i in range(0, len(numbers), copies)]
        work.keep(numbers, join(parts, {}))

    def play(self, cast: Cast, numbers: range) -> Any:
        """Play episodes side by side."""
        followed = [self._hand(cast, numbers, actor) for actor in sorted({cast.who[number] for number in numbers})]
        deviating = self._hand(cast, numbers, None)

        def act(seen: Seen, step: int) -> TeamActions:
            chosen = [(rows, own(_rows(seen, rows), step)) for rows, own in followed]
            actions: TeamActions = np.zeros((len(numbers), *chosen[0][1].shape[1:]), chosen[0][1].dtype)
            for rows, own in chosen:
                actions[rows] = own
            if deviating is not None:
                rows, own = deviating
                agents = [cast.deviators[numbers[i]] for i in rows]
                actions[rows] = self.stage.exchanged(actions[rows], own(_rows(seen, rows), step), agents)
            return actions

        return perform(self.stage, [cast.seeds[number] for number in numbers], act)

    def _hand(self, cast: Cast, numbers: range, actor: int | None) -> Any:
        """Rows in which an actor (None: the deviating one) acts, and how, its noise included."""
        mine = [cast.deviators[n] != NOBODY if actor is None else cast.who[n] == actor for n in numbers]
        rows = np.flatnonzero(mine)
        who = self.deviant if actor is None else self.actors[actor]
        if who is None or not len(rows):
            return None
        own = [numbers[i] for i in rows]
        seeds = [cast.seeds[number] for number in own]
        act = who.begin(own, seeds)
        if not who.shaken:
            return rows, act
        return rows, _shaken(act, self.stage.disturb(seeds, [cast.levels[number] for number in own]))

    def close(self) -> None:
        """Let go of the simulators."""
        self.stage.close()


def environment(config: CollectConfig) -> type[Environment]:
    """The environment that a collection names.

    Raises:
        DataError: It takes no settings.
        RegistryError: It is unknown.
    """
    name = config.environment
    if name in environments.names() or not (":" in name or "." in name):
        return environments.get(name).told(config.settings, config.max_steps)
    return environment_of(name, config.settings, config.max_steps)


def returns_of(part: Recording | Dataset) -> torch.Tensor:
    """Return of each episode, averaged over agents."""
    return part.returns() if isinstance(part, Dataset) else episode_sums(part.rewards, part.lengths)


def _shaken(act: Act, disturb: Callable[[TeamActions, Seen, int], TeamActions]) -> Act:
    return lambda seen, step: disturb(act(seen, step), seen, step)


def _rows(seen: Seen, rows: Any) -> Seen:
    state, avail = (None if shown is None else shown[rows] for shown in (seen.state, seen.avail_actions))
    return Seen(seen.obs[rows], state, avail)
