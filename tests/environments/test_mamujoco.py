from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offline_marl.core.partition import SCENARIOS, confs, partition
from offline_marl.core.permissions import ImportPath
from offline_marl.core.reference import UNIFORM_RETURNS, Reference
from offline_marl.core.types import DataError, Spec
from offline_marl.environments.base import environments
from offline_marl.environments.mamujoco import unhide
from offline_marl.runs.config import EnvironmentChoice
from offline_marl.tasks.data_tasks import RecordedTask
from offline_marl.tasks.run_tasks import scored_in_named

WALKERS = ("ant", "halfcheetah", "hopper", "humanoid", "humanoidstandup", "swimmer", "walker2d")
BODIES = (*WALKERS, "pusher", "invertedpendulum", "inverteddoublependulum")
RESTORED = (*WALKERS, "invertedpendulum", "inverteddoublependulum")
GYMNASIUM = {
    "ant": ("Ant-v5", {"include_cfrc_ext_in_observation": False}),
    "halfcheetah": ("HalfCheetah-v5", {}),
    "hopper": ("Hopper-v5", {}),
    "humanoid": ("Humanoid-v5", {}),
    "humanoidstandup": ("HumanoidStandup-v5", {}),
    "inverteddoublependulum": ("InvertedDoublePendulum-v5", {}),
    "invertedpendulum": ("InvertedPendulum-v5", {}),
    "pusher": ("Pusher-v5", {}),
    "reacher": ("Reacher-v5", {}),
    "swimmer": ("Swimmer-v5", {}),
    "walker2d": ("Walker2d-v5", {}),
}
"""All eleven, as Gymnasium makes them."""


def walked(name, steps, seed=3, scale=1.0):
    """States, actions, rewards and terminations of one random episode, up to its end."""
    simulator = environments.get(name).simulator(1)
    draw = np.random.default_rng(seed)
    states, actions, rewards, over = [simulator.reset([seed])], [], [], []
    for _ in range(steps):
        actions.append(draw.uniform(-scale, scale, (1, simulator.action_dim)).astype(np.float32))
        outcome = simulator.step(actions[-1])
        states.append(outcome.state)
        rewards.append(outcome.rewards)
        over.append(outcome.terminations)
        if outcome.terminations.any():
            break
    simulator.close()
    return tuple(np.concatenate(rows) for rows in (states, actions, rewards, over))


def test_every_partition_has_its_environment_and_every_body_says_what_it_is():
    assert set(SCENARIOS) <= set(environments.names())
    said = {entry.name: entry.summary for entry in environments.listings()}
    for name in BODIES:
        assert GYMNASIUM[name][0] in said[name] and all(conf in said[name] for conf in confs(name))


@pytest.mark.parametrize("name", BODIES)
def test_a_partition_of_another_body_is_refused(name):
    kind = environments.get(name)
    with pytest.raises(DataError, match=f"shares out reacher, but this is {name}"):
        kind.make(partition("reacher", "2x1", "0"), 1)
    with pytest.raises(DataError, match=f"{name} is one body: name the partition"):
        kind.make(None, 1)


def test_hidden_positions_become_0():
    positions, velocities = unhide(2, 5)(np.arange(8, dtype=np.float32))
    assert positions.tolist() == [0, 0, 0, 1, 2] and velocities.tolist() == [3, 4, 5, 6, 7]


@pytest.mark.mujoco
class TestSimulated:
    @pytest.fixture(autouse=True)
    def _needs_mujoco(self):
        pytest.importorskip("gymnasium")
        pytest.importorskip("mujoco")

    @pytest.mark.parametrize("name", BODIES)
    def test_every_partition_fits_its_simulator(self, name):
        for conf in confs(name):
            env = environments.get(name).make(partition(name, conf, "0"), 1)
            assert env.spec.n_agents == len(partition(name, conf, "0").agents)
            assert env.reset([0]).obs.shape == (1, env.spec.n_agents, env.spec.obs_dim)
            env.close()

    @pytest.mark.parametrize("name", RESTORED)
    def test_restored_copies_go_on_as_the_episode_did(self, name):
        # Float32 states and the solver's forgotten warm start round; fast hoppers are cut, hence small actions.
        # Forces of contact, which humanoids show last, differ most.
        states, actions, rewards, over = walked(name, 40, scale=0.3)
        simulator = environments.get(name).simulator(len(actions))
        simulator.restore(states[:-1])
        outcome = simulator.step(actions)
        simulator.close()
        close = np.isclose(outcome.state, states[1:], rtol=1e-3, atol=1e-3).all(axis=1)
        assert close.mean() >= 0.95, f"only {close.mean()} of the steps"
        np.testing.assert_allclose(outcome.rewards[close], rewards[close], atol=0.05 if name == "ant" else 2e-3)
        assert (outcome.terminations == over).all()

    @pytest.mark.parametrize("name", ["hopper", "ant"])
    def test_episodes_are_bit_equal_whatever_runs_beside_them(self, name):
        states, actions, *_ = walked(name, 10)
        simulator = environments.get(name).simulator(3)
        beside = simulator.reset([8, 3, 9])
        assert np.array_equal(beside[1], states[0])
        for step, action in enumerate(actions):
            assert np.array_equal(simulator.step(np.stack([-action, action, action * 0])).state[1], states[step + 1])
        simulator.close()


@pytest.mark.mujoco
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "theirs", "conf", "view"),
    [
        ("halfcheetah", "HalfCheetah", "2x3", "0t"),
        ("halfcheetah", "HalfCheetah", "6x1", "0t"),
        ("ant", "Ant", "4x2", "0t"),
        ("ant", "Ant", "2x4", "0t"),
        ("hopper", "Hopper", "3x1", "0t"),
        ("walker2d", "Walker2d", "2x3", "0t"),
        ("swimmer", "Swimmer", "2x1", "0t"),
        ("reacher", "Reacher", "2x1", "0"),
    ],
)
def test_the_same_trajectory_as_gymnasium_robotics_step_by_step(name, theirs, conf, view):
    mamujoco = pytest.importorskip("gymnasium_robotics").mamujoco_v1
    shares = partition(name, conf, view)
    ours, other = environments.get(name).make(shares, 1), mamujoco.parallel_env(theirs, agent_conf=conf, agent_obsk=0)
    seen, (obs, _) = ours.reset([5]), other.reset(seed=5)
    draw, bound = np.random.default_rng(0), other.action_space("agent_0").high[0]
    for _ in range(30):
        # Theirs holds contact forces behind the ant's own numbers.
        np.testing.assert_array_equal(seen.state[0], other.state()[: ours.spec.state_dim].astype(np.float32))
        for agent, width in enumerate(ours.spec.obs_dims):
            own, shown = seen.obs[0, agent, :width], obs[f"agent_{agent}"].astype(np.float32)
            if name == "ant":
                columns = other.observation_factorization[f"agent_{agent}"]
                shown = shown[np.array(columns) < ours.spec.state_dim]
            if name in {"hopper", "walker2d"}:
                shown = np.clip(shown, -10, 10)  # as their states do
            if name not in {"reacher", "swimmer"}:  # whose agents see other columns there
                np.testing.assert_array_equal(np.sort(own), np.sort(shown), err_msg=f"agent {agent}")
        actions = draw.uniform(-1, 1, (1, ours.spec.n_agents, ours.spec.act_dim)).astype(np.float32)
        # Their agents hold their joints in other orders.
        moved = other.map_global_action_to_local_actions(shares.join_actions(actions)[0] * bound)
        for agent, width in enumerate(ours.spec.act_dims):
            assert sorted(moved[f"agent_{agent}"]) == sorted(actions[0, agent, :width] * bound)
        seen, rewards, terminations, truncations = ours.step(actions)
        obs, paid, ended, cut, _ = other.step(moved)
        for agent in range(ours.spec.n_agents):
            # The cost of actions is summed in float32 there or here.
            assert rewards[0, agent] == pytest.approx(paid[f"agent_{agent}"], rel=1e-6, abs=1e-6)
            assert (terminations[0], truncations[0]) == (ended[f"agent_{agent}"], cut[f"agent_{agent}"])
        if terminations[0]:
            break
    ours.close()
    other.close()


@pytest.mark.mujoco
@pytest.mark.parametrize("name", GYMNASIUM)
def test_one_agent_lives_through_what_gymnasium_does_step_by_step(name):
    gymnasium = pytest.importorskip("gymnasium")
    env_id, options = GYMNASIUM[name]
    theirs = gymnasium.make(env_id, **options)
    joints = theirs.action_space.shape[0]
    ours = environments.get(name).make(partition(name, f"1x{joints}", "full"), 1)
    seen, (obs, _) = ours.reset([5]), theirs.reset(seed=5)
    assert (ours.spec.obs_dims, ours.spec.act_dims) == (obs.shape, (joints,))
    draw, bound = np.random.default_rng(0), theirs.action_space.high[0]
    for _ in range(60):
        np.testing.assert_array_equal(seen.obs[0, 0], obs.astype(np.float32))
        np.testing.assert_array_equal(seen.state[0], obs.astype(np.float32))
        actions = draw.uniform(-1, 1, (1, 1, joints)).astype(np.float32)
        seen, rewards, terminations, truncations = ours.step(actions)
        obs, reward, ended, cut, _ = theirs.step(actions[0, 0] * bound)
        assert rewards[0, 0] == np.float32(reward) and (terminations[0], truncations[0]) == (ended, cut)
        if ended or cut:
            break
    ours.close()
    theirs.close()


@pytest.mark.mujoco
class TestSettings:
    @pytest.fixture(autouse=True)
    def _needs_mujoco(self):
        pytest.importorskip("gymnasium")
        pytest.importorskip("mujoco")

    def test_a_hopper_that_may_lie_down_goes_on_and_its_clock_is_the_one_given(self):
        lying = environments.get("hopper").told({"terminate_when_unhealthy": False}, 40)
        env, plain = (kind.make(partition("hopper", "1x3", "full"), 1) for kind in (lying, environments.get("hopper")))
        rows = []
        for each in (env, plain):
            each.reset([0])
            over, cut, steps = [False], [False], 0
            while not (over[0] or cut[0]):
                _, _, over, cut = each.step(np.full((1, 1, 3), -1, np.float32))
                steps += 1
            rows.append((steps, bool(over[0]), bool(cut[0])))
            each.close()
        assert env.max_steps == 40 and rows[0] == (40, False, True)
        assert rows[1][0] < 40 and rows[1][1:] == (True, False), "it falls"

    def test_rewards_follow_the_settings(self):
        kind = environments.get("invertedpendulum")
        env = environments.get("hopper").told({"healthy_reward": 5, "ctrl_cost_weight": 0.0}).simulator(1)
        plain = environments.get("hopper").told({"ctrl_cost_weight": 0.0}).simulator(1)
        still = np.zeros((1, 3), np.float32)
        for each in (env, plain):
            each.reset([0])
        assert env.step(still).rewards[0] - plain.step(still).rewards[0] == pytest.approx(4)
        assert kind.told({}, None) is kind

    def test_equal_settings_are_the_same_environment_and_later_ones_go_over_earlier_ones(self):
        ant = environments.get("ant")
        one = ant.told({"healthy_reward": 2.0, "frame_skip": 3}, 9)
        assert one is ant.told({"frame_skip": 3, "healthy_reward": 2.0}, 9) and one is not ant.told({}, 9)
        again = one.told({"frame_skip": 4})
        assert dict(again.options) == {**dict(one.options), "frame_skip": 4}
        assert ant.options == {"include_cfrc_ext_in_observation": False}


@pytest.mark.mujoco
def test_data_is_scored_in_the_body_that_it_was_recorded_in_settings_and_clock_included():
    pytest.importorskip("mujoco")
    shares = partition("hopper", "1x3", "full")
    about = {"scenario": "hopper", "settings": {"terminate_when_unhealthy": False}, "max_steps": 30}
    recorded = RecordedTask(
        id="mine",
        spec=Spec(shares.obs_dims, shares.act_dims, 11),
        about=about,
        partition=shares,
        reference=None,
        named_environment=None,
        random_return=None,
    )
    assert recorded.environment is environments.get("hopper").told(about["settings"], 30)
    env = recorded.make_env(1)
    assert env.max_steps == 30
    env.close()
    plain = scored_in_named(recorded, EnvironmentChoice(environment="hopper_1x3_full"), ImportPath)
    assert plain.elsewhere and plain.environment is environments.get("hopper")
    again = EnvironmentChoice(environment="hopper_1x3_full", env_settings=about["settings"], max_steps=30)
    assert not scored_in_named(recorded, again, ImportPath).elsewhere
    assert (recorded.uniform_return, plain.uniform_return) == (None, UNIFORM_RETURNS["hopper"])
    assert replace(plain, random_return=3.0).uniform_return == 3, "what was measured there stands"
    assert replace(plain, reference=Reference(0, 1)).uniform_return is None
    assert set(UNIFORM_RETURNS) == set(SCENARIOS)
    hostile = replace(recorded, about={**about, "settings": {"xml_file": "/etc/passwd"}})
    with pytest.raises(DataError, match="cannot be made with xml_file"):
        hostile.make_env(1)


@pytest.mark.mujoco
def test_a_pusher_cannot_be_restored_since_its_states_do_not_tell_all():
    pytest.importorskip("mujoco")
    simulator = environments.get("pusher").simulator(1)
    with pytest.raises(DataError, match="do not tell all positions and velocities"):
        simulator.restore(np.zeros((1, 23), np.float32))
    simulator.close()
