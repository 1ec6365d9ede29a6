"""OMAR's folders, written as its loader reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from foreign import LENGTHS, Team, omar_arrays, write_omar

from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.readers import omar
from offline_marl.tasks.data_tasks import open_task

TEAM = Team(n_agents=3, obs_dims=(4, 6, 2))


@pytest.mark.parametrize("states", [False, True])
def test_a_folder_is_a_team_of_unequal_widths(tmp_path: Path, states: bool) -> None:
    folder = write_omar(tmp_path / "simple_tag" / "medium-replay" / "seed_2_data", omar_arrays(TEAM, states))
    for place in (folder, folder.parent):
        data = open_task(str(place)).data
        assert data.spec.obs_dims == (4, 6, 2) and data.lengths.tolist() == list(LENGTHS)
        assert data.spec.state_dim == (3 if states else 0)
    np.testing.assert_array_equal(data.obs, TEAM.held["obs"])
    np.testing.assert_array_equal(data.actions, TEAM.held["actions"])
    np.testing.assert_array_equal(data.rewards, TEAM.held["rewards"])
    if states:
        np.testing.assert_array_equal(data.state, TEAM.held["state"])
    about = data.metadata
    assert about["omar"] == {"seed": "seed_2_data", "quality": "medium-replay", "task": "simple_tag"}
    assert not data.terminations.any() and about["episodes_end"] == "dones, taken as the clock's"


def test_dones_may_be_the_tasks(tmp_path: Path) -> None:
    with omar.opened(write_omar(tmp_path / "x", omar_arrays(TEAM)), dones="terminations") as (steps, about):
        data = steps.recording(about)
    assert isinstance(data, Dataset) and data.terminations.all(-1).sum() == 4
    assert about["episodes_end"] == "dones, taken as the task's"


def test_episodes_that_no_flag_ends_are_found(tmp_path: Path) -> None:
    arrays = {name: value * 0 if "dones" in name else value for name, value in omar_arrays(TEAM).items()}
    data = open_task(str(write_omar(tmp_path / "x", arrays))).data
    assert data.lengths.tolist() == list(LENGTHS) and "and 3 breaks that no flag told" in data.metadata["episodes_end"]


def test_one_of_several_seeds_is_named(tmp_path: Path) -> None:
    for seed in range(3):
        write_omar(tmp_path / f"seed_{seed}", omar_arrays(Team(seed=seed)))
    with pytest.raises(DataError, match=r"holds 3 sets \(seed_0, seed_1, seed_2\): name one, such as"):
        open_task(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("acs_1", None, r"acs_1\.npy is missing"),
        ("obs_2", np.zeros((17, 2)), r"obs_2\.npy has shape \(17, 2\), obs_0\.npy 18 rows"),
        ("obs_4", np.zeros((18, 2)), r"obs_3\.npy is missing"),
        ("rews_0", np.zeros((18, 2)), r"rews_0\.npy has shape"),
        ("next_obs_0", np.zeros((18, 5)), r"'next_obs' is of widths \(5, 6, 2\), 'obs' of \(4, 6, 2\)"),
        ("dones_0", np.full(18, 0.5), "'dones' should hold true and false"),
        ("acs_0", np.zeros((18, 2), int), r"acs_0\.npy holds int64"),
        ("obs_0", np.array([["a"]]), r"obs_0\.npy is not an array of numbers"),
        ("obs_0", np.array([{}], object), r"obs_0\.npy is not an array of numbers"),
        ("states_0", np.zeros((18, 2)), r"next_states_0\.npy is missing"),
        ("obs_0", np.full((18, 4), np.nan), "not finite"),
    ],
)
def test_broken_folders_are_one_sentence(tmp_path: Path, name: str, value: np.ndarray | None, said: str) -> None:
    arrays = {key: held for key, held in {**omar_arrays(TEAM), name: value}.items() if held is not None}
    with pytest.raises(DataError, match=said) as refusal:
        open_task(str(write_omar(tmp_path / "x", arrays)))
    assert "\n" not in str(refusal.value)
