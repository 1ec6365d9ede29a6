"""An episode of a run as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from offline_marl.core.types import DataError
from offline_marl.training.evaluation import Memory, episode_seeds, seen_tensors
from offline_marl.training.folder import RunFolder
from offline_marl.training.run import load, task_of


@torch.no_grad()
def frames(run: str | Path, seed: int = 0, *, every: int = 1, explore: bool = False) -> npt.NDArray[np.uint8]:
    """What one episode of a run's newest checkpoint looks like, drawn off screen.

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
    folder = RunFolder(run)
    policy = load(run)
    env = task_of(folder).make_env(1)
    if env is None:
        raise DataError(f"{folder.path} cannot be shown: no environment belongs to its data.")
    if not hasattr(env, "render"):
        raise DataError(f"{folder.path} cannot be shown: its environment has no picture.")
    try:
        seen = env.reset(episode_seeds(seed, 1))
        memory, shown = Memory(env.spec, policy.window, 1, "cpu"), [env.render()]
        for step in range(1, env.max_steps + 1):
            obs, avail = seen_tensors(seen, "cpu")
            actions = policy.act(obs, history=memory.history, avail_actions=avail, explore=explore)
            memory.remember(obs, actions)
            seen, _, terminations, truncations = env.step(actions.numpy())
            over = bool(terminations[0] or truncations[0])
            if over or step % every == 0:
                shown.append(env.render())
            if over:
                break
        return np.stack(shown)
    finally:
        env.close()
