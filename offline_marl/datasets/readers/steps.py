"""A recording from one row a step: what most published formats hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from offline_marl.core.types import DataError
from offline_marl.datasets.base import Recording
from offline_marl.datasets.flat import add_final_rows, followed, last_steps, lengths_of

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Steps:
    """Flat steps, one episode after another."""

    obs: Floats
    actions: Floats
    rewards: Floats
    terminations: Flags
    truncations: Flags
    """Also true where an episode ends for a reason that no flag told."""
    next_obs: Floats | None = None

    def recording(self, metadata: Mapping[str, Any]) -> Recording:
        """The recording; `dropped_steps` in its metadata counts last steps of which nobody knows what followed."""
        terminations, truncations = torch.from_numpy(self.terminations), torch.from_numpy(self.truncations).clone()
        lengths = lengths_of(terminations | truncations)
        last = last_steps(lengths)
        truncations[last] |= ~terminations[last]
        truncations &= ~terminations
        seen = torch.from_numpy(self.obs)
        done = {"actions": torch.from_numpy(self.actions), "rewards": torch.from_numpy(self.rewards)}
        done |= {"terminations": terminations, "truncations": truncations}
        if self.next_obs is not None:
            rows = add_final_rows(seen, torch.from_numpy(self.next_obs)[last], lengths)
            return Recording(rows, **done, lengths=lengths, metadata=metadata)
        keep, shorter = followed(lengths, terminations[last])
        kept_rows = add_final_rows(keep, shorter > 0, lengths)
        if not bool((shorter > 0).any()):
            raise DataError("No step of it says what followed.")
        done = {name: value[keep] for name, value in done.items()}
        lengths_left = shorter[shorter > 0]
        ends = last_steps(lengths_left)
        done["truncations"][ends] = ~done["terminations"][ends]
        state = add_final_rows(seen, seen[last], lengths)[kept_rows]
        return Recording(
            state, **done, lengths=lengths_left, metadata={**metadata, "dropped_steps": int((~keep).sum())}
        )


def breaks(obs: Floats, next_obs: Floats) -> Flags:
    """Steps after which the row that follows is not what followed: an episode ended there."""
    found = np.zeros(len(obs), dtype=np.bool_)
    gap = np.abs(next_obs[:-1] - obs[1:])
    found[:-1] = ~(gap <= 1e-5 + 1e-5 * np.abs(obs[1:])).all(axis=1)
    return found


def every(steps: int, ended: Flags) -> Flags:
    """Steps at which a clock of so many steps ends an episode, counted from each end."""
    lengths = np.diff(np.append(-1, np.append(np.flatnonzero(ended), len(ended) - 1)))
    first = np.cumsum(lengths) - lengths
    age = np.arange(len(ended)) - np.repeat(first, lengths)
    over: Flags = age % steps == steps - 1
    return over
