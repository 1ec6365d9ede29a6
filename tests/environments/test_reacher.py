from __future__ import annotations

import numpy as np
import pytest

from offline_marl.core.partition import partition
from offline_marl.core.registry import RegistryError
from offline_marl.core.types import DataError
from offline_marl.environments.base import environments
from offline_marl.environments.reacher import (
    COSINES,
    SINES,
    TARGET,
    Arm,
    ArmSimulator,
    ElbowExpert,
    Reacher,
    leave_out_idle_stages,
    read_arm,
    sides_of,
    to_physics,
)
from offline_marl.environments.split import GymnasiumSimulator

ARM = Arm(upper=0.1, lower=0.11, elbow_limit=3.0)


def _fingertip(angles):
    first, both = angles[..., 0], angles.sum(axis=-1)
    x = ARM.upper * np.cos(first) + ARM.lower * np.cos(both)
    return np.stack([x, ARM.upper * np.sin(first) + ARM.lower * np.sin(both)], axis=-1)


def _state(angles, target, velocities=(0.0, 0.0)):
    angles = np.asarray(angles)
    return np.concatenate([np.cos(angles), np.sin(angles), target, velocities, [0, 0]]).astype(np.float32)[None]


def _roll(name, seeds, copies):
    simulator, expert = Reacher.simulator(copies), Reacher.scripted(name)
    states, rewards, actions = [], [], []
    for start in range(0, len(seeds), copies):
        chunk = [simulator.reset(seeds[start : start + copies])]
        for _ in range(simulator.max_steps):
            actions.append(expert.act(chunk[-1]))
            outcome = simulator.step(actions[-1])
            chunk.append(outcome.state)
            rewards.append(outcome.rewards)
        assert outcome.truncations.all() and not outcome.terminations.any()
        states.append(np.stack(chunk))
    simulator.close()
    returns = np.concatenate(np.split(np.array(rewards), len(states)), axis=1) if len(seeds) % copies == 0 else None
    return np.concatenate(states, axis=1), returns


def test_the_registry_knows_reacher():
    assert environments.get("reacher") is Reacher
    assert "reacher" in environments.names() and "split" not in environments.names()


def test_importing_environments_pulls_in_no_simulator(warm):
    names = ("reacher", "mamujoco", "mpe", "parallel.entry", "coordination", "rendezvous")
    code = (
        f"import sys, {', '.join(f'offline_marl.environments.{name}' for name in names)}\n"
        "print(sorted({'gymnasium', 'mujoco', 'gymnasium_robotics', 'pettingzoo', 'mpe2'} & set(sys.modules)))"
    )
    done = warm.run("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("side", [-1, 1])
def test_both_solutions_put_the_fingertip_on_the_target(side):
    points = np.random.default_rng(0).uniform(-0.14, 0.14, (500, 2))
    points = points[np.hypot(*points.T) > 0.02]
    angles = ARM.angles(points, side)
    assert (np.sign(angles[:, 1]) == side).all()
    assert np.allclose(_fingertip(angles), points, atol=1e-12)


def test_a_right_angle_worked_by_hand():
    # Elbow at (0.1, 0), forearm straight up or, mirrored, down: the shoulder need not turn.
    assert np.allclose(ARM.angles(np.array([0.1, 0.11]), 1), [0, np.pi / 2])
    assert np.allclose(ARM.angles(np.array([0.1, -0.11]), -1), [0, -np.pi / 2])


@pytest.mark.parametrize("side", [-1, 1])
def test_targets_out_of_reach_are_moved_to_the_nearest_reach(side):
    far, near = ARM.angles(np.array([[0.0, 0.5], [0.0, 0.0]]), side)
    assert np.allclose(far, [np.pi / 2, 0], atol=1e-7)
    assert near[1] == pytest.approx(side * 3.0)


def test_the_shoulder_takes_the_short_way_round():
    # The solution lies 0.2 rad past pi, the arm 0.2 rad before it: turn on, not back.
    goal = np.array([np.pi + 0.2, 1.0])
    torque = ElbowExpert("counterclockwise", ARM, 1).act(_state([np.pi - 0.2, 1.0], _fingertip(goal)))
    assert np.allclose(torque, [[0.1 * 0.4, 0.0]], atol=1e-6)


def test_velocities_brake_and_torques_stay_in_bounds():
    expert = ElbowExpert("counterclockwise", ARM, 1)
    pose = np.array([0.3, 1.0])
    slow = expert.act(_state(pose, _fingertip(pose), (5.0, -10.0)))
    assert np.allclose(slow, [[-0.1, 0.2]], atol=1e-6)
    assert expert.act(_state(pose, _fingertip(pose), (500.0, -500.0))).tolist() == [[-1, 1]]
    assert slow.dtype == np.float32


def test_experts_that_do_not_exist_are_answered_with_the_list():
    assert Reacher.experts == ("clockwise", "counterclockwise")
    with pytest.raises(RegistryError, match="no scripted expert 'clokwise': did you mean 'clockwise'"):
        Reacher.scripted("clokwise")


def test_a_partition_of_another_body_is_refused():
    with pytest.raises(DataError, match="shares out hopper, but this is reacher"):
        Reacher.make(partition("hopper", "3x1", "0"), 1)
    with pytest.raises(DataError, match="reacher is one body: name the partition"):
        Reacher.make(None, 1)


@pytest.mark.mujoco
class TestSimulated:
    """What needs the real arm."""

    @pytest.fixture(autouse=True)
    def _needs_mujoco(self):
        pytest.importorskip("gymnasium")
        pytest.importorskip("mujoco")

    def test_the_arm_is_read_from_the_model(self):
        assert read_arm() == ARM

    @pytest.mark.parametrize(("name", "side"), [("clockwise", -1), ("counterclockwise", 1)])
    def test_each_expert_reaches_with_its_own_elbow(self, name, side):
        states, rewards = _roll(name, range(100), 50)
        elbows = np.arctan2(states[-1, :, 3], states[-1, :, 1])
        assert (np.sign(elbows) == side).mean() > 0.95
        assert np.hypot(states[-1, :, 8], states[-1, :, 9]).mean() < 0.04
        assert -5.4 < rewards.sum(axis=0).mean() < -4.0

    def test_episodes_are_bit_equal_whatever_the_number_of_copies(self):
        seeds = [11, 2, 33, 4, 55, 6, 77]
        together, _ = _roll("clockwise", seeds, 7)
        for copies in (1, 3, 12):
            assert np.array_equal(_roll("clockwise", seeds, copies)[0], together)

    def test_the_team_moves_the_arm_as_the_joint_action_does(self):
        env, simulator = Reacher.make(partition("reacher", "2x1notip", "0"), 2), Reacher.simulator(2)
        env.reset([1, 2])
        simulator.reset([1, 2])
        joint = np.array([[0.2, -0.4], [0.6, 0.8]], np.float32)
        for _ in range(5):
            seen, rewards, _, _ = env.step(joint[:, :, None])
            outcome = simulator.step(joint)
        assert np.array_equal(seen.state, outcome.state)
        assert np.array_equal(rewards, np.stack([outcome.rewards] * 2, axis=1))


class TestConventions:
    def ends(self, env, expert: str, seeds) -> np.ndarray:
        seen, act = env.reset(seeds), Reacher.scripted(expert).act
        for _ in range(env.max_steps):
            seen, *_ = env.step(act(seen.state)[..., None])
        return seen.state

    def test_each_expert_is_told_by_where_its_joints_end(self) -> None:
        pytest.importorskip("mujoco")
        shares = partition("reacher", "2x1notip", "0")
        env = Reacher.make(shares, 12)
        for number, name in enumerate(("clockwise", "counterclockwise")):
            found = Reacher.conventions(self.ends(env, name, range(12)), shares)
            assert (found.followed == number).all() and found.agreed.all()
            assert found.counts() == {"clockwise": 0, "counterclockwise": 0, "apart": 0} | {name: 12}
            assert found.targets is not None and found.targets.shape == (12, 2)

    def test_a_shoulder_of_one_and_an_elbow_of_the_other_are_apart(self) -> None:
        arm = Arm(upper=0.1, lower=0.11, elbow_limit=3.0)
        target = np.array([[0.12, 0.05]])
        clockwise, other = arm.angles(target, -1)[0], arm.angles(target, 1)[0]
        for shoulder, elbow, told in (
            (clockwise[0], clockwise[1], [0, 0]),
            (clockwise[0], other[1], [0, 1]),
            (other[0] + 2 * np.pi - 0.1, clockwise[1] - 0.2, [1, 0]),
        ):
            state = np.zeros((1, 10), np.float32)
            angles = np.array([shoulder, elbow])
            state[0, COSINES], state[0, SINES], state[0, TARGET] = np.cos(angles), np.sin(angles), target
            assert sides_of(state, arm).tolist() == [told]


@pytest.mark.mujoco
@pytest.mark.parametrize("settings", [{}, {"reward_dist_weight": 3, "reward_control_weight": 0.25, "frame_skip": 1}])
def test_the_arm_steps_as_gymnasium_steps_it_to_the_bit(settings):
    pytest.importorskip("mujoco")
    ours, theirs = (kind("Reacher-v5", 3, to_physics, **settings) for kind in (ArmSimulator, GymnasiumSimulator))
    rng = np.random.default_rng(0)

    def compare(steps):
        for _ in range(steps):
            actions = rng.uniform(-1.5, 1.5, (3, 2)).astype(np.float32)
            mine, yours = ours.step(actions), theirs.step(actions)
            for field in ("state", "rewards", "terminations", "truncations"):
                left, right = getattr(mine, field), getattr(yours, field)
                assert left.dtype == right.dtype and np.array_equal(left, right), field
            assert ours.infos() == theirs.infos()

    start = ours.reset([1, 2, 3])
    assert np.array_equal(start, theirs.reset([1, 2, 3])) and ours.infos() == theirs.infos() == [{}, {}, {}]
    compare(52)
    assert np.array_equal(ours.reset([4, 5, 6]), theirs.reset([4, 5, 6]))
    compare(7)
    assert np.array_equal(ours.restore(start), theirs.restore(start))
    compare(51)
    for simulator in (ours, theirs):
        simulator.close()


@pytest.mark.mujoco
def test_reacher_is_stepped_without_wrappers():
    pytest.importorskip("mujoco")
    assert type(Reacher.simulator(1)) is ArmSimulator


BODY = '<body><joint {joint}/><geom size=".1" {geom}/></body>'
WORLD = "<mujoco><worldbody>{bodies}</worldbody>{more}</mujoco>"


@pytest.mark.mujoco
@pytest.mark.parametrize(
    ("joint", "geom", "more", "needed"),
    [
        ("", 'contype="0" conaffinity="1"', "", None),
        ("", "", "", "CONTACT"),
        ("", 'contype="0" name="{name}"', '<contact><pair geom1="a" geom2="b"/></contact>', "CONTACT"),
        ('name="{name}"', 'contype="0"', '<equality><joint joint1="a" joint2="b"/></equality>', "EQUALITY"),
        ('frictionloss="1"', 'contype="0"', "", "FRICTIONLOSS"),
        ('name="{name}"', 'contype="0"', '<sensor><jointpos joint="a"/></sensor>', "SENSOR"),
    ],
)
def test_only_stages_without_work_are_left_out(joint, geom, more, needed):
    mujoco = pytest.importorskip("mujoco")
    bodies = "".join(BODY.format(joint=joint.format(name=name), geom=geom.format(name=name)) for name in "ab")
    model = mujoco.MjModel.from_xml_string(WORLD.format(bodies=bodies, more=more))
    leave_out_idle_stages(model)
    for stage in ("CONTACT", "EQUALITY", "FRICTIONLOSS", "SENSOR"):
        bit = int(getattr(mujoco.mjtDisableBit, f"mjDSBL_{stage}"))
        assert bool(model.opt.disableflags & bit) == (stage != needed), stage
