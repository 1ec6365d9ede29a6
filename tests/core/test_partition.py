"""Every table of partition.py against the MuJoCo model it speaks of, and a few by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offline_marl.core.partition import SCENARIOS, Partition, confs, explain_conf, partition, split_task, views

OBS_DIM = {"reacher": 10, "ant": 27, "halfcheetah": 17, "hopper": 11, "swimmer": 8, "walker2d": 17}
OBS_DIM |= {"humanoid": 348, "humanoidstandup": 348, "pusher": 23, "invertedpendulum": 4, "inverteddoublependulum": 9}
ACT_DIM = {"reacher": 2, "ant": 8, "halfcheetah": 6, "hopper": 3, "swimmer": 2, "walker2d": 6}
ACT_DIM |= {"humanoid": 17, "humanoidstandup": 17, "pusher": 7, "invertedpendulum": 1, "inverteddoublependulum": 1}
IDS = {"halfcheetah": "HalfCheetah", "walker2d": "Walker2d", "humanoidstandup": "HumanoidStandup"}
IDS |= {"invertedpendulum": "InvertedPendulum", "inverteddoublependulum": "InvertedDoublePendulum"}
ARMS_AND_POLES = ("reacher", "pusher", "invertedpendulum", "inverteddoublependulum")
"""Bodies without a torso."""

# Joint names of the models, written out again here so that a slip in the tables cannot hide behind itself.
BACK, FRONT = ["bthigh", "bshin", "bfoot"], ["fthigh", "fshin", "ffoot"]
RIGHT, LEFT = ["thigh_joint", "leg_joint", "foot_joint"], ["thigh_left_joint", "leg_left_joint", "foot_left_joint"]
FRONT_LEFT, FRONT_RIGHT = ["hip_1", "ankle_1"], ["hip_2", "ankle_2"]
BACK_LEFT, BACK_RIGHT = ["hip_3", "ankle_3"], ["hip_4", "ankle_4"]
SHOULDER = ["r_shoulder_pan_joint", "r_shoulder_lift_joint", "r_upper_arm_roll_joint"]
WRIST = ["r_forearm_roll_joint", "r_wrist_flex_joint", "r_wrist_roll_joint"]
ABDOMEN = ["abdomen_z", "abdomen_y", "abdomen_x"]
LEGS = [f"{side}_{joint}" for side in ("right", "left") for joint in ("hip_x", "hip_z", "hip_y", "knee")]
ARMS = [f"{side}_{joint}" for side in ("right", "left") for joint in ("shoulder1", "shoulder2", "elbow")]
OWN = {
    ("reacher", "2x1"): [["joint0"], ["joint1"]],
    ("reacher", "2x1notip"): [["joint0"], ["joint1"]],
    ("reacher", "2x1first"): [["joint0"], ["joint1"]],
    ("reacher", "2x1second"): [["joint0"], ["joint1"]],
    ("ant", "4x2"): [FRONT_LEFT, FRONT_RIGHT, BACK_LEFT, BACK_RIGHT],
    ("ant", "t4x2"): [FRONT_LEFT, FRONT_RIGHT, BACK_LEFT, BACK_RIGHT],
    ("ant", "2x4"): [FRONT_LEFT + FRONT_RIGHT, BACK_LEFT + BACK_RIGHT],
    ("ant", "2x4d"): [FRONT_LEFT + BACK_RIGHT, FRONT_RIGHT + BACK_LEFT],
    ("halfcheetah", "2x3"): [BACK, FRONT],
    ("halfcheetah", "6x1"): [[joint] for joint in BACK + FRONT],
    ("hopper", "3x1"): [[joint] for joint in RIGHT],
    ("swimmer", "2x1"): [["motor1_rot"], ["motor2_rot"]],
    ("walker2d", "2x3"): [RIGHT, LEFT],
    ("walker2d", "6x1"): [[joint] for joint in RIGHT + LEFT],
    ("pusher", "3p"): [SHOULDER, ["r_elbow_flex_joint"], WRIST],
    ("pusher", "7x1"): [[joint] for joint in [*SHOULDER, "r_elbow_flex_joint", *WRIST]],
    **{(body, "9|8"): [ABDOMEN + ARMS, LEGS] for body in ("humanoid", "humanoidstandup")},
    **{(body, "17x1"): [[joint] for joint in ABDOMEN + LEGS + ARMS] for body in ("humanoid", "humanoidstandup")},
}
# One agent that moves all that the agents of another conf move.
WHOLE = {"reacher": "2x1", "ant": "4x2", "halfcheetah": "6x1", "hopper": "3x1", "swimmer": "2x1", "walker2d": "6x1"}
WHOLE |= {"humanoid": "17x1", "humanoidstandup": "17x1", "pusher": "7x1"}
OWN |= {(body, f"1x{ACT_DIM[body]}"): [list(chain(*OWN[body, conf]))] for body, conf in WHOLE.items()}
OWN |= {(body, "1x1"): [["slider"]] for body in ("invertedpendulum", "inverteddoublependulum")}
TORSO_PARTS = {
    "0": "",
    "0t": "still vx vy vz",
    "0tv": "vx vy vz",
    "0txv": "vx",
    "0tyv": "vy",
    "0txyv": "vx vy",
    "0tnv": "still",
}


class Probe:
    """Moves one coordinate of the simulator at a time and reports which observation columns follow."""

    def __init__(self, scenario: str) -> None:
        gymnasium = pytest.importorskip("gymnasium")
        self.mujoco = pytest.importorskip("mujoco")
        name = IDS.get(scenario, scenario.capitalize())
        # Of what humanoids show only the first columns are positions and velocities.
        self.positions = 45 if scenario.startswith("humanoid") else None
        options: dict[str, Any] = {"include_cfrc_ext_in_observation": False} if scenario == "ant" else {}
        self.env = gymnasium.make(f"{name}-v5", **options).unwrapped
        self.env.reset(seed=0)
        self.model, self.data = self.env.model, self.env.data

    def observe(self) -> np.ndarray:
        self.mujoco.mj_kinematics(self.model, self.data)
        self.mujoco.mj_comPos(self.model, self.data)
        return np.array(self.env._get_obs())[: self.positions]

    def followers(self, coordinates: np.ndarray, i: int) -> set[int]:
        kept = coordinates.copy()
        before = self.observe()
        coordinates[i] += 0.37
        after = self.observe()
        coordinates[:] = kept
        return set(np.flatnonzero(~np.isclose(before, after)).tolist())

    def joint_id(self, joint: str) -> int:
        return int(self.mujoco.mj_name2id(self.model, self.mujoco.mjtObj.mjOBJ_JOINT, joint))

    def angle(self, joint: str) -> set[int]:
        return self.followers(self.data.qpos, self.model.jnt_qposadr[self.joint_id(joint)])

    def velocity(self, joint: str) -> set[int]:
        return self.followers(self.data.qvel, self.model.jnt_dofadr[self.joint_id(joint)])

    def action(self, joint: str) -> int:
        (actuator,) = np.flatnonzero(self.model.actuator_trnid[:, 0] == self.joint_id(joint))
        return int(actuator)

    def torso(self, scenario: str) -> dict[str, set[int]]:
        """Columns of the torso's parts: a free joint on ant and humanoids, three named joints on the planar bodies."""
        if scenario in {"ant", "humanoid", "humanoidstandup"}:
            parts = {f"v{axis}": self.followers(self.data.qvel, i) for i, axis in enumerate("xyz")}
            moved = [self.followers(self.data.qpos, i) for i in range(7)]
            assert moved[:2] == [set(), set()], "x and y are not observed"
            parts["still"] = set().union(*moved, *(self.followers(self.data.qvel, i) for i in range(3, 6)))
            return parts
        if scenario == "swimmer":
            assert self.angle("slider1") | self.angle("slider2") == set(), "x and y are not observed"
            still = self.angle("free_body_rot") | self.velocity("free_body_rot")
            return {"vx": self.velocity("slider1"), "vy": self.velocity("slider2"), "vz": set(), "still": still}
        assert self.angle("rootx") == set(), "x is not observed"
        still = self.angle("rootz") | self.angle("rooty") | self.velocity("rooty")
        return {"vx": self.velocity("rootx"), "vz": self.velocity("rootz"), "vy": set(), "still": still}


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Probe]:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log where it stands.
    return Probe


@pytest.mark.mujoco
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_widths_are_the_simulators(scenario: str, probe: Callable[[str], Probe]) -> None:
    env = probe(scenario).env
    assert env.observation_space.shape == (OBS_DIM[scenario],)
    assert env.action_space.shape == (ACT_DIM[scenario],)


@pytest.mark.mujoco
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_agent_moves_the_actuators_of_its_joints(scenario: str, probe: Callable[[str], Probe]) -> None:
    simulator = probe(scenario)
    for conf in confs(scenario):
        expected = [sorted(map(simulator.action, own)) for own in OWN[scenario, conf]]
        assert [list(row) for row in partition(scenario, conf, "0").act_index] == expected


@pytest.mark.mujoco
@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s not in ARMS_AND_POLES])
def test_each_agent_sees_its_joints_and_the_torso_parts_of_the_view(
    scenario: str, probe: Callable[[str], Probe]
) -> None:
    simulator = probe(scenario)
    torso = simulator.torso(scenario)
    seen = {
        joint: simulator.angle(joint) | simulator.velocity(joint) for joint in chain(*OWN[scenario, confs(scenario)[0]])
    }
    assert all(len(columns) == 2 for columns in seen.values())
    for conf in confs(scenario):
        for view in views(scenario, conf)[1:]:
            shown = set().union(*(torso[part] for part in TORSO_PARTS[view].split()))
            expected = [sorted(shown.union(*(seen[joint] for joint in own))) for own in OWN[scenario, conf]]
            if conf == "t4x2":
                expected[0] = sorted(set(expected[0]).union(*torso.values()))
            assert [list(row) for row in partition(scenario, conf, view).obs_index] == expected, (conf, view)


@pytest.mark.mujoco
def test_reacher_columns_follow_the_joint_they_are_given_to(probe: Callable[[str], Probe]) -> None:
    simulator = probe("reacher")
    tip = {8, 9}
    for agent, joint in enumerate(["joint0", "joint1"]):
        own = (simulator.angle(joint) - tip) | simulator.velocity(joint)
        target = (simulator.angle("target_x") | simulator.angle("target_y")) - tip
        assert simulator.angle(joint) >= tip
        assert simulator.angle("target_x") | simulator.angle("target_y") == target | tip
        assert simulator.velocity("target_x") | simulator.velocity("target_y") == set()
        assert set(partition("reacher", "2x1notip", "0").obs_index[agent]) == own | target
        assert set(partition("reacher", "2x1", "0").obs_index[agent]) == own | target | tip
        leader, follower = partition("reacher", "2x1first", "0").obs_index
        assert set(leader) - set(follower) == target


@pytest.mark.mujoco
def test_reacher_columns_hold_cosine_sine_target_velocity_and_tip(probe: Callable[[str], Probe]) -> None:
    simulator = probe("reacher")
    simulator.data.qpos[:] = 0.3, -0.8, 0.11, -0.05
    simulator.data.qvel[:] = 1.5, -2.5, 0, 0
    tip = np.array([0.1 * np.cos(0.3) + 0.11 * np.cos(-0.5), 0.1 * np.sin(0.3) + 0.11 * np.sin(-0.5)])
    angles = [np.cos(0.3), np.cos(-0.8), np.sin(0.3), np.sin(-0.8)]
    expected = [*angles, 0.11, -0.05, 1.5, -2.5, *(tip - [0.11, -0.05])]
    np.testing.assert_allclose(simulator.observe(), expected, atol=1e-9)


@pytest.mark.mujoco
def test_every_agent_of_pusher_sees_its_joints_and_where_tip_object_and_goal_are(
    probe: Callable[[str], Probe],
) -> None:
    simulator = probe("pusher")
    tip, thing, goal = {14, 15, 16}, {17, 18, 19}, {20, 21, 22}
    for name, part in (("obj", thing), ("goal", goal)):
        moved = simulator.angle(f"{name}_slidex") | simulator.angle(f"{name}_slidey")
        assert moved and moved < part, "the height stays"
    for conf in ("3p", "7x1", "1x7"):
        for joints, seen in zip(OWN["pusher", conf], partition("pusher", conf, "0").obs_index, strict=True):
            own = set().union(*((simulator.angle(j) - tip) | simulator.velocity(j) for j in joints))
            assert len(own) == 2 * len(joints) and set(seen) == own | tip | thing | goal


@pytest.mark.mujoco
@pytest.mark.parametrize("scenario", ["invertedpendulum", "inverteddoublependulum"])
def test_a_pendulums_agent_sees_the_cart_and_with_a_view_the_poles(
    scenario: str, probe: Callable[[str], Probe]
) -> None:
    simulator = probe(scenario)
    cart = simulator.angle("slider") | simulator.velocity("slider")
    hinges = ("hinge", "hinge2") if scenario == "inverteddoublependulum" else ("hinge",)
    poles = set().union(*(simulator.angle(hinge) | simulator.velocity(hinge) for hinge in hinges))
    assert set(*partition(scenario, "1x1", "0").obs_index) == cart and not cart & poles
    rest = set(*partition(scenario, "1x1", "0t").obs_index) - cart
    assert rest - {8} == poles, "the last one of the double pendulum is a force"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_one_agent_sees_and_moves_the_whole_body(scenario: str) -> None:
    whole = partition(scenario, f"1x{ACT_DIM[scenario]}", "full")
    assert whole.agents == ("agent_0",)
    assert whole.obs_index == (tuple(range(OBS_DIM[scenario])),)
    assert whole.act_index == (tuple(range(ACT_DIM[scenario])),)


def test_humanoid_by_hand() -> None:
    # The actuators begin abdomen_y, abdomen_z; what is shown begins z, y.
    assert partition("humanoid", "17x1", "0").act_index[:3] == ((1,), (0,), (2,))
    upper, legs = partition("humanoid", "9|8", "0").obs_index
    assert upper == (5, 6, 7, *range(16, 22), 28, 29, 30, *range(39, 45))
    assert legs == (*range(8, 16), *range(31, 39))


def test_reacher_by_hand() -> None:
    assert partition("reacher", "2x1notip", "0") == Partition(
        scenario="reacher",
        conf="2x1notip",
        view="0",
        agents=("agent_0", "agent_1"),
        obs_index=((0, 2, 4, 5, 6), (1, 3, 4, 5, 7)),
        act_index=((0,), (1,)),
    )
    assert partition("reacher", "2x1first", "0").obs_index == ((0, 1, 2, 3, 4, 5, 6, 7), (0, 1, 2, 3, 6, 7))
    assert partition("reacher", "2x1second", "0").obs_index == ((0, 1, 2, 3, 6, 7), (0, 1, 2, 3, 4, 5, 6, 7))
    assert partition("reacher", "2x1", "0").obs_index == ((0, 2, 4, 5, 6, 8, 9), (1, 3, 4, 5, 7, 8, 9))
    assert partition("reacher", "2x1", "full").obs_index == (tuple(range(10)),) * 2


def test_only_agent_0_of_t4x2_sees_the_torso() -> None:
    ant = partition("ant", "t4x2", "0")
    assert ant.key == "t4x2_0"
    assert ant.agents == ("agent_0", "agent_1", "agent_2", "agent_3")
    assert ant.obs_index == (
        (0, 1, 2, 3, 4, 5, 6, 13, 14, 15, 16, 17, 18, 19, 20),
        (7, 8, 21, 22),
        (9, 10, 23, 24),
        (11, 12, 25, 26),
    )
    assert ant.act_index == ((2, 3), (4, 5), (6, 7), (0, 1))
    assert ant.obs_dims == (15, 4, 4, 4)
    assert ant.act_dims == (2, 2, 2, 2)


def test_planar_bodies_by_hand() -> None:
    assert partition("hopper", "3x1", "0txv").obs_index == ((2, 5, 8), (3, 5, 9), (4, 5, 10))
    walker = partition("walker2d", "2x3", "0tnv")
    assert walker.obs_index == ((0, 1, 2, 3, 4, 10, 11, 12, 13), (0, 1, 5, 6, 7, 10, 14, 15, 16))
    assert partition("halfcheetah", "6x1", "0tv").obs_index[5] == (7, 8, 9, 16)


def partitions(scenario: str) -> list[Partition]:
    """All ways of parting a body."""
    return [partition(scenario, conf, view) for conf in confs(scenario) for view in views(scenario, conf)]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_action_column_has_one_mover(scenario: str) -> None:
    for part in partitions(scenario):
        moved = chain(*part.act_index)
        assert sorted(moved) == list(range(ACT_DIM[scenario]))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_columns_ascend_and_exist(scenario: str) -> None:
    for part in partitions(scenario):
        for row in part.obs_index + part.act_index:
            assert list(row) == sorted(set(row))
        assert all(0 <= column < OBS_DIM[scenario] for column in chain(*part.obs_index))
        if part.view == "full":
            assert part.obs_dims == (OBS_DIM[scenario],) * len(part.agents)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_splitting_shows_own_columns_and_pads_with_zeros(scenario: str) -> None:
    for part in partitions(scenario):
        obs = np.random.default_rng(0).normal(size=(3, 5, OBS_DIM[scenario])).astype(np.float32)
        split = part.split_obs(obs)
        assert split.shape == (3, 5, len(part.agents), max(part.obs_dims))
        assert split.dtype == np.float32
        for agent, row in enumerate(part.obs_index):
            np.testing.assert_array_equal(split[..., agent, : len(row)], obs[..., list(row)])
            assert not split[..., agent, len(row) :].any()
        index, present = part.padded_obs_index()
        assert index.dtype == np.int64 and present.dtype == np.bool_
        np.testing.assert_array_equal(split, obs[..., index] * present)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_joining_undoes_splitting(scenario: str) -> None:
    for part in partitions(scenario):
        joint = np.random.default_rng(0).normal(size=(4, ACT_DIM[scenario]))
        split = part.split_actions(joint)
        assert split.shape == (4, len(part.agents), max(part.act_dims))
        np.testing.assert_array_equal(part.join_actions(split), joint)
        agent, position = part.join_index()
        assert agent.dtype == position.dtype == np.int64
        np.testing.assert_array_equal(split[..., agent, position], joint)
        np.testing.assert_array_equal(part.join_actions(part.split_actions(joint[0])), joint[0])


def test_uneven_agents_are_padded_and_joined() -> None:
    part = Partition("toy", "a", "b", ("agent_0", "agent_1"), ((0,), (1, 2)), ((2, 0), (1,)))
    np.testing.assert_array_equal(part.split_actions(np.array([10, 11, 12])), [[12, 10], [11, 0]])
    np.testing.assert_array_equal(part.split_obs(np.array([np.nan, 1.0, 2.0])), [[np.nan, 0], [1, 2]])
    np.testing.assert_array_equal(part.join_actions(np.array([[12, 10], [11, 99]])), [10, 11, 12])


@pytest.mark.parametrize("act_index", [((0,), (0,)), ((0,), (2,))])
def test_a_column_moved_twice_or_never_is_refused(act_index: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="moved by one agent"):
        Partition("toy", "a", "b", ("agent_0", "agent_1"), ((0,), (1,)), act_index)


def test_confs_and_views_are_listed() -> None:
    old, new = ("reacher", "ant", "halfcheetah", "hopper", "swimmer", "walker2d"), ("humanoid", "humanoidstandup")
    assert (*old, *new, "pusher", "invertedpendulum", "inverteddoublependulum") == SCENARIOS
    assert {(s, c) for s in SCENARIOS for c in confs(s)} == set(OWN)
    assert views("reacher", "2x1first") == ("full", "0")
    assert set(views("ant", "2x4d")) == {"full", *TORSO_PARTS}
    assert set(views("hopper", "3x1")) == {"full", "0", "0t", "0tv", "0txv", "0tnv"}


def test_a_task_id_is_read_from_the_right() -> None:
    assert split_task("reacher-scripted-mix-v0_2x1notip_0") == ("reacher-scripted-mix-v0", "2x1notip", "0")
    assert split_task("my_own_data_2x1_full") == ("my_own_data", "2x1", "full")


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (
            lambda: partition("anti", "4x2", "0"),
            "Unknown scenario 'anti': did you mean 'ant'?",
        ),
        (lambda: confs("anti"), "Unknown scenario 'anti': did you mean 'ant'?"),
        (
            lambda: partition("ant", "2x3", "0"),
            "Unknown ant conf '2x3': did you mean '2x4'?",
        ),
        (lambda: views("hopper", "2x3"), "Unknown hopper conf '2x3': there are: 3x1."),
        (
            lambda: partition("hopper", "1x6", "0"),
            "Unknown hopper conf '1x6': there are: 3x1. 3x1: 3 agents, 1 joint each; 1x3: 1 agent, 3 joints: the whole",
        ),
        (
            lambda: partition("hopper", "3x1", "0tyv"),
            "Unknown hopper view '0tyv': did you mean",
        ),
        (
            lambda: partition("reacher", "2x1", "0t"),
            "Unknown reacher view '0t': did you mean '0'?",
        ),
        (lambda: split_task("reacher-v0_2x1"), "'reacher-v0_2x1' does not say who sees what"),
        (lambda: split_task("_2x1_0"), "'_2x1_0' does not say who sees what"),
        (lambda: split_task(""), "'' does not say who sees what"),
    ],
)
def test_wrong_names_are_answered_in_one_sentence(ask: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        ask()
    assert str(error.value).startswith(sentence)
    assert str(error.value).count("\n") == 0


@pytest.mark.mujoco
def test_legs_that_2x4d_puts_together_lie_on_one_side():
    model = Probe("ant").env.model
    for legs in OWN["ant", "2x4d"]:
        one, other = (model.body(int(model.joint(hip).bodyid[0])).pos for hip in (legs[0], legs[2]))
        assert one[0] == other[0] and one[1] == -other[1]
    assert "legs of one side" in explain_conf("2x4d")
