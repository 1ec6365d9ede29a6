"""DeepMind Control; what plays it runs where it is installed (`make dmcontrol`), all else everywhere."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from runs import small_run

from offline_marl.core.partition import partition
from offline_marl.core.permissions import ImportPath, names_code
from offline_marl.core.registry import RegistryError
from offline_marl.core.types import DataError
from offline_marl.environments import dmcontrol
from offline_marl.environments.base import MissingSimulatorError, environments
from offline_marl.environments.dmcontrol import DmControl, try_all
from offline_marl.tasks import environment_tasks
from offline_marl.tasks.environment_tasks import find_environment_task
from offline_marl.training import training_run
from offline_marl.training.run import evaluate

HERE = importlib.util.find_spec("dm_control") is not None


def test_a_task_is_named_as_in_gymnasium_and_is_no_code_to_permit():
    assert not names_code("dm_control/cheetah-run") and names_code("sisl/pursuit-v5")
    assert environments.knows("dm_control/ball_in_cup-catch") and not environments.knows("sisl/pursuit-v5")
    task = environments.get("dm_control/humanoid_CMU-run-v0")
    assert task is environments.get("dm_control/humanoid_CMU-run") and task.task == "humanoid_CMU-run"
    found = find_environment_task("dm_control/ball_in_cup-catch", {}, 7, permit=ImportPath)
    assert (found.partition, found.kind.task, found.kind.limit) == (None, "ball_in_cup-catch", 7)
    assert found.kind is environments.get("dm_control/ball_in_cup-catch").told({}, 7)
    with pytest.raises(RegistryError, match="'coordination' is one, not many: leave the rest away"):
        environments.get("coordination/x")


def test_what_it_cannot_be_made_with_is_refused_in_a_sentence():
    task = environments.get("dm_control/cheetah-run")
    with pytest.raises(DataError, match="dm_control/cheetah-run takes no settings but the length"):
        task.told({"time_limit": 3})
    with pytest.raises(DataError, match="dm_control/cheetah-run is made for a team"):
        task.make(partition("reacher", "2x1", "0"), 1)
    with pytest.raises(DataError, match="has many tasks: name one, such as dm_control/cheetah-run"):
        DmControl.make(None, 1)


@pytest.mark.skipif(HERE, reason="it is installed")
def test_where_it_cannot_be_played_a_sentence_says_how_it_could():
    dmcontrol._import_suite.cache_clear()
    with pytest.raises(
        MissingSimulatorError, match=r"pip install 'offline-marl\[dmcontrol\]' in an environment of its"
    ):
        environments.get("dm_control/cheetah-run").make(None, 1)


def _dying(channel):
    while True:
        task = channel.recv()
        if task == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if task != "hangs":
            channel.send('[true, "fine"]')


def test_a_task_that_ends_or_holds_up_its_process_does_not_keep_the_others_from_being_tried(monkeypatch):
    def start():
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        process = context.Process(target=_dying, args=(there,), daemon=True)
        process.start()
        there.close()
        return process, here

    monkeypatch.setattr(dmcontrol, "_start", start)
    monkeypatch.setattr(dmcontrol, "PATIENCE", 0.5)
    assert list(try_all(["one", "dies", "hangs", "two"])) == [
        ("one", True, "fine"),
        ("dies", False, "ends the process (SIGKILL)"),
        ("hangs", False, "says nothing for 0 seconds"),
        ("two", True, "fine"),
    ]
    assert not multiprocessing.active_children()


@pytest.mark.dmcontrol
class TestPlayed:
    @pytest.fixture(autouse=True)
    def _needs_it(self):
        if not HERE:
            pytest.skip("dm_control is not installed: make dmcontrol")

    @pytest.mark.parametrize("task", ["cheetah-run", "ball_in_cup-catch", "quadruped-walk"])
    def test_the_same_trajectory_as_shimmys_step_by_step(self, task):
        ours = environments.get(f"dm_control/{task}").make(None, 1)
        gymnasium = dmcontrol._import_suite()
        theirs = gymnasium.make(f"dm_control/{task}-v0", disable_env_checker=True)
        seen, (obs, _) = ours.reset([5]), theirs.reset(seed=5)
        low, high = (bound.astype(np.float32) for bound in (theirs.action_space.low, theirs.action_space.high))
        draw = np.random.default_rng(0)
        for _ in range(30):
            flat = np.concatenate([np.ravel(obs[name]) for name in sorted(obs)]).astype(np.float32)
            np.testing.assert_array_equal(seen.obs[0, 0], flat)
            actions = draw.uniform(-1, 1, (1, 1, *low.shape)).astype(np.float32)
            seen, rewards, terminations, truncations = ours.step(actions)
            obs, reward, ended, cut, _ = theirs.step(actions[0, 0] * ((high - low) / 2) + (high + low) / 2)
            assert rewards[0, 0] == np.float32(reward)
            assert (terminations[0], truncations[0]) == (ended, cut)
        ours.close()
        theirs.close()

    def test_an_episode_ends_by_the_tasks_clock_or_by_a_shorter_one(self):
        assert environments.get("dm_control/reach_site_features").make(None, 1).max_steps == 250
        task = environments.get("dm_control/cartpole-balance")
        assert task.make(None, 1).max_steps == 1000
        env = task.told({}, 4).make(None, 1)
        env.reset([0])
        ends = [env.step(np.zeros((1, 1, 1), np.float32))[2:] for _ in range(4)]
        assert [(bool(over[0]), bool(cut[0])) for over, cut in ends] == [*[(False, False)] * 3, (False, True)]
        assert env.max_steps == 4

    def test_episodes_are_bit_equal_whatever_runs_beside_them(self):
        env = environments.get("dm_control/finger-spin").make(None, 3)
        draw = np.random.default_rng(0)
        actions = draw.uniform(-1, 1, (5, 1, 1, 2)).astype(np.float32)
        env.reset([3])
        alone = [env.step(action)[0].obs[0] for action in actions]
        env.reset([8, 3, 9])
        beside = [env.step(np.concatenate([-action, action, action * 0]))[0].obs[1] for action in actions]
        assert np.array_equal(alone, beside)

    @pytest.mark.parametrize(
        ("task", "said"),
        [
            ("chetah-run", "dm_control has no task 'chetah-run': did you mean 'cheetah-run'"),
            ("lqr-lqr_2_1", "have no bounds"),
        ],
    )
    def test_what_cannot_be_played_says_why(self, task, said):
        with pytest.raises(DataError, match=said):
            environments.get(f"dm_control/{task}").make(None, 1)

    def test_a_run_learns_in_a_task_and_is_scored_drawn_and_told_of(self, tmp_path, monkeypatch):
        monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
        monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 50)
        name, once = "dm_control/cartpole-balance", {"steps": 1, "batch_size": 8, "final_episodes": 1, "max_steps": 6}
        small_run(tmp_path / "run", None, "ma-ppo", environment=name, **once)
        score = evaluate(tmp_path / "run", 2, infos=tmp_path / "infos.csv")
        assert score.versions["env_id"] == name and {"dm_control", "shimmy", "mujoco"} <= set(score.versions)
        assert 0 < score.mean <= 6 and "timestep.discount" in (tmp_path / "infos.csv").read_text()

    def test_a_task_that_draws_to_be_played_says_what_that_needs(self, monkeypatch):
        def reset(*given, **more):
            raise RuntimeError("No OpenGL rendering backend is available.")

        env = environments.get("dm_control/cheetah-run").make(None, 1)
        monkeypatch.setattr(type(env.simulator._envs[0]), "reset", reset)
        with pytest.raises(MissingSimulatorError, match="cheetah-run draws to be played, .* apt-get install libegl1"):
            env.reset([0])

    def test_a_picture_shows_the_task(self):
        env = environments.get("dm_control/cheetah-run").make(None, 1)
        env.reset([0])
        try:
            picture = env.render()
        except MissingSimulatorError as error:
            pytest.skip(str(error))
        assert picture.shape == (480, 640, 3) and picture.std() > 10 and env.fps == pytest.approx(100)

    def test_the_list_says_what_works_and_why_the_rest_does_not(self):
        assert len(dmcontrol.task_names()) == 85
        (walks, why), (fails, reason) = (answer[1:] for answer in try_all(["walker-walk", "lqr-lqr_2_1"]))
        assert walks and why == "24 numbers seen, 6 moved, 1000 steps"
        assert not fails and reason == "The actions have no bounds, so [-1, 1] cannot be stretched to them"

    @pytest.mark.parametrize("library", [None, "osmesa", "disabled"])
    def test_no_display_is_no_warning_and_no_obstacle(self, library):
        code = (
            "from offline_marl.environments.base import environments;"
            "env = environments.get('dm_control/cheetah-run').make(None, 1); env.reset([0]); print(env.spec.obs_dim)"
        )
        gone = {"DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM"}
        environ = {name: value for name, value in os.environ.items() if name not in gone}
        environ |= {} if library is None else {"MUJOCO_GL": library}
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environ)
        assert done.stdout.split() == ["17"] and "Warning" not in done.stderr and "GLFW" not in done.stderr, done.stderr
