"""Episode batches as PyMARL's runners fill them, and the flat numbers that are in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from foreign import Team


def batch_arrays(team: Team, time: int = 8, team_reward: bool = False) -> dict[str, np.ndarray]:
    """Padded to `time` rows; the last filled row holds what was seen, an action that never happened and reward 0."""
    episodes = len(team.lengths)
    first_row, first_step = (
        np.cumsum(np.add(team.lengths, 1)) - team.lengths - 1,
        np.cumsum(team.lengths) - team.lengths,
    )

    def padded(name: str, rows: bool) -> np.ndarray:
        values = team.held[name]
        out = np.zeros((episodes, time, *values.shape[1:]), values.dtype)
        for number, length in enumerate(team.lengths):
            begin = first_row[number] if rows else first_step[number]
            out[number, : length + rows] = values[begin : begin + length + rows]
        return out

    actions = padded("actions", rows=False)
    for number, length in enumerate(team.lengths):
        actions[number, length] = actions[number, 0]  # drawn at the last observation, never done
    rewards = padded("rewards", rows=False)
    filled = np.arange(time)[None] <= np.array(team.lengths)[:, None]
    held = {
        "obs": padded("obs", rows=True),
        "state": padded("state", rows=True),
        "actions": actions[..., None] if team.choices else actions,
        "reward": rewards[..., :1] if team_reward else rewards,
        "terminated": padded("terminals", rows=False)[..., :1].astype(np.uint8),
        "filled": filled[..., None].astype(np.int64),
    }
    if team.choices:
        held["avail_actions"] = padded("avail", rows=True).astype(np.int32)
        held["actions_onehot"] = np.eye(team.choices, dtype=np.float32)[actions]
    return held


def write_npy(folder: Path, arrays: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True)
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return folder
