"""One side of MPE's tasks against chance: who acts how, and whose return is told."""

from __future__ import annotations

import numpy as np
import pytest

from offline_marl import train
from offline_marl.collection.collect import collect
from offline_marl.collection.config import CollectConfig
from offline_marl.core.config import build
from offline_marl.core.permissions import ImportPath
from offline_marl.core.types import DataError
from offline_marl.environments.base import environments

pytest.importorskip("mpe2")
from offline_marl.environments.parallel.factories import factory_of

TASKS = {"simple-adversary": 1, "simple-crypto": 1, "simple-push": 1, "simple-tag": 3, "simple-world-comm": 4}
"""With their number of adversaries."""


def told(name: str, side: str, continuous: bool, copies: int = 2):
    return environments.get(f"{name}-continuous" if continuous else name).told({"random_side": side}).make(None, copies)


def actions_of(env, draw, copies: int = 2):
    if env.spec.discrete:
        return draw.integers(0, env.spec.act_dims, (copies, env.spec.n_agents))
    return draw.uniform(-1, 1, (copies, env.spec.n_agents, env.spec.act_dim)).astype(np.float32)


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("side", ["adversaries", "good"])
@pytest.mark.parametrize("name", TASKS)
def test_one_side_acts_at_random_whatever_it_is_told_and_the_other_is_scored(name, side, continuous):
    env, plain = told(name, side, continuous), environments.get(name).make(None, 1)
    assert env.agents == plain.agents and env.spec.obs_dims == plain.spec.obs_dims
    first = slice(0, TASKS[name]) if side == "adversaries" else slice(TASKS[name], None)
    scored = slice(TASKS[name], None) if side == "adversaries" else slice(0, TASKS[name])
    ends = []
    for seed in (0, 1):  # what the random side is told differs, and what it is not
        draw, other = np.random.default_rng(5), np.random.default_rng(seed)
        shown, paid = [env.reset([3, 8]).obs], []
        for _ in range(25):
            actions = actions_of(env, draw)
            actions[:, first] = actions_of(env, other)[:, first]
            seen, rewards, _, cut = env.step(actions)
            shown.append(seen.obs)
            paid.append(rewards)
        assert cut.all()
        ends.append((np.stack(shown), np.stack(paid)))
    assert all(np.array_equal(one, again) for one, again in zip(*ends, strict=True))
    rewards = ends[0][1]
    np.testing.assert_allclose(rewards.mean(-1), rewards[..., scored].mean(-1), rtol=1e-4, atol=1e-5)
    assert np.abs(rewards[..., first] - rewards[..., scored].mean(-1, keepdims=True)).max() < 1e-4
    env.close()
    plain.close()


def test_random_choices_are_uniform_and_of_the_episode_alone():
    env = told("simple-tag", "good", continuous=False, copies=1)
    world = env._envs[0]
    assert world.random == ["agent_0"] and world.scored == ["adversary_0", "adversary_1", "adversary_2"]
    world.reset(seed=4)
    drawn = [world._uniform("agent_0") for _ in range(4000)]
    assert np.abs(np.bincount(drawn, minlength=5) / 4000 - 0.2).max() < 0.03
    world.reset(seed=4)
    assert [world._uniform("agent_0") for _ in range(50)] == drawn[:50]
    world.reset(seed=5)
    assert [world._uniform("agent_0") for _ in range(50)] != drawn[:50]
    env.close()


def test_without_the_setting_the_task_is_mpe2s_own_and_other_sides_are_refused():
    path = ImportPath("offline_marl.environments.opponents:simple_adversary")
    assert type(factory_of(path)()).__module__.startswith("pettingzoo")
    with pytest.raises(DataError, match="random_side should be adversaries or good, not 'prey'"):
        told("simple-adversary", "prey", continuous=False)


def test_adversaries_are_the_first_agents():
    for name, count in TASKS.items():
        env = environments.get(name).make(None, 1)
        bodies = env._envs[0].unwrapped.world.agents
        assert [body.adversary for body in bodies] == [True] * count + [False] * (env.spec.n_agents - count)
        assert [body.name for body in bodies] == list(env.agents)
        env.close()


def test_what_is_for_scores_alone_is_neither_recorded_nor_learnt_from(tmp_path):
    """Recorded actions of the random side would be those that nobody took."""
    said = "simple-tag with random_side is for scores alone"
    settings = {"random_side": "good"}
    with pytest.raises(DataError, match=said):
        collect(
            build(CollectConfig, {"environment": "simple-tag", "out": tmp_path / "a.safetensors", "settings": settings})
        )
    for algorithm in ("maddpg", "ma-ppo"):
        out = tmp_path / algorithm
        with pytest.raises(DataError, match=said):
            train(algorithm, environment="simple-tag", env_settings=settings, steps=1, batch_size=25, out=out)
        assert not (out / "config.json").exists()
    assert environments.get("simple-tag").told({"random_side": None}).for_scores == ""
    assert environments.get("simple-tag").told(settings).told({"num_obstacles": 1}).for_scores == "random_side"
