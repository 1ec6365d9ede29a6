from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offline_marl.core.types import DataError
from offline_marl.datasets.readers.convert import fingerprint, load_place
from offline_marl.tasks.data_tasks import load_recording, open_task

EPISODES, LENGTH = 6, 5


def reacher_arrays(seed: int = 0, episodes: int = EPISODES, length: int = LENGTH) -> dict[str, np.ndarray]:
    """The dict that the published pickles hold."""
    draw, steps = np.random.default_rng(seed), episodes * length
    rows = draw.standard_normal((episodes, length + 1, 11)).astype(np.float32)
    rows[..., 10] = 0
    timed = np.ones((episodes, length, 1), np.float32)
    timed[:, -1] = 0
    return {
        "observations": rows[:, :-1].reshape(steps, 11),
        "actions": draw.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "rewards": draw.standard_normal((steps, 1)).astype(np.float32),
        "masks": np.ones((steps, 1), np.float32),
        "next_observations": rows[:, 1:].reshape(steps, 11),
        "time_out_masks": timed.reshape(steps, 1),
    }


def written(path: Path, arrays: dict[str, Any], protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(arrays, protocol))
    return path


@pytest.mark.parametrize("name", ["dataset.pkl", "mix.pt"])
def test_a_published_pickle_is_a_task(tmp_path: Path, name: str) -> None:
    held = reacher_arrays()
    path = written(tmp_path / name, held)
    task = open_task(f"{path}_2x1notip_0")
    assert task.data.spec.n_agents == 2 and task.data.lengths.tolist() == [LENGTH] * EPISODES
    assert task.data.truncations.sum() == 2 * EPISODES and not task.data.terminations.any()
    data = load_recording(str(path))
    assert data.state.shape == (EPISODES * (LENGTH + 1), 10), "what is always 0 is left out, as the simulator does"
    np.testing.assert_array_equal(data.state[LENGTH], held["next_observations"][LENGTH - 1, :10])
    np.testing.assert_array_equal(data.rewards, held["rewards"][:, 0])
    assert data.metadata["source_sha256"] == fingerprint(path) != data.metadata["sha256"]


def test_masks_end_episodes(tmp_path: Path) -> None:
    held = reacher_arrays()
    held["masks"][LENGTH - 1] = 0
    data = load_place(written(tmp_path / "x.pkl", held))
    assert data.terminations.nonzero().tolist() == [[LENGTH - 1]] and int(data.truncations.sum()) == EPISODES - 1


def test_a_break_that_no_mask_told_is_counted(tmp_path: Path) -> None:
    held = reacher_arrays()
    held["time_out_masks"][LENGTH - 1] = 1
    data = load_place(written(tmp_path / "x.pkl", held))
    assert data.lengths.tolist() == [LENGTH] * EPISODES and "1 breaks" in data.metadata["episodes_end"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"masks": None}, "lacking: masks"),
        ({"rewards": np.zeros((29, 1), np.float32)}, r"'rewards' has shape \(29, 1\)"),
        ({"masks": np.full((30, 1), 0.5, np.float32)}, "'masks' should hold 0 and 1"),
        ({"observations": np.ones((30, 11), np.float32)}, "eleventh number of this Reacher is not 0"),
        ({"actions": np.full((30, 2), 2.0, np.float32)}, "outside"),
        ({"observations": np.float32(1)}, "lacking: observations"),
    ],
)
def test_broken_content_is_one_sentence(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = written(tmp_path / "x.pkl", {**reacher_arrays(), **change})
    with pytest.raises(DataError, match=said) as refusal:
        load_place(path)
    assert "\n" not in str(refusal.value)
