"""OMIGA's files, written to the structure that its loaders read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import LENGTHS, Team, omiga_arrays, write_hdf5

from offline_marl.core.types import DataError
from offline_marl.datasets.readers.detect import kind_of
from offline_marl.tasks.data_tasks import open_task

pytest.importorskip("h5py")


@pytest.mark.parametrize("rewards", ["T", "T1", "TN", "TN1"])
def test_a_file_is_a_team_whatever_its_rewards_look_like(tmp_path: Path, rewards: str) -> None:
    team = Team(n_agents=3, obs_dims=(4, 4, 4))
    path = write_hdf5(tmp_path / "Ant-v2-2x4-expert.hdf5", omiga_arrays(team, rewards))
    task = open_task(str(path))
    data, about = task.data, task.data.metadata
    assert kind_of(path) == about["format"] == "omiga"
    assert (about["scenario"], about["conf"], about["quality"]) == ("ant", "2x4", "expert")
    # Nothing is as long as the clock allows: all terminated.
    assert data.lengths.tolist() == list(LENGTHS) and about["episodes_end"].startswith("d: after 1,000 steps")
    assert data.terminations.any(-1).sum() == 4 and data.spec.state_dim == 3 and task.environment is None
    for number, first in enumerate(np.cumsum(LENGTHS) - LENGTHS):
        episode, steps = data.episode(number), slice(first, first + LENGTHS[number])
        np.testing.assert_array_equal(episode.obs[:-1], team.flat("obs")[steps])
        np.testing.assert_array_equal(episode.state[:-1], team.flat("state")[steps])
        np.testing.assert_array_equal(episode.actions, team.held["actions"][steps])
        own = team.held["rewards"][steps] if "N" in rewards else team.held["rewards"][steps, :1].repeat(3, axis=1)
        np.testing.assert_array_equal(episode.rewards, own)


def test_the_longest_episodes_of_another_task_were_cut(tmp_path: Path) -> None:
    team = Team(lengths=(6, 3, 6), terminated=(True, True, True), choices=4)
    path = write_hdf5(tmp_path / "3s_vs_5z-good.h5", omiga_arrays(team))
    data = open_task(str(path)).data
    assert data.lengths.tolist() == [6, 3, 6] and not data.ends_seen.any()
    assert data.terminations.all(-1).sum() == 1 and data.spec.discrete and "scenario" not in data.metadata


def test_choices_may_be_one_hot_rows_of_whole_numbers(tmp_path: Path) -> None:
    arrays = omiga_arrays(Team(choices=4))
    plain = open_task(str(write_hdf5(tmp_path / "plain.hdf5", arrays))).data
    rows = {**arrays, "a": np.eye(5, dtype=np.int64)[arrays["a"].reshape(arrays["r"].shape)]}
    data = open_task(str(write_hdf5(tmp_path / "rows.hdf5", rows))).data
    assert torch.equal(data.actions, plain.actions) and data.actions.max() > 1
    assert data.spec.act_dims == (5,) * data.spec.n_agents


def test_the_clock_of_a_body_is_known(tmp_path: Path) -> None:
    team = Team(lengths=(1000, 40), terminated=(False, True))
    data = open_task(str(write_hdf5(tmp_path / "HalfCheetah-v2-6x1-medium-replay.hdf5", omiga_arrays(team)))).data
    assert data.lengths.tolist() == [1000, 40] and data.metadata["quality"] == "medium-replay"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"r": None}, "this one lacks r"),
        ({"a": None}, "this one lacks a"),
        ({"o": np.zeros((18, 4))}, r"'o' should have axes \[step, agent, width\]"),
        ({"a": np.zeros((18, 3, 2))}, "18 steps and 2 agents of 'o'"),
        ({"a": np.eye(3)[np.zeros((18, 2), int)]}, "'a' holds one-hot rows of floats"),
        ({"a": np.ones((18, 2, 3), int)}, "'a' should hold one choice a step and agent"),
        ({"s": np.zeros((17, 2, 3))}, "'s' should have the 18 steps and 2 agents"),
        ({"r": np.zeros((18, 3))}, "'r' should be one number a step"),
        ({"d": np.full(18, 0.5)}, "'d' should hold true and false"),
    ],
)
def test_broken_content_is_one_sentence(tmp_path: Path, change: dict[str, np.ndarray | None], said: str) -> None:
    arrays = {name: value for name, value in {**omiga_arrays(Team()), **change}.items() if value is not None}
    with pytest.raises(DataError, match=said) as refusal:
        open_task(str(write_hdf5(tmp_path / "x.hdf5", arrays)))
    assert "\n" not in str(refusal.value) and "x.hdf5" in str(refusal.value)
