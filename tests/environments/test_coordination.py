from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest
import torch

from offline_marl.collection.record import make_scripted, record_team
from offline_marl.core.partition import partition
from offline_marl.core.registry import RegistryError
from offline_marl.core.types import DataError
from offline_marl.datasets.catalog import find
from offline_marl.environments.base import environments
from offline_marl.environments.coordination import Coordination, CoordinationGame
from offline_marl.tasks.data_tasks import open_task


def choices(*rows):
    return np.array(rows, np.int64)


def test_the_registry_knows_it():
    assert environments.get("coordination") is Coordination
    assert "clocked" not in environments.names()


def test_a_short_game_worked_by_hand():
    env = CoordinationGame(copies=2, agents=2, choices=3, steps=2)
    seen = env.reset([5, 9])
    assert seen.obs.tolist() == [[[0, 0, 0, 1, 0]] * 2] * 2 and seen.state.tolist() == [[0] * 6 + [1, 0]] * 2
    seen, rewards, terminations, truncations = env.step(choices([2, 2], [0, 2]))
    assert rewards.tolist() == [[1, 1], [0, 0]] and not terminations.any() and not truncations.any()
    assert seen.obs.tolist() == [[[0, 0, 1, 0, 1], [0, 0, 1, 0, 1]], [[1, 0, 0, 0, 1], [0, 0, 1, 0, 1]]]
    assert seen.state.tolist() == [[0, 0, 1, 0, 0, 1, 0, 1], [1, 0, 0, 0, 0, 1, 0, 1]]
    seen, rewards, terminations, truncations = env.step(choices([1, 0], [1, 1]))
    assert rewards.tolist() == [[0, 0], [1, 1]] and terminations.all() and not truncations.any()
    assert seen.obs[0].tolist() == [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_two_of_three_who_agree_earn_nothing():
    env = CoordinationGame(copies=3)
    env.reset([1, 2, 3])
    assert env.step(choices([1, 1, 0], [0, 1, 2], [1, 1, 1]))[1][:, 0].tolist() == [0, 0, 1]


def test_every_choice_can_always_be_made():
    env = CoordinationGame(copies=1)
    seen = env.reset([1])
    assert seen.avail_actions.shape == (1, 3, 3) and seen.avail_actions.all()
    assert env.step(choices([0, 1, 2]))[0].avail_actions.all()


def test_nothing_tells_the_convention_before_the_first_choice():
    data = open_task("coordination-mix-v0").data
    first = data.obs.unflatten(0, (-1, 7))[:, 0]
    assert bool((first == first[0]).all())


def test_finished_copies_are_frozen_until_the_next_reset():
    env = CoordinationGame(copies=2, steps=1)
    env.reset([1, 2])
    over = env.step(choices([1, 1, 1], [0, 0, 0]))
    after = env.step(choices([2, 2, 2], [2, 2, 2]))
    assert np.array_equal(after[0].obs, over[0].obs) and np.array_equal(after[0].state, over[0].state)
    assert not after[1].any() and after[2].all() and not after[3].any()
    assert np.array_equal(env.reset([3]).obs, CoordinationGame(1, steps=1).reset([4]).obs)


def test_arrays_belong_to_the_caller():
    env = CoordinationGame(copies=2)
    seen = env.reset([1, 2])
    for array in (seen.obs, seen.state, seen.avail_actions):
        array[:] = 7
    seen = env.step(choices([1, 1, 1], [0, 0, 0]))[0]
    assert seen.obs.max() == 1 and seen.obs[0, 0, :3].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda env: env.reset([]), "has 2 copies, but was reset with 0 seeds"),
        (lambda env: env.reset([1, 2, 3]), "has 2 copies, but was reset with 3 seeds"),
        (lambda env: env.reset([1, 1]), "needs its own seed"),
        (lambda env: env.step(choices([0, 0, 0])), r"expects actions of shape \(2, 3\), got \(1, 3\)"),
        (lambda env: env.step(choices([0, 0, 3], [0, 0, 0])), "has choices 0 to 2, but another one was made"),
        (lambda env: env.step(choices([0, 0, -1], [0, 0, 0])), "another one was made"),
        (lambda env: env.step(np.zeros((2, 3), np.float32)), "expects choices, whole numbers from 0, not float32"),
        (lambda env: CoordinationGame(0), "needs at least 1 copy and 1 step"),
        (lambda env: Coordination.make(partition("hopper", "3x1", "0"), 1), "coordination is made for a team"),
        (lambda env: Coordination.simulator(1), "there is no whole body to move"),
    ],
)
def test_misuse_is_one_sentence(wrong, said):
    env = CoordinationGame(copies=2)
    env.reset([1, 2])
    with pytest.raises(DataError, match=said):
        wrong(env)


def test_experts_that_do_not_exist_are_answered_with_the_list():
    with pytest.raises(RegistryError, match="no scripted expert 'bleu': did you mean 'blue'"):
        Coordination.scripted("bleu")


def test_the_optimum_is_what_brute_force_over_all_plans_finds():
    plans = np.array(list(itertools.product(itertools.product(range(2), repeat=3), repeat=3)))  # plan step agent
    env = CoordinationGame(copies=len(plans), agents=3, choices=2, steps=3)
    env.reset(range(len(plans)))
    returns = sum(env.step(plans[:, step])[1][:, 0] for step in range(3))
    assert returns.max() == 3.0 and returns.mean() == pytest.approx(3 * 2 / 2**3)


def test_the_references_are_the_optimum_and_the_exact_mean_of_uniform_play():
    # All 27 joint choices after each of all 27, at each step: rewards depend on neither the step nor the past, so
    # dynamic programming is a sum over steps of the largest reward, and uniform play a sum of the mean.
    every = np.array(list(itertools.product(range(3), repeat=3)))
    before, now = (np.array(each) for each in zip(*itertools.product(every, every), strict=True))
    env = CoordinationGame(copies=len(now))
    env.reset(range(len(now)))
    rewards = []
    for step in range(env.max_steps):
        earned = env.step(now if step % 2 else before)[1][:, 0]
        rewards.append(earned)
        assert np.array_equal(earned, ((now if step % 2 else before).std(1) == 0))
    reference = find("coordination-mix-v0").reference
    assert sum(each.max() for each in rewards) == reference.expert == 6.0
    assert sum(each.mean(dtype=float) for each in rewards) == pytest.approx(reference.random, abs=1e-12)
    assert "Exact" in reference.note


def test_simulated_uniform_play_agrees_with_its_exact_mean():
    env, rng = Coordination.make(None, 20_000), np.random.default_rng(0)
    env.reset(range(20_000))
    returns = sum(env.step(rng.integers(3, size=(20_000, 3)))[1][:, 0] for _ in range(env.max_steps))
    reference = find("coordination-single-v0").reference
    assert returns.mean() == pytest.approx(reference.random, abs=4 * returns.std() / np.sqrt(len(returns)))


def test_data_does_not_depend_on_how_many_copies_run_side_by_side():
    expert, seeds = Coordination.scripted("blue"), [9, 4, 7, 2, 11]
    alone = record_team(Coordination.make(None, 1), expert, seeds, (0.2, 0.9)).check()
    for copies in (2, 5, 40):
        other = record_team(Coordination.make(None, copies), expert, seeds, (0.2, 0.9))
        assert all(torch.equal(getattr(other, name), getattr(alone, name)) for name in ("obs", "actions", "rewards"))


@pytest.mark.parametrize(("name", "kept"), [("coordination-single-v0", [2]), ("coordination-mix-v0", [0, 2])])
def test_each_episode_of_the_data_follows_one_convention_with_slips(name, kept):
    data = open_task(name).data
    actions = data.actions.view(len(kept), -1, 6, 3)
    assert len(data.lengths) == 2000 and bool((data.lengths == 6).all()) and not data.truncations.any()
    for own, choice in zip(actions, kept, strict=True):
        # A slip is any choice, the convention's own among them: 2/3 of the mean level 0.2 is seen.
        strays = (own != choice).double()
        assert strays.mean().item() == pytest.approx(2 / 3 * 0.2, abs=0.005)
        others = [(own == other).double().mean().item() for other in range(3) if other != choice]
        assert others == pytest.approx([0.2 / 3] * 2, abs=0.005)
        # Levels 0.1 and 0.3, drawn per episode: variance of strays among the 18 choices of an episode.
        low, high = (18 * rate * (1 - rate) for rate in (0.2 / 3, 0.6 / 3))
        expected = (low + high) / 2 + (18 * (0.6 - 0.2) / 3 / 2) ** 2
        assert strays.sum((1, 2)).var().item() == pytest.approx(expected, rel=0.15)
    assert data.metadata["action_noise"] == [0.1, 0.3] and data.metadata["reference"]["expert"] == 6.0


def test_the_data_is_the_same_at_each_making(tmp_path):
    for folder in ("a", "b"):
        make_scripted(find("coordination-mix-v0"), tmp_path / folder / "x.safetensors")
    assert (tmp_path / "a" / "x.safetensors").read_bytes() == (tmp_path / "b" / "x.safetensors").read_bytes()


def test_a_thousand_copies_move_nearly_as_fast_as_one():
    def seconds(copies):
        env, actions = CoordinationGame(copies, steps=100), np.zeros((copies, 3), np.int64)
        best = np.inf
        for _ in range(3):
            env.reset(range(copies))
            begun = time.perf_counter()
            for _ in range(100):
                env.step(actions)
            best = min(best, time.perf_counter() - begun)
        return best / 100

    one, many = seconds(1), seconds(1000)
    print(f"coordination: {1 / one:,.0f} steps/s with 1 copy, {1000 / many:,.0f} with 1000")
    assert many < 300 * one  # a busy machine is noisy; one after the other would take 1,000 times as long


def test_who_agrees_is_told_by_the_last_choices() -> None:
    env = CoordinationGame(3)
    env.reset([0, 1, 2])
    seen, *_ = env.step(np.array([[2, 2, 2], [0, 1, 0], [1, 1, 1]]))
    found = environments.get("coordination").conventions(seen.state, None)
    assert found.followed.tolist() == [[2, 2, 2], [0, 1, 0], [1, 1, 1]]
    assert found.agreed.tolist() == [True, False, True]
    assert found.counts() == {"red": 0, "green": 1, "blue": 1, "apart": 1}
    assert type(found).from_plain(json.loads(json.dumps(found.plain()))).counts() == found.counts()


def test_an_episode_goes_on_from_recorded_states_of_any_time() -> None:
    env = CoordinationGame(2)
    env.reset([0, 1])
    states = [env.step(np.full((2, 3), choice))[0].state for choice in (0, 2)]
    seen = env.restore(np.stack([states[0][0], states[1][1]]))
    assert np.array_equal(seen.state, np.stack([states[0][0], states[1][1]]))
    assert env.clock.tolist() == [1, 2]
    for _ in range(4):
        _, rewards, over, _ = env.step(np.array([[1, 1, 1], [1, 1, 0]]))
        assert rewards[:, 0].tolist() == [1, 0]
    assert over.tolist() == [False, True]
    after, rewards, over, _ = env.step(np.array([[1, 1, 1], [1, 1, 1]]))
    assert (
        over.all() and rewards[:, 0].tolist() == [1, 0] and after.state[1, :9].tolist() == [0, 1, 0, 0, 1, 0, 1, 0, 0]
    )
    with pytest.raises(DataError, match="2 copies with 15 numbers of state"):
        env.restore(np.zeros((1, 4), np.float32))
