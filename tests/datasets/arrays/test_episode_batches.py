"""Padded episode batches: which rows are steps, which only show what was seen last, and what contradicts itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import LENGTHS, TERMINATED, Team, write_hdf5
from pymarl_batches import batch_arrays, write_npy

from offline_marl.core.types import DataError
from offline_marl.datasets.arrays import episode_batches
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.readers.convert import open_steps
from offline_marl.datasets.readers.detect import kind_of
from offline_marl.tasks.data_tasks import open_task

TEAM = Team(n_agents=3, obs_dims=(4, 4, 4), choices=5)
FIELDS = ("obs", "state", "avail_actions", "actions", "rewards", "terminations", "truncations", "lengths")


def from_arrays(arrays: dict[str, Any]) -> Dataset:
    ours = {"reward": "rewards", "terminated": "terminations", "truncated": "truncations"}
    return Dataset.from_arrays(**{ours.get(name, name): v for name, v in arrays.items() if name != "actions_onehot"})


def written(tmp_path: Path, arrays: dict[str, Any], kind: str) -> Path:
    if kind == "npy":
        return write_npy(tmp_path / "buffer_mix", arrays)
    if kind in {"npz", "npz, compressed"}:
        (np.savez if kind == "npz" else np.savez_compressed)(tmp_path / "x.npz", **arrays)
        return tmp_path / "x.npz"
    if kind == "hdf5":
        return write_hdf5(tmp_path / "3m_expert.h5", arrays)
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, some in enumerate((slice(0, 1), slice(1, 4))):
        write_hdf5(folder / f"part_{number}.h5", {name: values[some] for name, values in arrays.items()})
    return folder


def expect_team(data: Dataset, team: Team) -> None:
    assert data.lengths.tolist() == list(team.lengths)
    np.testing.assert_array_equal(data.obs, team.held["obs"])
    np.testing.assert_array_equal(data.state, team.held["state"])
    np.testing.assert_array_equal(data.actions, team.held["actions"])
    np.testing.assert_array_equal(data.rewards, team.held["rewards"])
    np.testing.assert_array_equal(data.terminations, team.held["terminals"])
    np.testing.assert_array_equal(data.truncations, team.held["truncations"])


@pytest.mark.parametrize("kind", ["npy", "npz", "npz, compressed", "hdf5", "parts"])
def test_every_container_is_the_same_team_as_from_arrays(tmp_path: Path, kind: str) -> None:
    arrays = batch_arrays(TEAM)
    place = written(tmp_path, arrays, kind)
    assert kind_of(place) == "pymarl"
    data, given = open_task(str(place)).data, from_arrays(arrays)
    expect_team(data, TEAM)
    np.testing.assert_array_equal(data.avail_actions, TEAM.held["avail"])
    for name in FIELDS:
        assert torch.equal(getattr(data, name), getattr(given, name)), name
        assert getattr(data, name).dtype == getattr(given, name).dtype
    assert data.spec == given.spec and data.spec.act_dims == (5, 5, 5)
    assert data.metadata["episodes_end"] == "terminated, taken as the task's; what it does not end, the clock's"


def test_continuous_actions_are_read(tmp_path: Path) -> None:
    team = Team()
    arrays = batch_arrays(team)
    data = open_task(str(write_npy(tmp_path / "x", arrays))).data
    expect_team(data, team)
    assert torch.equal(data.obs, from_arrays(arrays).obs) and not data.spec.discrete


@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_pieces_of_any_size_hold_the_same_rows(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(episode_batches, "PIECE", at_once)
    flat = episode_batches.unpad(
        episode_batches.EpisodeBatch(
            *(batch_arrays(TEAM)[name] for name in ("actions", "reward", "obs")), filled=batch_arrays(TEAM)["filled"]
        )
    )
    rows, whole = flat.seen("obs"), TEAM.flat("obs")
    assert rows is not None
    for start in range(len(whole)):
        for stop in range(start, len(whole) + 2):
            np.testing.assert_array_equal(rows[start:stop], whole[start:stop])


def test_a_team_reward_is_that_of_every_agent(tmp_path: Path) -> None:
    data = open_task(str(write_npy(tmp_path / "x", batch_arrays(TEAM, team_reward=True)))).data
    np.testing.assert_array_equal(data.rewards, np.repeat(TEAM.held["rewards"][:, :1], 3, axis=1))


def test_a_part_that_was_not_copied_is_missed(tmp_path: Path) -> None:
    folder = written(tmp_path, batch_arrays(TEAM), "parts")
    (folder / "part_1.h5").rename(folder / "part_2.h5")
    with pytest.raises(DataError, match=r"part_1\.h5 is missing, part_2\.h5 is there"):
        open_task(str(folder))


def test_the_clock_is_told_apart(tmp_path: Path) -> None:
    team = Team(n_agents=3, obs_dims=(4, 4, 4), choices=5, terminated=(True,) * 4)
    place = write_npy(tmp_path / "x", batch_arrays(team))
    with open_steps(place, {"clock": 5}) as (steps, about):
        data: Any = steps.recording(about)
    last = np.cumsum(LENGTHS) - 1
    assert data.terminations[last].all(-1).tolist() == [False, True, False, True]
    assert data.truncations[last].all(-1).tolist() == [True, False, True, False]
    assert about["clock"] == 5
    assert about["episodes_end"].startswith("terminated, the task's before 5 steps, then the clock's; what it")


def test_a_format_that_knows_its_ends_takes_no_clock(tmp_path: Path) -> None:
    from foreign import omar_arrays, write_omar

    with (
        pytest.raises(DataError, match="is not of a format that takes clock"),
        open_steps(write_omar(tmp_path / "x", omar_arrays(Team())), {"clock": 5}),
    ):
        pass


def test_without_filled_the_flags_say_how_long_episodes_are(tmp_path: Path) -> None:
    team = Team(n_agents=3, obs_dims=(4, 4, 4), choices=5, lengths=(6, 3, 6, 4))
    arrays = batch_arrays(team, time=7)
    del arrays["filled"]
    data = open_task(str(write_npy(tmp_path / "x", arrays))).data
    expect_team(data, team)
    assert data.metadata["episodes_end"].endswith("; filled is not there")


@pytest.mark.parametrize("lacking", ["state", "avail_actions", "actions_onehot", "actions", "terminated"])
def test_what_may_be_missing_is(tmp_path: Path, lacking: str) -> None:
    arrays = batch_arrays(TEAM)
    del arrays[lacking]
    data = open_task(str(write_npy(tmp_path / "x", arrays))).data
    np.testing.assert_array_equal(data.obs, TEAM.held["obs"])
    np.testing.assert_array_equal(data.actions, TEAM.held["actions"])
    assert data.lengths.tolist() == list(LENGTHS) and data.spec.act_dims == (5, 5, 5)
    last = np.cumsum(LENGTHS) - 1
    expected = (False,) * 4 if lacking == "terminated" else TERMINATED
    assert data.terminations[last].all(-1).tolist() == list(expected)


def test_without_obs_agents_see_the_state(tmp_path: Path) -> None:
    arrays = batch_arrays(TEAM)
    del arrays["obs"]
    data = open_task(str(write_npy(tmp_path / "x", arrays))).data
    np.testing.assert_array_equal(data.obs, np.repeat(TEAM.held["state"][:, None], 3, axis=1))
    assert data.metadata["obs"] == "the state, for each agent"


def test_episodes_of_padding_alone_are_left_out(tmp_path: Path) -> None:
    arrays = {name: np.concatenate([v, np.zeros_like(v[:2])]) for name, v in batch_arrays(TEAM).items()}
    expect_team(open_task(str(write_npy(tmp_path / "x", arrays))).data, TEAM)


def test_rows_after_a_termination_are_left_out_and_counted(tmp_path: Path) -> None:
    arrays = batch_arrays(TEAM)
    arrays["filled"][1] = 1
    data = open_task(str(write_npy(tmp_path / "x", arrays))).data
    expect_team(data, TEAM)
    assert data.metadata["episodes_end"].endswith("4 filled rows after a termination are left out")


def changed(name: str, at: Any, value: Any) -> dict[str, np.ndarray]:
    arrays = batch_arrays(TEAM)
    arrays[name] = arrays[name].astype(float) if isinstance(value, float) else arrays[name]
    arrays[name][at] = value
    return arrays


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (changed("filled", (0, 2), 0), "'filled' has a gap in episode 0"),
        (changed("filled", (0, 2), 0.5), "'filled' should hold true and false"),
        (changed("terminated", (2, 6), 1), "Episode 2 ends at its last row: 'terminat"),
        (changed("reward", (3, 4), 2.5), r"'rewards?' pays episode 3 2\.5 in the row after its last step"),
        (changed("obs", (1, 3, 2, 0), np.nan), "not finite"),
        (changed("actions", (0, 1), 7), "choices that their agent does not have"),
        (
            {**batch_arrays(TEAM), "obs": np.zeros((4, 8, 3))},
            r"'obs' should have axes \[episode, time \+ 1, agent, wid",
        ),
        ({**batch_arrays(TEAM), "state": np.zeros((4, 7, 3))}, "'state' is of 4 episodes with 7 rows each"),
        ({**batch_arrays(TEAM), "avail_actions": np.zeros((4, 8, 2, 5))}, "'avail_actions' is of 2 agents"),
        ({**batch_arrays(TEAM), "filled": np.zeros((4, 8))}, "leave no episode with a step"),
        (
            {**batch_arrays(TEAM), "filled": batch_arrays(TEAM)["filled"][:, :-1]},
            "'filled' has 7 rows an episode, what was seen 8",
        ),
        ({**batch_arrays(TEAM), "reward": np.zeros((4, 8, 2))}, "'rewards?' should be one number a row, or a row and"),
    ],
)
@pytest.mark.parametrize("reader", [True, False])
def test_what_contradicts_itself_is_one_sentence(
    tmp_path: Path, arrays: dict[str, Any], said: str, reader: bool
) -> None:
    with pytest.raises(DataError, match=said) as refusal:
        open_task(str(write_npy(tmp_path / "x", arrays))) if reader else from_arrays(arrays)
    assert "\n" not in str(refusal.value)


def test_one_hot_floats_are_named() -> None:
    arrays = batch_arrays(TEAM)
    with pytest.raises(DataError, match="'actions' holds one-hot rows of floats"):
        Dataset.from_arrays(arrays["obs"], arrays["actions_onehot"], arrays["reward"], filled=arrays["filled"])


def test_choices_may_be_counted_by_numpy() -> None:
    arrays = batch_arrays(TEAM)
    given = {"rewards": arrays["reward"], "filled": arrays["filled"]}
    one, other = (
        Dataset.from_arrays(arrays["obs"], arrays["actions"], choices=count, **given) for count in (9, np.int64(9))
    )
    assert one.spec == other.spec and other.spec.act_dims == (9,) * one.spec.n_agents


def test_filled_stands_alone() -> None:
    arrays = batch_arrays(TEAM)
    with pytest.raises(DataError, match="leave 'lengths' away"):
        Dataset.from_arrays(
            arrays["obs"], arrays["actions"], arrays["reward"], filled=arrays["filled"], lengths=[5, 3, 6, 4]
        )


def test_arrays_of_the_caller_stay_as_they_are() -> None:
    arrays = batch_arrays(TEAM)
    before = {name: values.copy() for name, values in arrays.items()}
    for values in arrays.values():
        values.flags.writeable = False
    data = from_arrays(arrays)
    data.obs[:], data.rewards[:], data.actions[:] = 9, 9, 0
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, before[name])


def test_one_of_several_buffers_is_named(tmp_path: Path) -> None:
    for name in ("buffer_mix", "buffer_optimal"):
        write_npy(tmp_path / "bridge" / name, batch_arrays(TEAM))
    with pytest.raises(DataError, match=r"holds 2 sets \(buffer_mix, buffer_optimal\): name one, such as"):
        open_task(str(tmp_path / "bridge"))
