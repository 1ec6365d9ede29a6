"""One process's work on a run: objects wired from its settings, restored, run to the score."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.core.config import build
from offline_marl.core.progress import progress_bar
from offline_marl.core.reference import Reference
from offline_marl.core.seeding import derive, seeded_globally
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import refuse_long_window
from offline_marl.datasets.normalize import obs_statistics
from offline_marl.environments.base import Conventions, MissingSimulatorError
from offline_marl.environments.episodes import episode_seeds, play
from offline_marl.environments.scores import Score, summarize
from offline_marl.runs import checkpoint
from offline_marl.runs.config import RunConfig
from offline_marl.runs.devices import pick_device
from offline_marl.runs.folder import RunFolder, RunFolderError, newest_state
from offline_marl.runs.log_files import asked_loggers, loggers_of
from offline_marl.runs.loggers import Logger
from offline_marl.training.environment_tasks import versions_of
from offline_marl.training.loop import CheckpointHook, EvaluateHook, Hook, LogHook, StopHook, train
from offline_marl.training.rewards import Rewards
from offline_marl.training.run_picture import draw_run
from offline_marl.training.sources.choose import plan_source
from offline_marl.training.tasks import Task

MOST_COPIES = 50
"""Copies of a simulator that step side by side in an evaluation."""

Scorer = Callable[[Algorithm, int], Score]


@dataclass(frozen=True)
class Result:
    """What a finished run gives back."""

    folder: Path
    algorithm: Algorithm
    score: Score | None
    """None where no environment belongs to the data."""
    picture: Path | None
    """None where there is no score or matplotlib is not installed."""


class Session:
    """Everything a run needs, in one process.

    Args:
        folder: The run folder, held by this process.
        config: The run's settings.
        task: Its data and environment.
        learner: The algorithm, freshly made from the seed.
        loggers: Besides those that the settings name.
    """

    def __init__(
        self, folder: RunFolder, config: RunConfig, task: Task, learner: Algorithm, loggers: Sequence[Logger] = ()
    ) -> None:
        self.folder = folder
        self.config = config
        self.task = task
        self.learner = learner
        self.loggers = [] if folder.done else asked_loggers(config, loggers)
        torch.set_num_threads(config.threads)
        device = pick_device(config.device)
        learner.place(device, derive(config.seed, "exploration"))
        settings = learner.config
        rewards = Rewards(task.data, settings.reward_scale, device=device)
        if settings.standardize_obs:
            learner.standardize(*obs_statistics(task.data))
        if settings.clip_target:
            learner.cap_targets(*rewards.best_values(settings.gamma))
        refuse_long_window(task.data.lengths, learner.window)
        if config.init is not None and not checkpoint.found(folder.checkpoints):
            take_over(learner, RunFolder(config.init))
        if not folder.done:
            self.make_source = plan_source(config, folder, task, rewards, learner)
        most = max(config.eval_episodes, config.final_episodes)
        self.score = make_scorer(task, config.eval_seed, most, device, config.workers)

    def run(self) -> Result:
        """Go from the newest checkpoint, or the beginning, to the score."""
        # Seeded for algorithms that draw from torch's own generator, which the caller gets back as it was.
        with seeded_globally(self.config.seed, "run"):
            return self._finished() if self.folder.done else self._go_on()

    def _take_up(self) -> dict[str, Any]:
        """The source made and everything restored: step, seconds so far, scores so far, metrics that are pending."""
        self.source = self.make_source()
        state = self._restore()
        if state is None:
            return {"step": 0, "elapsed": 0.0, "evaluation": {}, "log": {"pending": []}}
        self.source.load_state_dict(state["source"])
        checkpoint.restore_torch(state)
        return {"log": {"pending": []}, **state}

    def _go_on(self) -> Result:
        config = self.config
        stood = self._take_up()
        start = stood["step"]
        left = f"{config.steps - start:,} of {config.steps:,} updates"
        print(
            f"{config.algorithm} on {self.task.id}: {left} on {config.device}, in {self.folder.path}", file=sys.stderr
        )
        if outside := self.task.data.metadata.get("clipped_actions"):
            total = self.task.data.actions.numel()
            print(f"warning: {outside:,} of {total:,} action entries lay outside [-1, 1]: clipped.", file=sys.stderr)
        loggers = loggers_of(config, self.folder.path, start, config.steps, self.loggers)
        with contextlib.ExitStack() as stack:
            for logger in loggers:
                stack.callback(logger.close)
            bar = stack.enter_context(progress_bar(config.steps, config.algorithm, "update", initial=start))
            log = LogHook(loggers, config.log_every, bar, stood["elapsed"])
            log.load_state_dict(stood["log"], config.device)
            score = self.score
            evaluating = EvaluateHook(
                (lambda: score(self.learner, config.eval_episodes)) if score else None,
                config.eval_every,
                config.steps,
                log,
            )
            evaluating.history.update(stood["evaluation"])

            def save(step: int) -> None:
                state = {
                    "algorithm": self.learner.state_dict(),
                    "source": self.source.state_dict(),
                    "evaluation": evaluating.history,
                    "log": log.state_dict(),
                    "elapsed": log.elapsed,
                }
                checkpoint.save(self.folder.checkpoints, step, state, config.keep_checkpoints)

            saving = CheckpointHook(save, config.checkpoint_every, config.steps, log)
            hooks: list[Hook] = [log, evaluating, saving, StopHook(save, config.steps, log)]
            train(self.learner, self.source, hooks, range(start + 1, config.steps + 1))
            final = score(self.learner, config.final_episodes) if score else None
            if final is not None:
                evaluating.note(config.steps, final)
        return self._finish(final, evaluating.history, log.elapsed)

    def _restore(self) -> dict[str, Any] | None:
        state = newest_state(self.folder)
        if state is not None:
            self.learner.load_state_dict(state["algorithm"])
        return state

    def _finish(self, score: Score | None, history: Mapping[str, Any], elapsed: float) -> Result:
        picture = None
        summary: dict[str, Any] = {"steps": self.config.steps, "wall_s": round(elapsed, 2), "best": history["best"]}
        if score is not None:
            title = f"{self.config.algorithm} on {self.task.id}, seed {self.config.seed}"
            picture = draw_run(self.folder.path, title, score)
            summary |= {"score": score.row(), "returns": score.returns.tolist(), "data": told_of(self.task.data)}
            if self.task.world is None:
                summary["data"] |= mean_return_of(self.task.data, self.task.reference)
            summary |= {"versions": dict(score.versions or {}), "versions_differ": score.other_versions}
            if score.conventions is not None:
                summary["conventions"] = score.conventions.plain()
        self.folder.finish(summary)
        return Result(self.folder.path, self.learner, score, picture)

    def _finished(self) -> Result:
        self._restore()
        summary = json.loads(self.folder.done_file.read_text(encoding="utf-8"))
        found = Conventions.from_plain(summary["conventions"]) if "conventions" in summary else None
        score = summarize(np.array(summary["returns"]), self.task.reference, found) if "returns" in summary else None
        if score is not None:
            differ, played = summary.get("versions_differ"), summary.get("versions")
            others = None if differ is None else tuple(differ)
            score = replace(score, random_return=self.task.random_return, other_versions=others, versions=played)
        picture = self.folder.path / "picture.png"
        return Result(self.folder.path, self.learner, score, picture if picture.exists() else None)


def take_over(learner: Algorithm, folder: RunFolder) -> None:
    """Begin with another run's networks of the same name.

    Raises:
        RunFolderError: It holds no checkpoint, or no network of the same name, kind and shape.
    """
    config = folder.config()
    kind = algorithms.get(config.algorithm)
    with seeded_globally(config.seed, "initialisation"):
        other = kind(build(kind.Config, config.settings), learner.spec)
    state = newest_state(folder)
    if state is None:
        raise RunFolderError(f"{folder.path} holds no checkpoint yet.")
    own = {name: module.state_dict() for name, module in learner.named_children() if not name.startswith("target_")}
    found = {
        name: {
            key.removeprefix(f"{name}."): value
            for key, value in state["algorithm"].items()
            if key.startswith(f"{name}.")
        }
        for name in own
    }
    taken = [name for name in own if own[name] and found[name]]
    for name in taken:
        kinds = [type(getattr(each, name)).__name__ for each in (learner, other)]
        if kinds[0] != kinds[1]:
            raise RunFolderError(f"The {name} of {folder.path} is of another kind ({kinds[1]}, not {kinds[0]}).")
        shapes = [{key: tuple(value.shape) for key, value in each[name].items()} for each in (own, found)]
        if shapes[0] != shapes[1]:
            raise RunFolderError(
                f"The {name} of {folder.path} has another shape: give both runs the same hidden, window ..."
            )
        for module in (getattr(learner, name), getattr(learner, f"target_{name}", None)):
            if module is not None:
                module.load_state_dict(found[name])
    if not taken:
        raise RunFolderError(f"{folder.path} holds no network that this algorithm has too ({', '.join(own)}).")
    print(f"begins with {', '.join(taken)} of {folder.path}", file=sys.stderr)


def make_scorer(task: Task, seed: int, most: int, device: torch.device | str, workers: int = 1) -> Scorer | None:
    """A function that plays episodes in the task's environment; None, with a warning, where there is none."""
    try:
        env = task.make_envs(min(MOST_COPIES, most), workers)
    except MissingSimulatorError as error:
        print(f"warning: no scores: {error}", file=sys.stderr)
        return None
    if env is None:
        print(f"warning: no scores: no environment belongs to {task.id}.", file=sys.stderr)
        return None

    versions = versions_of(env)
    others = other_versions(task.data.metadata.get("versions"), versions)
    if others:
        print(f"warning: {task.id} was recorded with {'; '.join(others)}: scores may differ.", file=sys.stderr)

    def score(learner: Algorithm, episodes: int) -> Score:
        played = play(learner, env, episode_seeds(seed, episodes), device)
        found = None if played.ends is None else task.conventions(played.ends)
        summed = summarize(played.returns, task.reference, found)
        return replace(summed, random_return=task.random_return, other_versions=others, versions=versions)

    return score


def other_versions(then: Mapping[str, Any] | None, now: Mapping[str, str]) -> tuple[str, ...] | None:
    """What is not as it was, of all that both name: simulators and the environment's id.

    Returns:
        Such as `("mujoco 3.2.0, now 4.0.0",)`; None where nothing can be compared.
    """
    both = [name for name in now if name in (then or {})]
    if not then or not both:
        return None
    return tuple(f"{name} {then[name]}, now {now[name]}" for name in both if str(then[name]) != now[name])


def told_of(data: Dataset) -> dict[str, Any]:
    """What scores repeat of the data behind them; what is not known is left out."""
    about = data.metadata
    versions = dict(about.get("versions") or {})
    told = {
        "name": about.get("name"),
        "sha256": about.get("sha256"),
        "env_id": versions.pop("env_id", None) or about.get("scenario"),
        "versions": versions or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def mean_return_of(data: Dataset, reference: Reference | None) -> dict[str, Any]:
    """What the episodes of the data return in the mean, to stand beside scores."""
    mean = float(data.returns().double().mean())
    normalized = None if reference is None else reference.normalized(mean)
    return {"return": mean, "normalized_return": normalized, "episodes": len(data.lengths)}
