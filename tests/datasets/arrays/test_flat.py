from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from worlds import world

from offline_marl.core.types import DataError, Spec
from offline_marl.datasets.base import Dataset

LENGTHS = (3, 2, 4)
STEPS, EPISODES = sum(LENGTHS), len(LENGTHS)
LAST = np.cumsum(LENGTHS) - 1


def arrays(rows: int = STEPS, seed: int = 0) -> dict[str, Any]:
    """Two agents of unequal width, one array each."""
    draw = np.random.default_rng(seed)
    return {
        "obs": [draw.standard_normal((rows, 3)), draw.standard_normal((rows, 2))],
        "actions": [draw.uniform(-1, 1, (STEPS, 1)), draw.uniform(-1, 1, (STEPS, 2))],
        "rewards": draw.standard_normal(STEPS),
    }


def flags(*last: int) -> np.ndarray:
    made = np.zeros(STEPS, bool)
    made[list(last)] = True
    return made


def test_a_list_for_each_agent_is_padded_to_the_widest() -> None:
    given = arrays(STEPS + EPISODES)
    data = Dataset.from_arrays(**given, lengths=LENGTHS)
    assert data.spec == Spec((3, 2), (1, 2)) and data.lengths.tolist() == list(LENGTHS)
    np.testing.assert_array_equal(data.obs[:, 1, :2], given["obs"][1].astype(np.float32))
    assert not data.obs[:, 1, 2].any() and not data.actions[:, 0, 1].any()
    assert torch.equal(data.rewards[:, 0], data.rewards[:, 1]), "a team's reward is everybody's"
    assert data.truncations[LAST].all() and not data.terminations.any(), "what no flag ends was cut"


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_the_arrays_of_a_data_set_make_it_again(kind: str) -> None:
    known = world(kind)
    dims = known.spec.obs_dims
    names = ("rewards", "terminations", "truncations", "state", "avail_actions", "lengths")
    more = {name: getattr(known, name) for name in names if getattr(known, name) is not None}
    acts = known.actions if kind == "discrete" else [known.actions[:, i, :n] for i, n in enumerate(known.spec.act_dims)]
    obs = [known.obs[:, i, :width].numpy() for i, width in enumerate(dims)]
    if kind == "discrete":
        more["choices"] = known.spec.act_dims
    made = Dataset.from_arrays(obs, acts, **more)
    assert made.spec == known.spec
    for name in ("obs", "actions", *more):
        if name != "choices":
            assert torch.equal(getattr(made, name), getattr(known, name)), name


def test_next_observations_give_the_last_row_of_each_episode() -> None:
    given = arrays()
    after = [np.roll(part, -1, axis=0) for part in given["obs"]]
    for part in after:
        part[LAST] = 7.0
    data = Dataset.from_arrays(**given, next_obs=after, truncations=flags(*LAST))
    assert len(data) == STEPS
    for number, length in enumerate(LENGTHS):
        episode = data.episode(number)
        assert len(episode) == length and episode.obs[-1].tolist() == [[7, 7, 7], [7, 7, 0]]
    np.testing.assert_array_equal(data.episode(1).obs[:-1, 0], given["obs"][0][3:5].astype(np.float32))


@pytest.mark.parametrize("ends", [{"terminations": flags(*LAST)}, {"lengths": LENGTHS}])
def test_what_followed_is_refused_where_it_is_not_the_next_row_of_the_episode(ends: dict[str, Any]) -> None:
    given = arrays()
    after = [np.roll(part, -1, axis=0) for part in given["obs"]]
    after[1][5] += 0.5
    with pytest.raises(
        DataError, match=r"'next_obs' of step 5 is not 'obs' of step 6, .* \(1 steps in all\): say by 'tr"
    ):
        Dataset.from_arrays(**given, next_obs=after, **ends)
    # Steps in any order stand alone.
    alone = Dataset.from_arrays(**given, next_obs=after, lengths=[1] * STEPS)
    assert all(np.allclose(alone.episode(step).obs[1, 0], after[0][step]) for step in range(STEPS))
    after[1][5] -= 0.5
    given["state"] = np.arange(STEPS)
    with pytest.raises(DataError, match="'next_state' of step 0 is not 'state' of step 1"):
        Dataset.from_arrays(**given, next_obs=after, next_state=np.zeros(STEPS), lengths=LENGTHS)


def test_what_is_allowed_after_the_last_steps_is_told_or_refused() -> None:
    """Not made up of what was ever allowed: a truncated end is valued by the best of what is allowed there."""
    obs = np.arange(8.0).reshape(4, 2, 1)
    allowed = np.array([[[1, 0], [1, 1]], [[1, 1], [0, 1]]] * 2)
    given = {"obs": obs[:2], "actions": np.array([[0, 0], [0, 1]]), "rewards": np.zeros(2), "lengths": [2]}
    given |= {"next_obs": obs[1:3], "avail_actions": allowed[:2]}
    with pytest.raises(DataError, match="'next_avail_actions' is not: nobody knows what is allowed after"):
        Dataset.from_arrays(**given)
    last = np.array([[1, 0], [0, 1]])
    data = Dataset.from_arrays(**given, next_avail_actions=np.stack([allowed[1], last]))
    assert data.episode(0).avail_actions.tolist() == [*allowed[:2].astype(bool).tolist(), last.astype(bool).tolist()]
    with pytest.raises(DataError, match="'next_avail_actions' of step 0 is not 'avail_actions' of step 1"):
        Dataset.from_arrays(**given, next_avail_actions=np.stack([last, last]))
    over = Dataset.from_arrays(**given, next_avail_actions=np.stack([allowed[1], np.zeros((2, 2))]))
    assert over.episode(0).avail_actions[-1].all(), "after an end nothing need be allowed"


def test_without_what_followed_every_step_stays_and_no_end_is_known() -> None:
    given = arrays()
    data = Dataset.from_arrays(**given, terminations=flags(LAST[0]), truncations=flags(*LAST[1:]))
    assert data.lengths.tolist() == list(LENGTHS) and data.ends_seen.tolist() == [False] * EPISODES
    np.testing.assert_array_equal(data.rewards[:, 0], given["rewards"].astype(np.float32))
    for number in range(EPISODES):
        episode = data.episode(number)
        assert episode.end_seen is not None and not episode.end_seen
        assert torch.equal(episode.obs[-1], episode.obs[-2])
        assert bool(episode.terminations[-1].all()) == (number == 0) != bool(episode.truncations[-1].all())


def test_successes_on_last_steps_sum_to_all_of_them() -> None:
    rewards = np.zeros(40 * 5)
    rewards[4::5] = 1
    obs, actions = np.zeros((200, 2, 1)), np.zeros((200, 2, 1))
    for ends in ({"lengths": [5] * 40}, {"truncations": rewards.astype(bool)}, {"terminations": rewards.astype(bool)}):
        assert float(Dataset.from_arrays(obs, actions, rewards, **ends).returns().sum()) == 40


def test_an_episode_ends_where_all_agents_have() -> None:
    ended = np.zeros((STEPS, 2), int)
    ended[1:3, 0] = ended[2, 1] = 1
    ended[LAST[1:]] = 1
    data = Dataset.from_arrays(**arrays(STEPS + EPISODES), terminations=ended)
    assert data.lengths.tolist() == list(LENGTHS) and data.terminations[1].tolist() == [True, False]
    listed = Dataset.from_arrays(**arrays(STEPS + EPISODES), terminations=[ended[:, 0], ended[:, 1]])
    assert torch.equal(listed.terminations, data.terminations)


def test_recording_that_just_stops_is_cut_there() -> None:
    data = Dataset.from_arrays(**arrays(STEPS + 2), terminations=flags(2))
    assert data.lengths.tolist() == [3, 6] and data.truncations[-1].all()


def test_whole_numbers_are_choices() -> None:
    given = {**arrays(STEPS + EPISODES), "actions": [np.arange(STEPS) % 2, np.arange(STEPS) % 4]}
    assert Dataset.from_arrays(**given, lengths=LENGTHS).spec.act_dims == (2, 4)
    assert Dataset.from_arrays(**given, lengths=LENGTHS, choices=5).spec == Spec((3, 2), (5, 5), 0, "discrete")
    assert Dataset.from_arrays(**given, lengths=LENGTHS, choices=np.int64(5)).spec.act_dims == (5, 5)
    avail = [np.ones((STEPS + EPISODES, 3)), np.ones((STEPS + EPISODES, 4))]
    data = Dataset.from_arrays(**given, lengths=LENGTHS, avail_actions=avail)
    assert data.spec.act_dims == (3, 4) and data.avail_actions is not None and not data.avail_actions[:, 0, 3].any()


def test_actions_outside_are_clipped_when_asked() -> None:
    given = arrays()
    given["actions"][1][0, 0] = 3.0
    with pytest.raises(DataError, match="outside"):
        Dataset.from_arrays(**given, lengths=LENGTHS)
    assert Dataset.from_arrays(**given, lengths=LENGTHS, clip_actions=True).metadata["clipped_actions"] == 1


@pytest.mark.parametrize("value", [np.nan, 0.3, 2, -1, -np.inf])
def test_what_is_allowed_is_true_or_false(value: float) -> None:
    """Of what is added to logits, 0 is allowed and -1e9 is not: read as a mask it would say the contrary."""
    given = {"obs": np.zeros((4, 2, 1)), "actions": np.zeros((4, 2), int), "rewards": np.zeros(4), "lengths": [4]}
    allowed = np.zeros((4, 2, 2))
    allowed[..., 1] = value
    for mask in (allowed, [allowed[:, 0], allowed[:, 1]]):
        with pytest.raises(DataError, match="'avail_actions' should hold true where a choice is allowed and false"):
            Dataset.from_arrays(**given, avail_actions=mask)
    with pytest.raises(DataError, match="'next_avail_actions' should hold true"):
        Dataset.from_arrays(
            **given, next_obs=given["obs"], avail_actions=np.ones((4, 2, 2)), next_avail_actions=allowed
        )
    padded = {**given, "obs": np.zeros((1, 4, 2, 1)), "actions": np.zeros((1, 4, 2), int), "rewards": np.zeros((1, 4))}
    with pytest.raises(DataError, match="'avail_actions' should hold true"):
        Dataset.from_arrays(**{**padded, "lengths": None}, filled=np.ones((1, 4)), avail_actions=allowed[None])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lengths": None}, "Say where episodes end: give 'lengths'"),
        ({"lengths": [3, 2]}, "'lengths' should be at least 1 each and sum to the 9 steps"),
        ({"lengths": [9, 0]}, "'lengths' should be at least 1"),
        ({"lengths": [3.6, 2.2, 4.4]}, "'lengths' should hold whole numbers"),
        ({"lengths": [3, 2, 4, np.nan]}, "'lengths' should hold whole numbers"),
        ({"actions": np.zeros((9, 2), int), "choices": 3.7}, "'choices' should be a whole number, or one for each"),
        ({"actions": np.zeros((9, 2), int), "choices": [3.7, 2.2]}, "'choices' should be a whole number, or one for"),
        ({"obs": np.zeros((9, 2, 3), complex)}, "'obs' holds complex numbers"),
        ({"actions": np.zeros((9, 2, 1), complex)}, "'actions' holds complex numbers"),
        ({"rewards": np.zeros(9, complex)}, "'rewards' holds complex numbers"),
        ({"obs": np.zeros((9, 4))}, r"'obs' should have axes \[step, agent, width\].*\(9, 4\)"),
        ({"obs": np.zeros((9, 3, 4))}, "'obs' is of 3 agents and 'actions' of 2"),
        ({"obs": np.zeros((10, 2, 4))}, "'obs' has 10 rows; 9 steps in 3 episodes need 9, or .* 12"),
        ({"obs": [np.zeros((9, 4)), np.zeros((8, 4))]}, "'obs' has 9 rows for agent 0 and 8 for agent 1"),
        ({"obs": [["a"], ["b"]]}, r"'obs\[0\]' should be an array of numbers"),
        ({"actions": np.zeros((9, 2, 2), int)}, "'actions' of whole numbers should have axes"),
        ({"actions": np.zeros((9, 2, 1), bool)}, "'actions' should hold floats"),
        ({"actions": np.zeros((0, 2, 1))}, "at least one step"),
        ({"choices": 3}, "'choices' counts what discrete actions can be"),
        ({"rewards": np.zeros(8)}, r"'rewards' should have shape \(9,\) or \(9, 2\).*\(8, 1\)"),
        ({"rewards": np.zeros((9, 3))}, r"it has \(9, 3\)"),
        ({"terminations": np.full(9, 0.5)}, "'terminations' should hold true and false"),
        ({"lengths": None, "terminations": np.eye(9)[[0, 2, 2, 0, 2, 2, 0, 2, 2], :2]}, "Agent 0 ends more than once"),
        ({"next_obs": np.zeros((9, 2, 2))}, r"'next_obs' has shape \(9, 2, 2\)"),
        ({"state": np.zeros((9, 4)), "next_obs": np.zeros((9, 2, 3))}, "'next_state' is not"),
        ({"state": np.zeros((12, 4))}, "'state' has 12 rows"),
        ({"avail_actions": np.ones((9, 2, 7))}, "'avail_actions' makes choices of"),
        ({"obs": np.full((9, 2, 3), np.nan)}, "not finite in episode 0, step 0"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as refusal:
        Dataset.from_arrays(**{**arrays(), "lengths": LENGTHS, **change})
    assert "\n" not in str(refusal.value) and str(refusal.value).endswith(".")
