"""One training run of the headline, in a process of its own: learning is timed, scores are taken by both rules.

What it came to is left in the run folder as row.json and curve.json, from which the tables are collected.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from headline_plan import PROTOCOL, Job

import offline_marl
from offline_marl.core.learner import Learner
from offline_marl.core.types import Metrics
from offline_marl.environments.episodes import Episodes, episode_seeds, play
from offline_marl.environments.reacher import COSINES, SIDES, SINES, TARGET, read_arm, wrap
from offline_marl.runs import checkpoint
from offline_marl.runs.folder import write_json
from offline_marl.tasks.data_tasks import ScoredTask, open_task

COPIES = 50
Play = Callable[[Any, int], Episodes]


class Clock:
    """A hook that keeps the processor time of learning, and scores on the way outside of it.

    Args:
        play: Plays so many episodes.
        task: Says what agents settled on.
        every: Updates between scores.
    """

    name = "headline"

    def __init__(self, play: Play, task: ScoredTask, every: int) -> None:
        self.play, self.task, self.every = play, task, every
        self.seconds, self.curve = 0.0, list[dict[str, Any]]()
        self._since = time.process_time()

    def __call__(self, step: int, learner: Learner, metrics: Metrics) -> None:
        """Take the time, and now and then a score."""
        self._take()
        if step % self.every == 0:
            episodes = self.play(learner, PROTOCOL["episodes"]["curve"])
            self.curve.append({"updates": step, "cpu_s": round(self.seconds, 2), **figures(episodes, self.task)})
            self._since = time.process_time()

    def _take(self) -> None:
        now = time.process_time()
        self.seconds, self._since = self.seconds + now - self._since, now

    def state_dict(self) -> dict[str, Any]:
        """So that a run that was stopped goes on counting."""
        return {"seconds": self.seconds, "curve": self.curve}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on."""
        self.seconds, self.curve, self._since = state["seconds"], list(state["curve"]), time.process_time()


def figures(episodes: Episodes, task: ScoredTask) -> dict[str, float | None]:
    """Mean return, normalised too, and agreement by both rules, where there is something to agree on."""
    returned = float(episodes.returns.mean())
    found: dict[str, float | None] = {"return": round(returned, 4), "normalized_return": None}
    if task.reference is not None:
        found["normalized_return"] = round(task.reference.normalized(returned), 3)
    conventions = None if episodes.ends is None else task.conventions(episodes.ends)
    if conventions is not None:
        found["agreement"] = float(conventions.agreed.mean())
        reacher = task.partition is not None and task.partition.scenario == "reacher"
        found["agreement_strict"] = float(settled(episodes.ends).mean()) if reacher else found["agreement"]
    return found


def settled(ends: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
    """Whether both joints end within a third of the gap between the two experts' poses from the same one of them.

    Args:
        ends: Last states of Reacher's episodes.
    """
    exact = ends.astype(np.float64)
    angles = np.arctan2(exact[:, SINES], exact[:, COSINES])
    arm = read_arm()
    poses = np.stack([arm.angles(exact[:, TARGET], side) for side in SIDES.values()])
    off, gap = angles - poses, poses[0] - poses[1]
    off[..., 0], gap[..., 0] = wrap(off[..., 0]), wrap(gap[..., 0])
    close: npt.NDArray[np.bool_] = (np.abs(off) <= np.abs(gap) / 3).all(axis=-1).any(axis=0)
    return close


def carry_out(job: Job, folder: Path) -> None:
    """Train, or go on, and leave the row and the curve."""
    torch.set_num_threads(1)
    task = open_task(job.dataset)
    env = task.make_envs(COPIES, 1)
    assert env is not None, f"no environment belongs to {job.dataset}"

    def played(starts: int) -> Play:
        return lambda learner, episodes: play(learner, env, episode_seeds(starts, episodes))

    every = max(job.updates // PROTOCOL["episodes"]["points"], 1)
    clock = Clock(played(PROTOCOL["starts"]["curve"]), task, every)
    if folder.exists() and not checkpoint.found(folder / "checkpoints"):
        shutil.rmtree(folder)  # The clock is in the checkpoints: what was learned before the first one is timed anew.
    if folder.exists():
        result = offline_marl.resume(folder, hooks=[clock])
    else:
        quiet = {"checkpoint_every": every, "log_every": min(every, 100)}
        given = {**quiet, **job.fields}
        result = offline_marl.train(job.setting.algorithm, job.dataset, out=folder, hooks=[clock], **given)
    assert result.score is not None
    episodes = played(job.starts)(result.algorithm, PROTOCOL["episodes"]["score"])
    assert np.array_equal(episodes.returns, result.score.returns), "the same starts give the same episodes"
    row = {
        "stage": job.stage,
        "dataset": job.dataset,
        "learner": job.setting.learner,
        "setting": job.setting.label,
        "factor": job.factor,
        "seed": job.seed,
        "starts": job.starts,
        "updates": job.updates,
        **figures(episodes, task),
        "low": round(result.score.low, 4),
        "high": round(result.score.high, 4),
        "episodes": len(episodes.returns),
        "cpu_s": round(clock.seconds, 1),
        "commit": json.loads((folder / "versions.json").read_text())["commit"],
        "command": job.command,
    }
    write_json(folder / "curve.json", {"points": clock.curve})
    write_json(folder / "row.json", row)
    print(f"{job.key}: {row['normalized_return']}, agreement {row.get('agreement')}", file=sys.stderr)
