"""A team in a loop of one's own: forms, widths, memory and boxes."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offline_marl.algorithms.base import algorithms
from offline_marl.core.acting.history import WindowMemory
from offline_marl.core.types import DataError, Spec

WIDE, NARROW = 4, 2
UNEQUAL = Spec((WIDE, NARROW), (2, 1))
CHOICES = Spec((WIDE, NARROW), (3, 2), action_kind="discrete")


def team(spec=UNEQUAL, name="bc", **fields):
    kind = algorithms.get(name)
    torch.manual_seed(0)
    return kind(kind.Config(hidden=(8,), **fields), spec)


def rows(seed=0, copies=()):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(*copies, width)).astype("f4") for width in (WIDE, NARROW)]


def padded(obs):
    seen = torch.zeros(1, 2, WIDE)
    for agent, row in enumerate(obs):
        seen[0, agent, : len(row)] = torch.from_numpy(row)
    return seen


@pytest.mark.parametrize("name", ["bc", "ma-iql", "td3-bc"])
def test_a_dict_by_agent_comes_back_as_one_of_true_widths(name):
    learner, obs = team(name=name), rows()
    done = learner.actor(agents=["wolf", "hare"])({"hare": obs[1], "wolf": obs[0]})
    right = learner.act(padded(obs))[0]
    assert list(done) == ["hare", "wolf"] and isinstance(done["wolf"], np.ndarray)
    assert np.array_equal(done["wolf"], right[0].numpy()) and np.array_equal(done["hare"], right[1, :1].numpy())


def test_lists_tensors_and_arrays_come_back_as_they_were():
    learner, obs = team(), rows()
    right, actor = learner.act(padded(obs))[0], learner.actor
    lists = actor()([row.tolist() for row in obs])
    assert lists == [right[0].tolist(), right[1, :1].tolist()]
    tensors = actor()(tuple(torch.from_numpy(row) for row in obs))
    assert isinstance(tensors, tuple) and torch.equal(tensors[1], right[1, :1])
    array = actor()(padded(obs)[0].numpy())
    assert isinstance(array, np.ndarray) and np.array_equal(array, right.numpy())
    assert torch.equal(actor()(padded(obs).double()), right[None])


def test_choices_are_integers_and_masks_hold():
    learner, obs = team(CHOICES), rows()
    for allowed in range(3):
        mask = np.arange(3) == allowed
        done = learner.actor(explore=True)({"agent_0": {"observation": obs[0], "action_mask": mask}, "agent_1": obs[1]})
        assert done["agent_0"] == allowed and type(done["agent_0"]) is int and done["agent_1"] in (0, 1)
        given = learner.actor()(dict(zip(learner.spec.agents, obs, strict=True)), avail_actions={"agent_0": mask})
        assert given["agent_0"] == allowed


def test_a_history_is_kept_until_the_reset():
    learner = team(window=3)
    memory, actor = WindowMemory(UNEQUAL, 3, 1), learner.actor()
    first = None
    for time in range(5):
        obs = rows(time)
        right = learner.act(padded(obs), **memory.read())
        memory.remember(padded(obs), right, torch.zeros(1, 2))
        done = actor(obs)
        assert np.array_equal(done[0], right[0, 0].numpy()), time
        first = done if first is None else first
    assert not np.array_equal(actor(rows(0))[0], first[0])
    actor.reset()
    assert np.array_equal(actor(rows(0))[0], first[0])


def test_rewards_reach_a_memory_that_wants_them():
    learner, told = team(), []
    memory = SimpleNamespace(read=dict, remember=lambda obs, actions, rewards: told.append(rewards.tolist()))
    learner.begin = lambda copies, history=None: memory
    actor = learner.actor()
    for earned in (None, 2.0, {"agent_1": 1.0}, [3.0, 4.0], None):
        actor(rows(), rewards=earned)
    assert told == [[[2.0, 2.0]], [[0.0, 1.0]], [[3.0, 4.0]], [[0.0, 0.0]]]


def test_episodes_side_by_side_act_as_each_alone():
    learner, obs = team(window=2), rows(copies=(3,))
    actor, alone = learner.actor(), [learner.actor() for _ in range(3)]
    for _ in range(2):
        done = actor(obs)
        for number in range(3):
            one = alone[number]([row[number] for row in obs])
            assert all(np.allclose(many[number], single, atol=1e-6) for many, single in zip(done, one, strict=True))
    with pytest.raises(DataError, match="1 episodes were seen where 3 are under way"):
        actor(rows())


@pytest.mark.parametrize("spec", [UNEQUAL, CHOICES], ids=["continuous", "discrete"])
def test_who_was_absent_remembers_that_it_did_nothing_as_data_has_it(spec):
    learner, obs = team(spec, window=2), rows()
    with torch.no_grad():  # alone it would choose 1
        learner.actor.net.stack.layers[-1].bias[1, 0, 1] = 9.0
    actor, memory = learner.actor(), WindowMemory(spec, 2, 1)
    for there in (1, 2, 2):
        seen = padded(obs[:there])
        right = learner.act(seen, history=memory.history)
        done = actor(dict(zip(spec.agents, obs[:there], strict=False)))
        assert all(np.array_equal(done[agent], true_action(right, i, spec)) for i, agent in enumerate(done))
        assert torch.equal(actor._memory.history, memory.history) and bool(right[0, 1].ne(0).any())
        if there == 1:
            right[:, 1] = 0
        memory.remember(seen, right, torch.zeros(1, 2))


def true_action(actions, agent, spec):
    return actions[0, agent].numpy() if spec.discrete else actions[0, agent, : spec.act_dims[agent]].numpy()


def test_an_absent_agent_is_left_out_and_the_others_act_on_their_own():
    learner, obs = team(), rows()
    both = learner.actor()(dict(zip(learner.spec.agents, obs, strict=True)))
    one = learner.actor()({"agent_1": obs[1]})
    assert list(one) == ["agent_1"] and np.array_equal(one["agent_1"], both["agent_1"])
    assert learner.actor()({}) == {}


def test_actions_are_stretched_to_boxes():
    learner, obs = team(), rows()
    plain = learner.actor()(obs)
    boxes = [SimpleNamespace(low=np.array([[0.0], [-2.0]]), high=np.array([[1.0], [4.0]]), shape=(2, 1))]
    boxes.append(SimpleNamespace(low=np.array([5.0]), high=np.array([5.5]), shape=(1,)))
    done = learner.actor(action_spaces=boxes)(obs)
    assert done[0].shape == (2, 1)
    assert np.allclose(done[0].ravel(), [(plain[0][0] + 1) / 2, -2 + (plain[0][1] + 1) * 3], atol=1e-6)
    assert np.allclose(done[1], 5 + (plain[1] + 1) / 4, atol=1e-6)
    boxes[1] = SimpleNamespace(low=np.array([-np.inf]), high=np.array([1.0]), shape=(1,))
    with pytest.raises(DataError, match="agent_1 is no box of 1 bounded numbers"):
        learner.actor(action_spaces=boxes)


def test_a_copy_of_a_team_acts_by_itself():
    for name in ("bc", "td3-bc"):
        learner = team(name=name)
        other = copy.deepcopy(learner)
        for parameter in other.parameters():
            parameter.data.add_(0.5)
        assert not np.array_equal(learner.actor()(rows())[0], other.actor()(rows())[0])
        assert np.array_equal(other.actor()(rows())[0], other.act(padded(rows()))[0, 0].numpy())


@pytest.mark.parametrize(
    ("obs", "words"),
    [
        ({"wolf": np.zeros(4)}, "wolf is none of the team's agents"),
        ({"agent_0": np.zeros(3)}, "agent_0 has the shape"),
        ([np.zeros(4)], "1 rows, and the team 2 agents"),
        (np.zeros((2, 3)), "should be .agent, obs."),
        (np.zeros(4), "should be .agent, obs."),
        ([np.full(4, np.nan), np.zeros(2)], "not finite"),
        ([np.zeros((3, 4)), np.zeros((2, 2))], "more episodes"),
        ("abc", "is str"),
    ],
)
def test_what_the_team_does_not_see_is_refused(obs, words):
    with pytest.raises(DataError, match=words):
        team().actor()(obs)


def test_names_that_are_not_the_agents_are_refused():
    with pytest.raises(DataError, match="2 different names"):
        team().actor(agents=["a", "a"])


def test_a_team_of_one_takes_its_row_alone():
    learner = team(Spec((3,), (2,)))
    row = np.arange(3, dtype=np.float32)
    right = learner.act(torch.from_numpy(row)[None])[0].numpy()
    assert np.array_equal(learner.actor()(row), right)
    assert learner.actor()(row.tolist()) == right.tolist()
    vector = learner.actor()(np.stack([row, row]))
    assert vector.shape == (2, 2) and np.allclose(vector, right, atol=1e-6)
    assert np.array_equal(learner.actor()({"agent_0": row})["agent_0"], right)
