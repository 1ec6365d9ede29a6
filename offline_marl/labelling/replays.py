"""Episodes played again from their seeds, for environments that draw but cannot be put into a recorded state.

Data that `collect` recorded names each episode's seed. What is played is compared with what was recorded, so that
nobody is shown another episode than the one that the answer is about.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.episode_index import starts
from offline_marl.environments.base import Frame, JointEnv, NoPictureError
from offline_marl.environments.painting import FPS, Color
from offline_marl.preferences.pairs import SegmentKey

NEAR = 1e-3
"""By which observations may differ from the recorded ones."""


class Replays:
    """Recorded episodes and one copy of their environment.

    Args:
        data: The recording.
        env: Draws pictures.

    Raises:
        NoPictureError: The data does not name its seeds, or its environment draws nothing.
    """

    def __init__(self, data: Dataset, env: JointEnv) -> None:
        seeds = data.metadata.get("seeds")
        if not isinstance(seeds, list) or len(seeds) != len(data.lengths) or not hasattr(env, "render"):
            raise NoPictureError(
                "The data does not name the seeds of its episodes, so that they cannot be played again."
            )
        self.data, self.env, self.seeds = data, env, [int(seed) for seed in seeds]
        self._first = starts(data.lengths)

    @property
    def fps(self) -> float:
        """Steps in a second."""
        return float(getattr(self.env, "fps", FPS))

    def frames(self, key: SegmentKey, colors: Sequence[Color], every: int) -> list[Frame]:
        """Pictures of a segment's states, every so many steps.

        Raises:
            DataError: The episode does not go as it was recorded.
        """
        if hasattr(self.env, "paint"):
            self.env.paint(list(colors))
        first = int(self._first[key.episode])
        seen = self.env.reset([self.seeds[key.episode]])
        made = list[Frame]()
        for step in range(key.start + key.length):
            self._refuse_other(seen.obs[0], first + key.episode + step)
            if step >= key.start and (step - key.start) % every == 0:
                made.append(self.env.render())
            if step + 1 < key.start + key.length:
                seen = self.env.step(self.data.actions[first + step].unsqueeze(0).numpy())[0]
        return made

    def _refuse_other(self, obs: np.ndarray, row: int) -> None:
        recorded: torch.Tensor = self.data.obs[row]
        if not np.allclose(obs, recorded.numpy(), atol=NEAR, rtol=NEAR):
            raise DataError("The episode does not go as it was recorded, with the versions that are installed here.")
