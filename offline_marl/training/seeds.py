"""Runs that differ by their seed alone, in one process: side by side in one learner's products, or one after another.

Each has its own folder, rows, checkpoints, scores and generators, and ends as it would have ended alone; whichever is
stopped goes on alone (`resume`) or with the others (the same call again).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.algorithms.split import IndependentAlgorithm
from offline_marl.algorithms.together import Together, apart, beside, join, part, refuse_together
from offline_marl.core.config import ConfigError, build
from offline_marl.core.permissions import ImportPath
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch
from offline_marl.environments.workers import ended_behind
from offline_marl.runs.combinations import refuse_beginning, refuse_mixtures, replays
from offline_marl.runs.config import RunConfig, import_paths
from offline_marl.runs.devices import pick_device
from offline_marl.runs.folder import RunFolder, RunFolderError
from offline_marl.runs.loading import make_algorithm
from offline_marl.runs.permissions import remember
from offline_marl.runs.stopping import StoppedEarly, asked
from offline_marl.tasks.data_tasks import Task
from offline_marl.tasks.run_tasks import describe_task, open_for
from offline_marl.training.loop import DivergedError, Hook, SourceStoppedError, StopHook
from offline_marl.training.run import default_folder, prepare, provenance
from offline_marl.training.sources.recorded import DatasetSource
from offline_marl.training.training_run import Result, TrainingSession, read_finished

Failure = DivergedError | SourceStoppedError
"""Why a run cannot go on; the others do."""
MOST_WORK = 6_000_000
"""Multiplications of one member's largest product up to which seeds learn faster side by side, as measured on a CPU."""


def train_seeds(
    algorithm: str, dataset: str, seeds: Sequence[int], *, out: str | Path | None = None, **fields: Any
) -> list[Result]:
    """Train runs that differ by their seed alone, and score each.

    Called again after a stop it goes on with those that are unfinished. Small networks learn side by side, in products
    of all seeds' members, larger ones one seed after another.

    Args:
        algorithm: Registry name.
        dataset: Task id or file, as for `train`.
        seeds: Of the runs.
        out: Folder of their run folders, `seed0`, `seed1` ...; by default each goes where it would go alone.
        fields: Any field of the run but `seed`, or of the algorithm's config.

    Returns:
        The result of each run, in the order of the seeds.

    Raises:
        ConfigError: A setting is unknown, has a bad value, or cannot go with several seeds.
        DataError: The data cannot be used, or this algorithm's seeds cannot learn side by side.
        RunFolderError: A run folder holds something else or is in use.
        DivergedError: A loss of some run stopped being finite; the others have gone to their ends.
        SourceStoppedError: The environment failed as a run was scored; it is saved, the others have gone to their ends.
    """
    configs = [_config(algorithm, dataset, {**fields, "seed": seed}) for seed in refuse_doubles(seeds)]
    folders = [RunFolder(path) for path in folders_of(algorithm, dataset, seeds, out=out, **fields)]
    task = open_for(configs[0], None, ImportPath)
    learners = [make_algorithm(config, task.data.spec) for config in configs]
    with contextlib.ExitStack() as held:
        held.enter_context(ended_behind())
        for folder, config in zip(folders, configs, strict=True):
            held.enter_context(folder.locked())
            if not (folder.config_file.exists() and folder.config() == config):
                folder.refuse_strangers(config)
            if folder.config_file.exists():
                folder.refuse_edits()
            _refuse_other_data(folder, task)
            folder.sweep()
        runs = list(zip(folders, configs, learners, strict=True))
        sessions = {f.path: TrainingSession(f, c, task, one) for f, c, one in runs if not f.done}
        for folder, config, _ in runs:
            if not folder.config_file.exists():
                folder.begin(config, provenance(task), describe_task(task))
                remember(folder.path, import_paths(config.environment, config.env_settings))
        results = _run(list(sessions.values()))
        return [results[f.path] if f.path in results else read_finished(f, c, task) for f, c, _ in runs]


def folders_of(
    algorithm: str, dataset: str, seeds: Sequence[int], *, out: str | Path | None = None, **fields: Any
) -> list[Path]:
    """The run folders of `train_seeds`."""
    if out is not None:
        return [Path(out) / f"seed{seed}" for seed in seeds]
    return [default_folder(_config(algorithm, dataset, {**fields, "seed": seed})) for seed in seeds]


def refuse_doubles(seeds: Sequence[int]) -> Sequence[int]:
    """The seeds, if there are some, and each once.

    Raises:
        ConfigError: There are none, or one comes twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds names the seeds of several runs, each once: 0..7 or 0,3,5, not {list(seeds)}.")
    return seeds


def _config(algorithm: str, dataset: str, fields: Mapping[str, Any]) -> RunConfig:
    config, needs = prepare(algorithm, dataset, fields), algorithms.get(algorithm).needs
    refuse_mixtures(config, needs)
    refuse_beginning(config, needs)
    reasons = {
        "--world-model": config.world_model is not None or needs.origin == "model",
        "fresh episodes": needs.origin == "environment",
        "--online": replays(config, needs),
        "comparisons": needs.view == "pairs",
        "--engine": config.engine is not None or config.answers_of is not None,
        "--wandb": config.wandb != "off",
        "--compile": config.compile,
    }
    found = [name for name, given in reasons.items() if given]
    if found:
        raise ConfigError(
            f"--seeds lays learners of recorded rows side by side, and {algorithm} with {found[0]} is none: "
            "give each --seed a run of its own."
        )
    kind = algorithms.get(algorithm)
    refuse_together(algorithm, kind, build(kind.Config, config.settings))
    return config.model_copy(update={"device": str(pick_device(config.device))})


def _refuse_other_data(folder: RunFolder, task: Task) -> None:
    then, now = folder.versions().get("dataset_sha256"), task.data.metadata.get("sha256")
    if folder.config_file.exists() and then is not None and then != now:
        raise RunFolderError(f"{task.id} is not the data that {folder.path} began with (sha256 is {now}, was {then}).")


def largest_product(learner: Algorithm) -> int:
    """Multiplications of one member's largest product in an update; drawn actions and past pairs are rows, too."""
    judged = learner.judged if isinstance(learner, IndependentAlgorithm) else 1
    rows = learner.batch_size
    return max(
        rows * parameter[0].numel() * (max(learner.window, 1) if name.startswith("inputs.") else judged)
        for name, parameter in learner.named_parameters()
        if parameter.dim() == 3
    )


def _run(sessions: Sequence[TrainingSession]) -> dict[Path, Result]:
    """Go to the ends of all runs; those that cannot are told at the end."""
    if not sessions:
        return {}
    work = largest_product(sessions[0].learner)
    side_by_side = work <= MOST_WORK and len(sessions) > 1
    how = "side by side" if side_by_side else "one after another"
    why = f"a member's largest product takes {work:,} multiplications, side by side pays up to {MOST_WORK:,}"
    print(f"{len(sessions)} seeds learn {how}: {why}", file=sys.stderr)
    results: dict[Path, Result] = {}
    failures: list[Failure] = []
    if not side_by_side:
        for session in sessions:
            try:
                results[session.folder.path] = session.run()
            except (DivergedError, SourceStoppedError) as error:
                failures.append(_named(session, error))
    else:
        turns = [_Turn(session) for session in sessions]
        for turn in turns:
            with turn.randomness():
                turn.session.restore()
        # Those that were stopped at different steps never meet.
        for step in sorted({turn.session.step for turn in turns}):
            group = _Group([turn for turn in turns if turn.session.step == step])
            results |= group.run()
            failures += group.failures
    if failures:
        diverged = any(isinstance(failure, DivergedError) for failure in failures)
        raise (DivergedError if diverged else SourceStoppedError)(" ".join(map(str, failures)))
    return results


def _named(session: TrainingSession, error: Failure) -> Failure:
    """The error with the seed of the run that cannot go on, which is told at once."""
    print(f"warning: seed {session.config.seed} stops: {error}", file=sys.stderr)
    return type(error)(f"seed {session.config.seed}: {error}")


class _Turn:
    """A run whose turns alternate with others', and the state that torch's own generator has in them."""

    def __init__(self, session: TrainingSession) -> None:
        self.session = session
        self.hooks: list[Hook] = []
        with seeded_globally(session.config.seed, "run"):
            self._state = torch.get_rng_state()

    @contextlib.contextmanager
    def randomness(self) -> Iterator[None]:
        """Let what draws from torch's own generator draw what it would draw if the run were alone."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._state)
            yield
            self._state = torch.get_rng_state()


class _Group:
    """Runs at the same step, whose learners make their updates as one.

    Args:
        turns: The runs.
    """

    def __init__(self, turns: Sequence[_Turn]) -> None:
        self.turns = list(turns)
        self.failures: list[Failure] = []

    def run(self) -> dict[Path, Result]:
        """Make all updates and conclude each run."""
        results: dict[Path, Result] = {}
        with contextlib.ExitStack() as closing:
            bars = contextlib.ExitStack()
            closing.enter_context(bars)
            for index, turn in enumerate(self.turns):
                turn.session.announce()
                loggers = closing.enter_context(turn.session.logging())
                turn.hooks = bars.enter_context(turn.session.hooked(loggers, quiet=index > 0))
            self._update()
            for turn in list(self.turns):
                try:
                    with turn.randomness():
                        turn.session.conclude()
                        turn.session.elapsed = turn.session.log.elapsed
                except SourceStoppedError as error:
                    self.failures.append(_named(turn.session, error))
                    self.turns.remove(turn)
            bars.close()
            for turn in self.turns:
                with turn.randomness():
                    results[turn.session.folder.path] = turn.session.finish()
        return results

    def _update(self) -> None:
        first = self.turns[0].session
        config, last = first.config, first.steps
        whole = join([turn.session.learner for turn in self.turns])
        for step in range(first.step + 1, last + 1):
            metrics = apart(whole.update(self._sample()), len(self.turns))
            # Asked once: whoever is told to stop in between has parts of the whole that are older.
            stopping = asked.is_set()
            periods = (config.eval_every, config.checkpoint_every)
            due = stopping or step == last or any(every and step % every == 0 for every in periods)
            if due:
                part(whole)
            stops: list[StoppedEarly] = []
            failed = [
                turn
                for turn, row in zip(self.turns, metrics, strict=True)
                if not self._call(turn, step, row, due, stopping, stops)
            ]
            if stops:
                raise stops[0]
            if failed:
                whole = self._without(failed, whole)
                if not self.turns:
                    return

    def _call(self, turn: _Turn, step: int, row: Any, due: bool, stopping: bool, stops: list[StoppedEarly]) -> bool:
        """Call one run's hooks; false where it cannot go on."""
        hooks = turn.hooks if stopping else [hook for hook in turn.hooks if not isinstance(hook, StopHook)]
        try:
            with turn.randomness() if due else contextlib.nullcontext():
                try:
                    for hook in hooks:
                        hook(step, turn.session.learner, row)
                except SourceStoppedError as error:
                    raise turn.session.stopped(error) from error
        except StoppedEarly as stop:
            stops.append(stop)
        except (DivergedError, SourceStoppedError) as error:
            self.failures.append(_named(turn.session, error))
            return False
        return True

    def _without(self, failed: Sequence[_Turn], whole: Together) -> Together | Any:
        """The learner of those that are left."""
        part(whole)
        self.turns = [turn for turn in self.turns if turn not in failed]
        return join([turn.session.learner for turn in self.turns]) if self.turns else whole

    def _sample(self) -> Batch:
        """A batch of every run's own rows, drawn by its own generator and taken from the data at once."""
        sources = [turn.session.source for turn in self.turns]
        needs = self.turns[0].session.learner.needs
        drawn = []
        for source in sources:
            assert isinstance(source, DatasetSource)
            drawn.append(source.buffer.draw(source.batch_size, source.generator, needs))
        assert isinstance(sources[0], DatasetSource)
        return beside(sources[0].buffer.view(torch.cat(drawn), needs), len(sources)).check()
