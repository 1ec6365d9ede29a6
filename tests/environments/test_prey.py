from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from offline_marl.core.permissions import ImportPath
from offline_marl.core.types import DataError
from offline_marl.environments.base import MissingSimulatorError, environments

pytest.importorskip("mpe2")
from offline_marl.environments.parallel.factories import factory_of
from offline_marl.environments.prey import MOVES, Flight, HuntersOnly, parallel_env


def alone(x, y, *hunters):
    """What a prey at rest sees: two obstacles far away, and its hunters."""
    seen = [0, 0, x, y, 5, 5, 5, -5]
    for hunter in hunters:
        seen += [hunter[0] - x, hunter[1] - y]
    return np.array(seen, np.float32)


@pytest.mark.parametrize(
    ("obs", "choice"),
    [
        (alone(0, 0, (0.3, 0), (0.3, 0.1), (0.3, -0.1)), 1),
        (alone(0, 0, (-0.3, 0), (-0.3, 0.1), (-0.3, -0.1)), 2),
        (alone(0, 0, (0, 0.3), (0.1, 0.3), (-0.1, 0.3)), 3),
        (alone(0, 0, (0.3, 0), (-0.3, 0), (0, 0.3)), 3),
        (alone(-0.95, 0, (-0.6, -0.2), (-0.6, -0.2), (-0.6, -0.2)), 4),  # not over the edge
    ],
)
def test_the_scripted_prey_flees_where_there_is_room(obs, choice):
    assert Flight(2, 3)(obs) == choice


def hunted(settings, chasing, copies=12):
    """Mean return of hunters that chase greedily, or stand still."""
    env = environments.get("simple-tag-prey").told(settings).make(None, copies)
    seen, total = env.reset(list(range(copies))), 0.0
    for _ in range(env.max_steps):
        actions = (seen.obs[..., 12:14] @ MOVES.T.astype(np.float32)).argmax(-1)
        seen, rewards, _, _ = env.step(actions if chasing else np.zeros_like(actions))
        total += float(rewards.mean())
    env.close()
    return total


def test_hunters_alone_are_the_team_and_the_scripted_prey_is_hard_to_catch(monkeypatch):
    module = ModuleType("lazy_prey")
    module.stay = lambda obs: 0
    monkeypatch.setitem(sys.modules, "lazy_prey", module)
    caught = hunted({"prey": ImportPath("lazy_prey:stay")}, chasing=True)
    assert caught > 2 * hunted({}, chasing=True) > 0 and hunted({}, chasing=False) < 3


@pytest.mark.parametrize("continuous", [False, True])
def test_episodes_are_those_of_tag_with_the_preys_actions_put_in(continuous):
    name = "simple-tag-prey-continuous" if continuous else "simple-tag-prey"
    env = environments.get(name).make(None, 1)
    assert env.spec.obs_dims == (16, 16, 16) and env.spec.act_dims == (5, 5, 5) and env.spec.state_dim == 62
    assert env.agents == ("adversary_0", "adversary_1", "adversary_2") and "mpe2" in env.versions()
    whole = factory_of(ImportPath("mpe2.simple_tag_v3"))(max_cycles=25, continuous_actions=continuous)
    seen, (obs, _) = env.reset([6]), whole.reset(seed=6)
    prey, draw = Flight(2, 3), np.random.default_rng(0)
    for step in range(25):
        assert all(np.array_equal(seen.obs[0, i], obs[agent]) for i, agent in enumerate(env.agents))
        chosen = draw.integers(0, 5, 3)
        eye = np.eye(5, dtype=np.float32)
        fled = prey(obs["agent_0"])
        done = {agent: eye[chosen[i]] if continuous else int(chosen[i]) for i, agent in enumerate(env.agents)}
        seen, rewards, over, cut = env.step(2 * eye[chosen][None] - 1 if continuous else chosen[None])
        obs, paid, *_ = whole.step({**done, "agent_0": eye[fled] if continuous else fled})
        assert rewards[0].tolist() == [paid[agent] for agent in env.agents]
        assert not over[0] and cut[0] == (step == 24)
    env.close()


def test_a_prey_of_ones_own_is_heard_and_its_mistakes_are_told():
    def answer(prey, continuous=False):
        env = parallel_env(prey, max_cycles=3, continuous_actions=continuous)
        assert isinstance(env, HuntersOnly)
        env.reset(seed=0)
        still = np.zeros(5, np.float32) if continuous else 0
        return env.step(dict.fromkeys(env.agents, still))

    answer(lambda obs: [0.1] * 5, continuous=True)
    with pytest.raises(DataError, match="The prey chose 7, which is none of the choices 0 to 4"):
        answer(lambda obs: 7)
    with pytest.raises(DataError, match="should be 5 finite numbers"):
        answer(lambda obs: [0.1] * 4, continuous=True)
    with pytest.raises(DataError, match="The prey 'nobody' should be the import path of a function"):
        parallel_env("nobody")
    with pytest.raises(MissingSimulatorError, match="no_such_prey cannot be imported here"):
        parallel_env(ImportPath("no_such_prey:flee"))
