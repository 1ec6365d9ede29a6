from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from offline_marl.core.partition import Partition, partition
from offline_marl.core.types import DataError, Episode, Spec
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.episode_index import episode_numbers, episode_sums, episodes_apart
from offline_marl.datasets.episodes import join

SPEC = Spec(obs_dims=(3, 2), act_dims=(2, 1), state_dim=4)


def make_episode(length: int, number: int, *, terminated: bool = False, discrete: bool = False) -> Episode:
    """Every number in it tells its episode, its row and its place."""
    rows = 1000.0 * number + 10.0 * torch.arange(length + 1.0)
    obs = rows.view(-1, 1, 1) + torch.arange(6.0).view(2, 3)
    obs[:, 1, 2] = 0.0
    actions = ((torch.arange(float(length)).view(-1, 1, 1) + torch.arange(4.0).view(2, 2)) / (length + 4)).contiguous()
    actions[:, 1, 1] = 0.0
    ended = torch.zeros(length, 2, dtype=torch.bool)
    ended[-1] = True
    return Episode(
        obs=obs,
        actions=torch.arange(length).view(-1, 1).repeat(1, 2) % 2 if discrete else actions,
        rewards=(rows[:-1, None] + torch.tensor([0.0, 1.0])).contiguous(),
        terminations=ended if terminated else torch.zeros_like(ended),
        truncations=torch.zeros_like(ended) if terminated else ended,
        state=rows.view(-1, 1) + torch.arange(4.0),
        avail_actions=torch.ones(length + 1, 2, 2, dtype=torch.bool) if discrete else None,
    )


def make_dataset(*lengths: int) -> Dataset:
    episodes = [make_episode(length, i, terminated=i % 2 == 1) for i, length in enumerate(lengths)]
    return Dataset.from_episodes(episodes, SPEC, {"made": "by hand"})


def make_recording(*lengths: int, state_dim: int = 10, act_dim: int = 2, seed: int = 0) -> Recording:
    draw = torch.Generator().manual_seed(seed)
    steps, rows = sum(lengths), sum(lengths) + len(lengths)
    ends = torch.zeros(steps, dtype=torch.bool)
    ends[torch.tensor(lengths).cumsum(0) - 1] = True
    return Recording(
        state=torch.randn(rows, state_dim, generator=draw),
        actions=torch.rand(steps, act_dim, generator=draw) * 2 - 1,
        rewards=torch.randn(steps, generator=draw),
        terminations=torch.zeros(steps, dtype=torch.bool),
        truncations=ends,
        lengths=torch.tensor(lengths),
        metadata={"scenario": "reacher"},
    )


def same_episode(left: Episode, right: Episode) -> bool:
    pairs = [(getattr(left, name), getattr(right, name)) for name in Episode.__slots__]
    return all(a is b if a is None or b is None else a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


# --- episodes in and out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("discrete", [False, True])
def test_episodes_come_back_as_they_were(discrete: bool) -> None:
    episodes = [make_episode(length, i, terminated=i == 1, discrete=discrete) for i, length in enumerate((3, 1, 5, 2))]
    spec = Spec((3, 2), (2, 2), 4, "discrete") if discrete else SPEC
    data = Dataset.from_episodes(episodes, spec)
    assert len(data) == 11 and data.lengths.tolist() == [3, 1, 5, 2]
    for i, episode in enumerate(episodes):
        assert same_episode(data.episode(i), episode)


def test_returns_are_summed_over_time_and_averaged_over_agents() -> None:
    # Episode 0: rewards 0, 10 for agent 0 and 1, 11 for agent 1; episode 1: 1000 and 1001.
    assert make_dataset(2, 1).returns().tolist() == [11.0, 1000.5]


def test_sums_and_numbers_by_hand() -> None:
    lengths = torch.tensor([2, 1, 3])
    assert episode_numbers(lengths).tolist() == [0, 0, 1, 2, 2, 2]
    assert episode_sums(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]), lengths).tolist() == [3.0, 4.0, 56.0]


def test_selected_episodes_keep_the_order_asked_for() -> None:
    data = make_dataset(3, 1, 5, 2)
    chosen = data.select(torch.tensor([2, 0, 2]))
    assert chosen.check().lengths.tolist() == [5, 3, 5]
    for place, number in enumerate((2, 0, 2)):
        assert same_episode(chosen.episode(place), data.episode(number))
    assert chosen.spec == data.spec and chosen.metadata == data.metadata


@pytest.mark.parametrize(
    ("chosen", "numbers"),
    [
        ([-1, 0], [3, 0]),
        (torch.tensor([-4, 2]), [0, 2]),
        (np.array([1, -2]), [1, 2]),
        (torch.tensor([True, False, False, True]), [0, 3]),
        (torch.ones(4, dtype=torch.bool), [0, 1, 2, 3]),
    ],
)
def test_episodes_are_chosen_from_the_end_and_by_bools(chosen: Any, numbers: list[int]) -> None:
    data = make_dataset(3, 1, 5, 2)
    found = data.select(chosen)
    assert found.check().lengths.tolist() == data.lengths[numbers].tolist()
    assert all(same_episode(found.episode(place), data.episode(number)) for place, number in enumerate(numbers))
    assert same_episode(data.episode(-1), data.episode(3)) and same_episode(data.episode(-4), data.episode(0))


@pytest.mark.parametrize("chosen", [[4], [-5], [0.5], torch.tensor([True, False]), 1])
def test_what_is_no_episode_is_refused(chosen: Any) -> None:
    data = make_dataset(3, 1, 5, 2)
    with pytest.raises(DataError, match="a list of numbers below 4, or by 4 bools"):
        data.select(chosen)
    with pytest.raises(IndexError):
        data.episode(4)


def test_what_metadata_say_of_each_episode_follows_the_chosen_ones() -> None:
    known = {"seeds": [5, 6, 7], "who": [0, 1, 1], "actors": [{"name": "a"}, {"name": "b"}], "sha256": "of the whole"}
    chosen = replace(make_dataset(3, 1, 5), metadata=known).select([2, 1])
    assert chosen.metadata == {"seeds": [7, 6], "who": [0, 0], "actors": [{"name": "b", "episodes": 2}]}


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.3, 1.0])
def test_training_and_validation_share_no_episode_and_cover_all(fraction: float) -> None:
    data = make_dataset(*range(1, 21))
    train, held_out = (data.select(part) for part in episodes_apart(data.lengths, fraction, seed=4))
    parts = [{int(part.episode(i).rewards[0, 0]) for i in range(len(part.lengths))} for part in (train, held_out)]
    assert parts[0] | parts[1] == {1000 * i for i in range(20)} and not parts[0] & parts[1]
    assert len(held_out.lengths) == min(max(1, round(20 * fraction)), 19)
    train.check(), held_out.check()


def test_the_split_is_decided_by_its_seed() -> None:
    data = make_dataset(*range(1, 21))
    first, again, other = (episodes_apart(data.lengths, 0.3, seed)[1].tolist() for seed in (4, 4, 5))
    assert first == again != other


def test_one_episode_cannot_be_split() -> None:
    with pytest.raises(DataError, match="one episode"):
        episodes_apart(make_dataset(5).lengths, 0.1, 0)


# --- splitting among agents ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cut", "state_dim", "act_dim"),
    [
        (partition("reacher", "2x1notip", "0"), 10, 2),
        (partition("reacher", "2x1first", "0"), 10, 2),
        (partition("reacher", "2x1", "full"), 11, 2),
        (partition("ant", "t4x2", "0tv"), 27, 8),
        (partition("ant", "2x4d", "0"), 27, 8),
        (Partition("own", "odd", "0", ("a", "b", "c"), ((4,), (0, 2, 5), (1, 1)), ((2,), (3, 0), (1,))), 6, 4),
    ],
    ids=lambda value: value.key if isinstance(value, Partition) else "",
)
def test_a_split_gives_each_agent_its_columns_and_zeros_beyond(cut: Partition, state_dim: int, act_dim: int) -> None:
    recording = make_recording(4, 1, 7, state_dim=state_dim, act_dim=act_dim)
    data = recording.split(cut).check()
    assert data.spec == Spec(cut.obs_dims, cut.act_dims, state_dim=state_dim)
    for whole, parts, index in (
        (recording.state, data.obs, cut.obs_index),
        (recording.actions, data.actions, cut.act_index),
    ):
        widest = max(len(columns) for columns in index)
        assert parts.shape == (len(whole), len(index), widest)
        for row in range(len(whole)):
            for agent, columns in enumerate(index):
                expected = [whole[row, column].item() for column in columns] + [0.0] * (widest - len(columns))
                assert parts[row, agent].tolist() == expected
    for agent in range(len(cut.agents)):
        for name in ("rewards", "terminations", "truncations"):
            assert torch.equal(getattr(data, name)[:, agent], getattr(recording, name))
    assert data.state is recording.state and data.lengths is recording.lengths
    assert data.metadata == {"scenario": "reacher", "conf": cut.conf, "view": cut.view}


def test_a_partition_of_another_body_is_refused() -> None:
    with pytest.raises(DataError, match="ant 4x2_0 sees 27 columns and moves 8, the recording holds 10 and 2"):
        make_recording(4).split(partition("ant", "4x2", "0"))


def test_recordings_join_one_after_another() -> None:
    first, second = make_recording(3, 2), make_recording(4, seed=1)
    joined = join([first, second], {"name": "both"}).check()
    assert joined.lengths.tolist() == [3, 2, 4] and joined.metadata == {"name": "both"}
    assert torch.equal(joined.state, torch.cat([first.state, second.state]))
    assert torch.equal(joined.actions[5:], second.actions)


def test_recordings_of_other_widths_do_not_join() -> None:
    with pytest.raises(DataError, match="different widths"):
        join([make_recording(3), make_recording(3, state_dim=11)], {})


def test_data_sets_of_one_team_join_and_others_do_not() -> None:
    data = make_dataset(2, 1)
    twice = join([data, data], {"name": "twice"}).check()
    assert twice.lengths.tolist() == [2, 1, 2, 1] and twice.spec == data.spec and twice.metadata == {"name": "twice"}
    assert torch.equal(twice.select(torch.tensor([2, 3])).obs, data.obs)
    with pytest.raises(DataError, match="different widths cannot be joined: 'state' is .* and None"):
        join([data, replace(data, state=None)], {})


# --- what is refused ----------------------------------------------------------------------------------------------


def poisoned(data: Any, name: str, row: int, value: float) -> Any:
    tensor = getattr(data, name).clone()
    tensor[row].view(-1)[-1] = value
    return replace(data, **{name: tensor})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "row", "episode", "step"),
    [
        # Lengths 3, 1, 5: steps begin at 0, 3, 4 and rows of what is seen at 0, 4, 6.
        ("obs", 0, 0, 0),
        ("obs", 3, 0, 3),
        ("obs", 4, 1, 0),
        ("obs", 11, 2, 5),
        ("state", 6, 2, 0),
        ("rewards", 2, 0, 2),
        ("rewards", 3, 1, 0),
        ("actions", 8, 2, 4),
    ],
)
def test_a_number_that_is_not_finite_is_refused_with_field_episode_and_step(
    name: str, row: int, episode: int, step: int, value: float
) -> None:
    bad = poisoned(make_dataset(3, 1, 5), name, row, value)
    with pytest.raises(DataError, match=rf"Field '{name}' is not finite in episode {episode}, step {step} \(1 rows"):
        bad.check()


def test_opposite_infinities_do_not_cancel_and_great_numbers_are_fine() -> None:
    data = make_dataset(3, 1, 5)
    with pytest.raises(DataError, match="episode 0, step 1"):
        poisoned(poisoned(data, "rewards", 1, math.inf), "rewards", 2, -math.inf).check()
    replace(data, rewards=torch.full_like(data.rewards, 3e38)).check()


def test_a_recording_is_checked_alike() -> None:
    with pytest.raises(DataError, match="Field 'state' is not finite in episode 1, step 2"):
        poisoned(make_recording(3, 4), "state", 6, math.nan).check()


def test_actions_out_of_bounds_are_counted() -> None:
    data = make_dataset(3, 1, 5)
    actions = data.actions.clone()
    actions[0, 0, 0], actions[4, 1, 0], actions[8, 0, 1] = 1.5, -1.01, 1.0 + 1e-7
    with pytest.raises(DataError, match=r"^2 of [0-9,]+ action entries lie outside \[-1, 1\]"):
        replace(data, actions=actions).check()


def test_an_episode_without_an_end_is_named() -> None:
    data = make_dataset(3, 1, 5)
    truncations = data.truncations.clone()
    truncations[8] = False
    with pytest.raises(DataError, match="Episode 2 ends without termination or truncation"):
        replace(data, truncations=truncations).check()


def test_an_episode_that_goes_on_after_its_end_is_named() -> None:
    for name in ("terminations", "truncations"):
        data = make_dataset(3, 1, 5)
        flags = getattr(data, name).clone()
        flags[5] = True
        with pytest.raises(DataError, match="Episode 2 goes on after a termination or truncation"):
            replace(data, **{name: flags}).check()


def test_one_agent_may_end_before_the_others() -> None:
    data = make_dataset(3, 1, 5)
    terminations = data.terminations.clone()
    terminations[5:, 0] = True
    replace(data, terminations=terminations).check()


@pytest.mark.parametrize(("name", "missing"), [("obs", 1), ("rewards", 1), ("actions", 2), ("state", 1)])
def test_rows_that_contradict_the_lengths_are_refused(name: str, missing: int) -> None:
    data = make_dataset(3, 1, 5)
    rows = len(getattr(data, name))
    with pytest.raises(DataError, match=f"Field '{name}' has {rows - missing} rows, the episode lengths make {rows}"):
        replace(data, **{name: getattr(data, name)[:-missing]}).check()


def test_shapes_that_disagree_are_refused_naming_the_field() -> None:
    data = make_dataset(3, 1, 5)
    with pytest.raises(DataError, match=r"rewards has shape \(9, 1\): its axis 'agent' should have length 2"):
        replace(data, rewards=data.rewards[:, :1]).check()
    with pytest.raises(DataError, match=r"rewards has shape \(9, 2, 1\)"):
        replace(data, rewards=data.rewards.unsqueeze(-1)).check()


def test_lengths_that_contradict_all_rows_are_refused() -> None:
    with pytest.raises(DataError, match="has 12 rows, the episode lengths make 11"):
        replace(make_dataset(3, 1, 5), lengths=torch.tensor([3, 1, 4])).check()


@pytest.mark.parametrize("lengths", [[], [3, 0, 6]])
def test_empty_data_and_empty_episodes_are_refused(lengths: list[int]) -> None:
    with pytest.raises(DataError, match="at least one"):
        replace(make_dataset(3, 1, 5), lengths=torch.tensor(lengths, dtype=torch.int64)).check()
    with pytest.raises(DataError, match="at least one episode"):
        Dataset.from_episodes([], SPEC)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Spec((4, 2), (2, 1), 4), r"Observations have axes \(2, 3\), the spec says \(2, 4\)"),
        (Spec((3, 2, 1), (2, 1, 1), 4), r"Observations have axes"),
        (Spec((3, 2), (3, 1), 4), r"Actions have axes \(2, 2\), the spec says \(2, 3\)"),
        (Spec((3, 2), (2, 1), 4, "discrete"), "The spec says discrete actions, the data holds torch.float32"),
    ],
)
def test_a_spec_that_contradicts_the_data_is_refused(spec: Spec, message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(make_dataset(3, 1), spec=spec).check()


@pytest.mark.parametrize("choice", [-1, 2, 7])
def test_choices_that_an_agent_does_not_have_are_counted(choice: int) -> None:
    spec = Spec((3, 2), (8, 2), 4, "discrete")
    episode = replace(make_episode(4, 0, discrete=True), avail_actions=None)
    episode.actions[1:3, 1] = choice
    with pytest.raises(DataError, match="2 actions are choices that their agent does not have"):
        Dataset.from_episodes([episode], spec)


@pytest.mark.parametrize(
    ("name", "dtype", "wanted"),
    [
        ("obs", torch.float64, "torch.float32"),
        ("rewards", torch.int64, "torch.float32"),
        ("terminations", torch.float32, "torch.bool"),
        ("truncations", torch.uint8, "torch.bool"),
        ("actions", torch.int32, "torch.float32 or torch.int64"),
    ],
)
def test_numbers_of_another_kind_are_refused_not_guessed(name: str, dtype: torch.dtype, wanted: str) -> None:
    data = make_dataset(3, 1)
    with pytest.raises(DataError, match=f"Field '{name}' holds {dtype}, it should hold {wanted}"):
        replace(data, **{name: getattr(data, name).to(dtype)}).check()


def test_episodes_that_do_not_fit_together_are_refused() -> None:
    first, second = make_episode(3, 0), make_episode(2, 1)
    with pytest.raises(DataError, match="Only some of the episodes hold 'state'"):
        Dataset.from_episodes([first, replace(second, state=None)], SPEC)
    with pytest.raises(DataError, match="Episodes differ in the width of 'obs'"):
        Dataset.from_episodes([first, replace(second, obs=torch.zeros(3, 2, 4))], SPEC)


def test_arrays_of_numpy_become_data_in_place() -> None:
    flags = np.zeros((4, 2), dtype=np.bool_)
    flags[-1] = True
    arrays = (np.zeros((5, 2, 3), np.float32), np.zeros((4, 2, 2), np.float32), np.ones((4, 2), np.float32))
    obs, actions, rewards = map(torch.from_numpy, arrays)
    episode = Episode(obs, actions, rewards, torch.from_numpy(np.zeros_like(flags)), torch.from_numpy(flags))
    assert Dataset.from_episodes([episode], Spec((3, 2), (2, 1))).returns().tolist() == [4.0]


def test_choices_that_were_not_available_are_refused() -> None:
    episode = make_episode(4, 0, discrete=True)
    avail = episode.avail_actions
    assert avail is not None
    avail[2].scatter_(-1, episode.actions[2].unsqueeze(-1), False)
    with pytest.raises(DataError, match="2 actions are choices that avail_actions forbids"):
        Dataset.from_episodes([episode], Spec((3, 3), (2, 2), action_kind="discrete"))


def test_episodes_of_numpy_arrays_will_do() -> None:
    spec = Spec((2,), (1,))
    flags = np.array([[False], [True]])
    episode = Episode(
        obs=np.zeros((3, 1, 2), np.float32),
        actions=np.zeros((2, 1, 1), np.float32),
        rewards=np.ones((2, 1), np.float32),
        terminations=flags,
        truncations=~flags & flags,
    )
    assert Dataset.from_episodes([episode], spec).returns().tolist() == [2.0]


def test_padding_that_is_not_zero_is_refused() -> None:
    episode = make_episode(4, 0)
    episode.obs[2, 1, 2] = 1.0
    with pytest.raises(DataError, match="Field 'obs' is not zero where the spec says an agent's row is padded"):
        Dataset.from_episodes([episode], SPEC)
