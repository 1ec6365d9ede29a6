"""The environment's own tests: a step worked by hand, and what recording and imagining ask of it."""

from __future__ import annotations

import numpy as np
import pytest
from marl_example.environment import STEPS, Seesaw

from offline_marl.environments.base import environments


def test_the_registry_finds_the_plugin():
    assert environments.get("seesaw") is Seesaw


def test_one_step_by_hand():
    """From tilt 0.3 and speed 0.1, pushes 0.5 (left) and -1: speed 0.1 - 0.3 = -0.2, tilt 0.3 - 0.04 = 0.26."""
    env = Seesaw.make(None, 1)
    env.restore(np.array([[0.3, 0.1, 0.0]], np.float32))
    seen, rewards, terminations, _ = env.step(np.array([[[0.5], [-1.0]]], np.float32))
    clock = 1 / STEPS
    np.testing.assert_allclose(seen.obs[0], [[-0.26, 0.2, clock], [0.26, -0.2, clock]], atol=1e-6)
    np.testing.assert_allclose(rewards[0], [-(0.26**2) - 0.05 * 0.625] * 2, atol=1e-6)
    assert not terminations.any()


def test_the_same_seed_is_the_same_episode_in_any_copy():
    env = Seesaw.make(None, 3)
    assert np.array_equal(env.reset([4, 5, 6]).obs[1], env.reset([5]).obs[0])


def test_a_recorded_state_goes_on_where_it_was():
    env = Seesaw.make(None, 1)
    pushes = np.array([[[0.2], [0.7]]], np.float32)
    env.reset([1])
    state = env.step(pushes)[0].state
    straight = env.step(pushes)[0].obs
    env.restore(state)
    np.testing.assert_array_equal(env.step(pushes)[0].obs, straight)


@pytest.mark.parametrize(("pushes", "low", "high"), [("steady", -1.0, 0.0), ("none", -4.0, -0.3)])
def test_the_expert_levels_the_board(pushes, low, high):
    env = Seesaw.make(None, 50)
    seen, total = env.reset(range(50)), np.zeros(50)
    for _ in range(STEPS):
        actions = Seesaw.scripted("steady").act(seen.obs) if pushes == "steady" else np.zeros((50, 2, 1), np.float32)
        seen, rewards, terminations, _ = env.step(actions)
        total += rewards[:, 0]
    assert terminations.all() and low < total.mean() < high
