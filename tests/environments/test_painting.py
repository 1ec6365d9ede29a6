from __future__ import annotations

import numpy as np
import pytest

from offline_marl.core.partition import partition
from offline_marl.environments.base import MissingSimulatorError, environments

BLUE, ORANGE = (46, 134, 222), (240, 160, 20)


def of_colour(picture, color):
    """How many pixels have the hue of a colour, however bright the light makes them."""
    shown = picture.astype(float)
    bright = shown.max(-1)
    hue, wanted = shown / np.maximum(bright, 1)[..., None], np.array(color) / max(color)
    return int(((np.abs(hue - wanted).max(-1) < 0.12) & (bright > 40)).sum())


@pytest.mark.mujoco
def test_joints_wear_their_agents_colour_and_move_as_before():
    pytest.importorskip("mujoco")
    plain, painted = (environments.get("reacher").make(partition("reacher", "2x1", "full"), 1) for _ in range(2))
    painted.paint([BLUE, ORANGE])
    assert painted.fps == 50
    try:
        for env in (plain, painted):
            env.reset([3])
        before = plain.render()
    except MissingSimulatorError as error:
        pytest.skip(str(error))
    after = painted.render()
    assert min(of_colour(after, color) for color in (BLUE, ORANGE)) > 300
    assert of_colour(before, ORANGE) < 20 and before.mean() > 50, "the camera sees the arm, not the dark around it"
    for _ in range(3):
        (one, *rewards), (other, *same) = (env.step(np.ones((1, 2, 1), np.float32)) for env in (plain, painted))
        assert np.array_equal(one.state, other.state) and np.array_equal(rewards[0], same[0])
    for env in (plain, painted):
        env.close()


def test_particles_wear_colours_only_while_they_are_drawn():
    pytest.importorskip("mpe2")
    env = environments.get("simple-spread").make(None, 1)
    env.reset([3])
    own = [agent.color.copy() for agent in env._envs[0].unwrapped.world.agents]
    assert not of_colour(env.render(), ORANGE)
    env.paint([BLUE, ORANGE, BLUE])
    picture = env.render()
    assert of_colour(picture, ORANGE) > 300 and of_colour(picture, BLUE) > 600 and env.fps == 10
    for agent, color in zip(env._envs[0].unwrapped.world.agents, own, strict=True):
        assert np.array_equal(agent.color, color)
    env.close()
