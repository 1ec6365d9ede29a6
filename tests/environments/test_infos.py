from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from offline_marl.core.partition import partition
from offline_marl.environments.base import environments
from offline_marl.environments.infos import flat, particle_infos


def body(x, y, size=0.1, collide=True):
    return SimpleNamespace(state=SimpleNamespace(p_pos=np.array([x, y], float)), size=size, collide=collide)


def test_an_agent_touches_others_that_can_collide_and_stands_on_what_it_is_near_to():
    agents = [body(0, 0), body(0.15, 0), body(0.5, 0), body(0.05, 0, collide=False)]
    landmarks = [body(0.09, 0, collide=False), body(0.59, 0, collide=False), body(5, 5, collide=False)]
    world = SimpleNamespace(agents=agents, landmarks=landmarks)
    told = [particle_infos(world, agent) for agent in agents]
    assert [info["collisions"] for info in told] == [1, 1, 0, 0], "neither itself nor who cannot collide"
    assert {info["occupied_landmarks"] for info in told} == {2}, "of the team, by whomever"
    assert [info["on_landmarks"] for info in told] == [1, 1, 1, 1]
    agents[2].state.p_pos[0] = 0.7
    assert particle_infos(world, agents[2])["occupied_landmarks"] == 1


def test_landmarks_that_are_obstacles_are_occupied_by_nobody():
    world = SimpleNamespace(agents=[body(0, 0)], landmarks=[body(0, 0)])
    assert particle_infos(world, world.agents[0]) == {"collisions": 0}


def test_infos_become_plain_values_by_name():
    told = {
        "speed": np.float32(1.5),
        "fallen": np.bool_(True),
        "where": np.array([1.0, 2.0]),
        "pair": (3, 4),
        "within": {"deep": {"er": 5}},
        "image": np.zeros((4, 5)),
        "words": "fine",
        "nothing": None,
        "odd": [[1], [2, 3]],
    }
    assert flat(told) == {
        "speed": 1.5,
        "fallen": True,
        "where_0": 1.0,
        "where_1": 2.0,
        "pair_0": 3,
        "pair_1": 4,
        "within.deep.er": 5,
        "image": np.zeros((4, 5)).tolist(),
        "words": "fine",
        "nothing": None,
        "odd": "[[1], [2, 3]]",
    }


@pytest.mark.parametrize("name", ["simple-spread", "simple-tag", "simple-tag-prey", "simple-adversary"])
def test_particle_worlds_tell_of_each_agent_what_their_own_benchmark_counts(name):
    pytest.importorskip("mpe2")
    env = environments.get(name).make(None, 2)
    env.reset([0, 1])
    for _ in range(3):
        env.step(np.ones((2, env.spec.n_agents), np.int64))
    for told, raw in zip(env.infos(), [each.unwrapped for each in env._envs], strict=True):
        assert list(told) == list(env.agents)
        bodies = {agent.name: agent for agent in raw.world.agents}
        for agent, info in told.items():
            theirs = raw.scenario.benchmark_data(bodies[agent], raw.world)
            assert info["benchmark_data"] == theirs
            if name == "simple-spread":
                assert (info["collisions"], info["occupied_landmarks"]) == (theirs[1], theirs[3])
            assert ("occupied_landmarks" in info) == ("tag" not in name)
    env.close()


@pytest.mark.mujoco
def test_a_body_tells_all_its_agents_what_gymnasium_tells():
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")
    env, theirs = environments.get("hopper").make(partition("hopper", "3x1", "0"), 1), gymnasium.make("Hopper-v5")
    env.reset([0])
    theirs.reset(seed=0)
    assert env.infos() == [{agent: {} for agent in env.agents}]
    env.step(np.full((1, 3, 1), 0.5, np.float32))
    expected = theirs.step(np.full(3, 0.5, np.float32))[4]
    assert env.infos() == [dict.fromkeys(("agent_0", "agent_1", "agent_2"), expected)]
    assert "x_velocity" in expected
    env.close()
    theirs.close()
