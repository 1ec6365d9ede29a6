"""Rendered episodes of a run: one frame a step, with the return so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from offline_marl.core.types import DataError, Policy
from offline_marl.environments.base import Frame, JointEnv
from offline_marl.environments.episodes import PolicyController, episode_seeds, run_episodes
from offline_marl.environments.guarded import Guarded
from offline_marl.environments.painting import Color
from offline_marl.runs.config import NO_CHOICE, EnvironmentChoice
from offline_marl.runs.folder import RunFolder
from offline_marl.tasks.run_tasks import scored_task_of
from offline_marl.training.run import load


@dataclass(frozen=True, slots=True)
class EpisodeFrame:
    """A rendered state of an episode, with its place in it."""

    picture: Frame
    episode: int
    """From 0."""
    step: int
    """Steps done; 0 is the start."""
    earned: float
    """Return so far, averaged over agents."""
    last: bool
    """Whether the episode ends here."""


def frames(run: str | Path, seed: int = 0, *, every: int = 1, explore: bool = False) -> npt.NDArray[np.uint8]:
    """Render one episode of a run's newest checkpoint, off screen.

    Args:
        run: The run folder.
        seed: Decides how it starts: as the first episode of `evaluate` with this seed.
        every: Steps from one picture to the next; the first and the last state are always shown.
        explore: Whether agents draw their actions, instead of taking the likeliest.

    Returns:
        Pictures [time, height, width, 3].

    Raises:
        RunFolderError: The folder holds no run or no readable checkpoint.
        DataError: There is nothing to act in, or it has no picture.
        MissingSimulatorError: The simulator, or a library that draws off screen, is not installed.
    """
    policy, env = open_for_rendering(run)
    try:
        return np.stack(
            [frame.picture for frame in episode_frames(policy, env, episode_seeds(seed, 1), every, explore)]
        )
    finally:
        env.close()


def open_for_rendering(
    run: str | Path, colors: Sequence[Color] = (), choice: EnvironmentChoice = NO_CHOICE
) -> tuple[Policy, JointEnv]:
    """Load a run's newest checkpoint and open one copy of its environment, which the caller closes.

    Args:
        run: The run folder.
        colors: Those of the agents, where the environment can show them, the first again after the last one.
        choice: Another environment than the run's, or permission to import its own.

    Raises:
        RunFolderError: The folder holds no run or no readable checkpoint.
        DataError: There is nothing to act in, or it has no picture.
    """
    folder = RunFolder(run)
    policy = load(run)
    task = scored_task_of(folder, choice)
    env = task.make_env(1)
    if env is None:
        raise DataError(f"{folder.path} cannot be shown: no environment belongs to its data; {task.hint}.")
    if not hasattr(env, "render"):
        raise DataError(f"{folder.path} cannot be shown: its environment has no picture.")
    if colors and hasattr(env, "paint"):
        env.paint([colors[agent % len(colors)] for agent in range(env.spec.n_agents)])
    return policy, Guarded(env, task.called)


def episode_frames(
    policy: Policy, env: JointEnv, seeds: Sequence[int], every: int = 1, explore: bool = False
) -> Iterator[EpisodeFrame]:
    """Play one episode per seed and render it; the first and the last state are always shown.

    Raises:
        DataError: The environment has no picture.
        MissingSimulatorError: A library that draws off screen is not installed.
    """
    for episode, seed in enumerate(seeds):
        # The episode begins with the call, and its first step waits for the first picture.
        steps = run_episodes(env, [seed], PolicyController(policy, env.spec, 1, explore=explore))
        earned = 0.0
        yield EpisodeFrame(env.render(), episode, 0, earned, last=False)
        for number, step in enumerate(steps, start=1):
            earned += float(step.rewards.mean(dtype=np.float64))
            over = bool(step.ended[0])
            if over or number % every == 0:
                yield EpisodeFrame(env.render(), episode, number, earned, over)
