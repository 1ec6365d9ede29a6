"""Rounds of questions of a run about what it plays: pairs are entered, answered, and counted."""

from __future__ import annotations

import hashlib
import math
import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from offline_marl.core.config import ConfigError, build
from offline_marl.core.file_systems import NETWORK, file_system_of
from offline_marl.core.types import DataError
from offline_marl.preferences.label_store import NAME
from offline_marl.preferences.labels import TEAM, index_of
from offline_marl.preferences.pairs import schedule
from offline_marl.preferences.reward_model import RewardModel
from offline_marl.preferences.teachers import TaskScale, TeacherConfig
from offline_marl.runs.config import INDECISIVE_FIELDS, RunConfig
from offline_marl.runs.folder import RunFolder
from offline_marl.runs.live import QUESTIONS
from offline_marl.tasks.data_tasks import Task
from offline_marl.training.preferences.answering import ALL, simulate
from offline_marl.training.preferences.asking import SCENE, enter, measure
from offline_marl.training.preferences.folders import ComparisonFolder, plain_spec
from offline_marl.training.preferences.labelled import Labelled
from offline_marl.training.preferences.live_pairs import Episodes, LivePairs
from offline_marl.training.preferences.splits import load_labelled


@dataclass(frozen=True)
class Fitting:
    """When the reward model was fitted, and to which labels, written down so that it is repeated after a restart."""

    at: int
    """Batches that had been drawn."""
    until: int
    """Number of the newest label that was learnt from."""
    judgements: int = 0
    """The same of ratings and credit; fits of earlier versions learnt from none."""


class Questions:
    """Comparisons of one run, in a folder of its own, which outlives every restart.

    Args:
        config: The run's settings.
        folder: The run folder.
        task: What is played; its uniform play measures what the simulated teacher is sure of.

    Raises:
        BadInputError: The simulated teacher's settings are unknown, or nothing could be preferred.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, task: Task) -> None:
        self.config, self.path, self.task = config, folder.path / QUESTIONS, task
        known = _known_id(self.path) or (drawn_id() if config.teacher == "human" else run_id(config))
        how = config.query_length, config.query_select, config.seed, config.query_to_end
        self.pairs = LivePairs(known, task.spec, *how)
        self.character: TeacherConfig = build(TeacherConfig, config.teacher_settings)
        if config.query_target not in {TEAM, ALL}:
            try:
                index_of(config.query_target, task.spec.n_agents)
            except DataError as error:
                raise ConfigError(str(error)) from None
        self.scale = _scale(config, task, self.character)
        self._stated = False

    @property
    def rounds(self) -> int:
        """Rounds that the budget pays for."""
        return math.ceil(self.config.queries / self.config.queries_per_round)

    def open(self) -> ComparisonFolder:
        """The folder; made, with what all rounds share, where it is not there."""
        if self._stated:
            return ComparisonFolder(self.path)
        network = file_system_of(self.path.parent) in NETWORK
        folder = ComparisonFolder(self.path, make=True, journal="rollback" if network else None)
        data = {"key": f"run:{self.pairs.run_id}", "spec": plain_spec(self.task.spec)}
        shared = {"budget": self.config.queries, "length": self.config.query_length, "rounds": self.rounds}
        about = {"data": data, "task": self.task.id, "scene": _scene(self.config, self.task)}
        # Measured anew after a restart, perhaps with another number of threads, it may be rounded otherwise.
        scale = folder.store.facts().get("scale") or self.scale.plain()
        folder.store.state({**shared, **about, "scale": scale})
        self._stated = True
        return folder

    def ask(self, session: int, episodes: Episodes, model: RewardModel, fewer: bool) -> int:
        """Enter the pairs of a round; those that were entered before a restart stay as they are.

        Args:
            session: Number of the round.
            episodes: That segments are of.
            model: Whose doubt decides.
            fewer: Whether a round may ask fewer than its number, since there will never be more to choose from.

        Returns:
            How many there are; 0 where too little has been played.
        """
        with self.open() as folder:
            asked = folder.store.pairs()
            there = sum(one.session == session for one in asked)
            if there:
                return there
            count = min(self.config.queries_per_round, self.config.queries - len(asked))
            chosen = self.pairs.choose(episodes, count, session, model, asked, fewer)
            if chosen:
                enter(folder, chosen, self.pairs.copy([one.pair for one in chosen], episodes))
            return len(chosen)

    def answer(self) -> None:
        """Let the simulated teacher answer what is open."""
        with self.open() as folder:
            target, seed = self.config.query_target, self.config.seed
            simulate(folder, self.character, target=target, seed=seed)

    def unanswered(self, session: int) -> int:
        """How many pairs of the rounds up to this one nobody has answered."""
        with self.open() as folder:
            answered = {label.pair_id for label in folder.store.labels() if label.answer != "withdrawn"}
            return sum(one.session <= session and one.pair.id not in answered for one in folder.store.pairs())

    def cursor(self) -> int:
        """Number of the newest label."""
        with self.open() as folder:
            return folder.store.cursor()

    def judgement_cursor(self) -> int:
        """Number of the newest rating or credit."""
        with self.open() as folder:
            return folder.store.judgement_cursor()

    def fitting(self, number: int) -> Fitting | None:
        """What was written down of a fit, if it was made before a restart."""
        with self.open() as folder:
            known = folder.store.facts().get(f"fit {number:05d}")
        return None if known is None else Fitting(**known)

    def note(self, number: int, fitting: Fitting) -> None:
        """Write down what a fit learns from, before it is made."""
        with self.open() as folder:
            folder.store.state({f"fit {number:05d}": asdict(fitting)})

    def count_new(self, since: int, fitting: Fitting) -> int:
        """How many labels that a fit learns from were given, or revised, after this number; they are its last."""
        with self.open() as folder:
            labels = folder.store.labels(since, fitting.until)
        return sum(label.value is not None for label in labels)

    def labelled(self, fitting: Fitting, device: torch.device | str) -> Labelled | None:
        """What a fit learns from, as the store was then; None without any label."""
        with self.open() as folder:
            return load_labelled(folder, fitting.until, device, fitting.judgements)


def run_id(config: RunConfig) -> str:
    """Name of a run in the keys of its segments: the same for the same settings of learning, wherever it lies.

    The simulated teacher's errors are drawn by these keys, and should not depend on how a run is watched.
    """
    decisive = config.model_dump_json(exclude=set(INDECISIVE_FIELDS))
    return hashlib.sha256(decisive.encode()).hexdigest()[:16]


def drawn_id() -> str:
    """Name of a run whose questions people answer: drawn by the system's random source, and kept in the run's store.

    Answers steer what is played, so that two runs of the same settings play differently under equal episode numbers:
    their segments need names that differ, too.
    """
    return secrets.token_hex(8)


def _known_id(path: Path) -> str | None:
    """The name that a run has in its store, drawn or made by an earlier version; None where nothing is stated yet."""
    if not (path / NAME).is_file():
        return None
    with ComparisonFolder(path) as folder:
        key = (folder.store.facts().get("data") or {}).get("key")
    return None if key is None else str(key).removeprefix("run:")


def marks(config: RunConfig, begin: int, end: float, rounds: int) -> Sequence[float]:
    """Environment steps at which the rounds come, the first one as exploration ends."""
    if config.query_every:
        return [begin + config.query_every * number for number in range(rounds)]
    room = max(int(end) - begin, 0)
    if config.query_schedule == "linear":
        return [begin + mark for mark in (0, *schedule("linear", room, rounds)[:-1])] if rounds else []
    return (
        [begin + mark for mark in (0, *schedule("exponential", room, rounds, config.query_rate)[:-1])] if rounds else []
    )


def refuse_unasked(config: RunConfig, begin: int, end: float, rounds: int) -> None:
    """Refuse an exploration behind which nothing can be asked, and warn of rounds that come after the run's end.

    Args:
        config: The run's settings.
        begin: Environment steps after which the exploration is over.
        end: Environment steps of the whole run.
        rounds: That the budget pays for.

    Raises:
        ConfigError: The run ends before any question.
    """
    if rounds and begin >= end:
        raise ConfigError(
            f"The exploration ends after {begin:,} environment steps and the run after {int(end):,}, before any of its "
            f"{config.queries:,} queries: give more --environment-steps (or --steps), or fewer --explore-steps."
        )
    there = sum(mark <= end for mark in marks(config, begin, end, rounds)) * config.queries_per_round
    if there < config.queries:
        print(
            f"warning: {there:,} of {config.queries:,} queries come before the run ends, after {int(end):,} steps: "
            f"rounds of {config.queries_per_round:,} are {config.query_every:,} steps apart (--query-every).",
            file=sys.stderr,
        )


def _scene(config: RunConfig, task: Task) -> dict[str, Any]:
    """What pictures of segments are made from where the run folder is not, such as beside a labelling server."""
    told = {name: task.about.get(name) for name in SCENE}
    if config.environment is not None:
        told = {"scenario": config.environment, "settings": config.env_settings, "max_steps": config.max_steps}
    if task.partition is not None:
        told |= {name: getattr(task.partition, name) for name in ("scenario", "conf", "view")}
    return {name: value for name, value in told.items() if value}


def _scale(config: RunConfig, task: Task, character: TeacherConfig) -> TaskScale:
    """What returns are measured by; without differences in uniform play only a perfect teacher can do."""
    length = min(config.query_length, int(task.data.lengths.max()))
    try:
        return measure(task, length)
    except DataError:
        if config.teacher == "human" or character.steepness == "perfect":
            return TaskScale(1.0, 0.0, 0.0)
        raise
