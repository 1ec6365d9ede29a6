"""A training run: an algorithm learns from its source, is scored on the way, and ends with its score and picture."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offline_marl.algorithms.base import Algorithm
from offline_marl.algorithms.compiled import CompiledUpdate, compilable
from offline_marl.core.attempts import attempt
from offline_marl.core.errors import sentence
from offline_marl.core.seeding import derive
from offline_marl.core.types import Batch, Metrics, Source
from offline_marl.datasets.buffer import refuse_long_window
from offline_marl.datasets.normalize import obs_statistics
from offline_marl.environments.base import Conventions
from offline_marl.environments.checks import BadNumbersError
from offline_marl.environments.guarded import EnvironmentFailedError
from offline_marl.environments.scores import Score, summarize
from offline_marl.runs import checkpoint
from offline_marl.runs.combinations import plays
from offline_marl.runs.config import RunConfig
from offline_marl.runs.devices import pick_device
from offline_marl.runs.folder import Folder, RunFolder, RunFolderError, final_state, restoring
from offline_marl.runs.loading import make_algorithm, take_over
from offline_marl.runs.loggers import Logger
from offline_marl.runs.pins import pin
from offline_marl.tasks.data_tasks import ScoredTask, Task
from offline_marl.tasks.scoring import describe_data, make_scorer, mean_return_of
from offline_marl.training.coded_run import CodedRun
from offline_marl.training.loop import BudgetHook, EvaluateHook, Hook, SourceStoppedError, refuse_unfinite
from offline_marl.training.preferences.course import RewardCourse
from offline_marl.training.preferences.live_reward import LiveReward
from offline_marl.training.preferences.paid_sources import is_paid_while_acting, make_live_reward, plan_paid
from offline_marl.training.preferences.pair_source import plan_pairs
from offline_marl.training.preferences.relabel import freeze, learned_reward
from offline_marl.training.rewards import Replacement, Rewards
from offline_marl.training.run_picture import draw_run
from offline_marl.training.session import Session, restore_hooks, stateful
from offline_marl.training.sources.choose import plan_source
from offline_marl.training.sources.online import environment_name
from offline_marl.training.sources.online_model import OnlineModelSource


@dataclass(frozen=True)
class Result:
    """Outcome of a finished run: its algorithm, score and picture."""

    folder: Path
    algorithm: Algorithm
    score: Score | None
    """None where no environment belongs to the data."""
    picture: Path | None
    """None where there is no score, or no picture could be drawn."""

    def __repr__(self) -> str:
        kind = type(self.algorithm).__name__
        return f"Result({kind} in {str(self.folder)!r}: {'no score' if self.score is None else self.score})"


class TrainingSession(Session[RunConfig, Result]):
    """An algorithm that learns and is scored.

    Args:
        folder: The run folder, held by this process.
        config: The run's settings.
        task: Its data and environment.
        learner: The algorithm, freshly made from the seed.
        loggers: Besides those that the settings name.
        hooks: Besides evaluation.
    """

    learner_key = "algorithm"
    learner: Algorithm
    folder: RunFolder

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        task: Task,
        learner: Algorithm,
        loggers: Sequence[Logger] = (),
        hooks: Sequence[Hook] = (),
    ) -> None:
        super().__init__(folder, config, config.algorithm, config.steps, loggers, hooks)
        self.task, self.learner = task, learner
        learner.place(self.device, derive(config.seed, "exploration"))
        most, named = max(config.eval_episodes, config.final_episodes), config.environment is not None
        # Before any model is fitted: who named an environment that is not here has lost nothing.
        score = make_scorer(
            task,
            config.eval_seed,
            most,
            self.device,
            config.workers,
            named=named and not folder.done,
            seconds=config.environment_timeout,
            name=environment_name(config, task),
        )
        self.score = score
        replacement = None if folder.done else self._replacement()
        for what, version in {} if folder.done else task.opponents.items():
            pin(folder, what, version)
        scale, bias = learner.config.reward_scale, learner.config.reward_bias
        self.rewards = Rewards(task.data, scale, replacement, self.device, bias)
        self._fit_to_data()
        self.course: RewardCourse | None = None
        if not folder.done:
            self._plan(replacement)
        play = None if score is None else lambda: score(learner, config.eval_episodes)
        self.evaluating = EvaluateHook(play, config.eval_every, config.steps, self.log)
        self.own_hooks = {"evaluation": self.evaluating}
        self.coded = None if config.engine is None and config.answers_of is None else CodedRun(config, folder, learner)
        if self.coded is not None:
            self.own_hooks["coded"] = self.coded
        self.make_update: Callable[[Batch], Metrics] = learner.update
        if config.compile and not folder.done:
            graphs = config.cuda_graphs
            self.make_update = CompiledUpdate(compilable(config.algorithm, learner, graphs), graphs)
        if plays(config, learner.needs):
            self.log.counts = self._counts
        # Of on-policy learners an update plays as much as whole episodes ask for: how many there are shows in the end.
        self.at_most = config.environment_steps is not None and learner.needs.origin == "environment"
        self.final: Score | None = None

    @property
    def title(self) -> str:
        return f"{self.name} on {self.task.id}"

    def _replacement(self) -> Replacement | None:
        """What stands for the environment's rewards, if anything does."""
        if is_paid_while_acting(self.config):
            return make_live_reward(self.config, self.task, self.device)
        return learned_reward(self.config, self.folder, self.task, self.device)

    def _fit_to_data(self) -> None:
        """Give the learner what it takes from its data and from the run that it begins with."""
        learner, settings, data = self.learner, self.learner.config, self.task.data
        if settings.standardize_obs:
            learner.standardize(*obs_statistics(data, growing=not self.task.recorded))
        if settings.clip_target:
            learner.cap_targets(*self.rewards.best_values(settings.gamma))
        refuse_long_window(data.lengths, learner.window, learner.inputs.reach)
        if self.config.init is not None and not checkpoint.found(self.folder.checkpoints):
            take_over(learner, RunFolder(self.config.init), self.config)

    def _plan(self, replacement: Replacement | None) -> None:
        """Refuse what can be refused of its source before the run begins, and know how it is made."""
        config, folder, task, learner = self.config, self.folder, self.task, self.learner
        if isinstance(replacement, LiveReward):
            self.course, self._make_source = plan_paid(config, folder, task, self.rewards, learner)
        elif learner.needs.view == "pairs":
            self._make_source = plan_pairs(config, folder, task, learner)
        else:
            self._make_source = plan_source(config, folder, task, self.rewards, learner)

    def _counts(self) -> dict[str, int]:
        counted = {"environment_steps": self.learner.environment_steps}
        if self.course is not None and self.course.questions is not None:
            counted |= {"labels": self.course.labels, "reward_version": self.course.reward.version}
        return counted

    def make_source(self) -> Source:
        freeze(self.folder, self.config, self.rewards, self.task.data)
        return self._make_source()

    def updating(self) -> AbstractContextManager[Callable[[Batch], Metrics]]:
        if self.coded is not None:
            return self.coded.updating(self.source)
        source = self.source
        if not isinstance(source, OnlineModelSource):
            return nullcontext(self.make_update)
        return nullcontext(lambda batch: {**self.make_update(batch), **source.metrics})

    def announce(self) -> None:
        super().announce()
        if outside := self.task.data.metadata.get("clipped_actions"):
            total = self.task.data.actions.numel()
            print(f"warning: {outside:,} of {total:,} action entries lay outside [-1, 1]: clipped.", file=sys.stderr)
        for caution in self.learner.cautions(self._clock, self.steps):
            print(f"warning: {caution}", file=sys.stderr)

    @property
    def _clock(self) -> float | None:
        """Mean steps of recorded episodes that the clock alone ends; None of others."""
        data = self.task.data
        recorded = self.config.dataset is not None and not bool(data.terminations.any())
        return float(data.lengths.double().mean()) if recorded else None

    def hooks_behind(self) -> list[Hook]:
        steps = self.config.environment_steps or 0
        budget = [BudgetHook(steps, lambda: self.learner.environment_steps)] if self.at_most else []
        return [*budget, self.evaluating.refuse_failure]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if self.ended:  # it has made its updates; its score may be missing
            self.learner.environment_steps = state["source"]["environment_steps"]
            self.steps, self.ended = self.step, False

    def conclude(self) -> None:
        self.steps = max(self.step, self.log.last)
        if self.course is not None:
            self.course.warn_of_nothing_learnt()
        if self.at_most:
            self.log.flush(self.steps)
            refuse_unfinite(self.learner, self.steps)
            self.ended = True
            self.save(self.steps)
        if self.score is not None:
            try:
                self.final = self.score(self.learner, self.config.final_episodes)
            except (EnvironmentFailedError, BadNumbersError) as error:
                raise SourceStoppedError(
                    f"{sentence(error)} The run has made its updates and is saved: `resume` scores it."
                ) from error
            self.evaluating.note(self.steps, self.final)

    def finish(self) -> Result:
        score, data = self.final, self.task.data
        summary: dict[str, Any] = {"steps": self.steps, **self.log.counts(), "wall_s": round(self.elapsed, 2)}
        summary["best"] = self.evaluating.history["best"]
        if score is not None:
            summary |= {"score": score.row(), "returns": score.returns.tolist(), "data": describe_data(data)}
            if self.task.recorded:
                summary["data"] |= mean_return_of(data, self.task.data_reference)
            summary |= {"versions": dict(score.versions or {}), "versions_differ": score.other_versions}
            if score.conventions is not None:
                summary["conventions"] = score.conventions.plain()
        self.folder.finish(summary)
        return Result(self.folder.path, self.learner, score, None if score is None else self._draw(score))

    def _draw(self, score: Score) -> Path | None:
        title = f"{self.title}, seed {self.config.seed}"
        return attempt(lambda: draw_run(self.folder.path, title, score), "picture")

    def read(self) -> Result:
        return _result_of(self.folder, self.learner, self.task)


def read_finished(folder: RunFolder, config: RunConfig, task: ScoredTask, hooks: Sequence[Hook] = ()) -> Result:
    """Read what a run that is over came to, and the states of its hooks, from its folder alone.

    Raises:
        RunFolderError: Its files are damaged, or its checkpoints are gone.
    """
    torch.set_num_threads(config.threads)
    learner = make_algorithm(config, task.spec)
    learner.place(pick_device(config.device), derive(config.seed, "exploration"))
    state = final_state(folder)
    with restoring(folder.path):
        learner.load_state_dict(state[TrainingSession.learner_key])
    restore_hooks(stateful(hooks), state)
    return _result_of(folder, learner, task)


def _result_of(folder: Folder[RunConfig], learner: Algorithm, task: ScoredTask) -> Result:
    summary = folder.summary()
    try:
        conventions = Conventions.from_plain(summary["conventions"]) if summary.get("conventions") else None
    except (LookupError, TypeError, ValueError):
        raise RunFolderError(f"{folder.done_file} was damaged or edited: its conventions cannot be read.") from None
    returns = summary.get("returns")
    score = None if returns is None else summarize(np.array(returns, np.float64), task.reference, conventions)
    if score is not None:
        differ, played = summary.get("versions_differ"), summary.get("versions")
        others = None if differ is None else tuple(differ)
        steps = summary.get("environment_steps")
        score = replace(
            score, random_return=task.uniform_return, other_versions=others, versions=played, environment_steps=steps
        )
    picture = folder.path / "picture.png"
    return Result(folder.path, learner, score, picture if picture.exists() else None)
