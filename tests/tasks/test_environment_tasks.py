from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import ending, last_state, refuse_difference, small_run, start_and_kill, table
from worlds import DISCRETE, PointEnv, saved, world

import offline_marl
from offline_marl.collection.recordable import uniform_actions
from offline_marl.core.config import ConfigError
from offline_marl.core.partition import PartitionError
from offline_marl.core.permissions import ImportPath
from offline_marl.core.registry import RegistryError
from offline_marl.core.types import DataError
from offline_marl.datasets.files import load_data
from offline_marl.datasets.normalize import obs_statistics
from offline_marl.environments.base import Seen
from offline_marl.runs.folder import RunFolderError
from offline_marl.tasks import environment_tasks
from offline_marl.tasks.environment_tasks import UNIFORM, EnvironmentTask, find_environment_task, play_uniformly
from offline_marl.tasks.scoring import describe_data, other_versions
from offline_marl.training import training_run
from offline_marl.training.run import evaluate, load, prepare, resume

SHORT = {"algorithm": "ma-ppo", "environment": "coordination", "steps": 9, "checkpoint_every": 4, "log_every": 3}


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 600)


def test_a_run_without_data_is_scored_beside_uniform_play(tmp_path):
    result = small_run(tmp_path / "run", None, **SHORT)
    # Three agents agree by chance on one of three choices in a ninth of the 6 steps; optimum 6.
    assert result.score.random_return == pytest.approx(6 / 9, abs=0.2) and result.score.reference.expert == 6
    assert "uniform play 0." in str(result.score)
    done = json.loads((tmp_path / "run" / "DONE").read_text())
    assert done["score"]["random_return"] == result.score.random_return
    assert done["data"]["name"] == done["data"]["env_id"] == "coordination" and len(done["data"]["sha256"]) == 64
    assert evaluate(tmp_path / "run", 5).returns.tolist() == result.score.returns.tolist()
    assert resume(tmp_path / "run").score.random_return == result.score.random_return


def test_observations_are_standardised_by_uniform_play_which_the_checkpoint_keeps(tmp_path):
    small_run(tmp_path / "run", None, **SHORT)
    data = load_data(tmp_path / "run" / UNIFORM)
    mean, _ = obs_statistics(data)
    assert len(data) == 600 and data.metadata["how"] == "uniform play of 600 steps"
    assert torch.equal(last_state(tmp_path / "run")["algorithm"]["inputs.mean"], mean)
    (tmp_path / "run" / UNIFORM).unlink()  # the checkpoint is enough to act, and uniform play is the same again
    assert torch.equal(load(tmp_path / "run").inputs.mean, mean)
    assert evaluate(tmp_path / "run", 5).random_return == data.metadata["random_return"]


def test_what_uniform_play_never_moved_is_not_blown_up(tmp_path, monkeypatch):
    def held_still(*given):
        data = play_uniformly(*given)
        return replace(data, obs=data.obs.index_fill(-1, torch.tensor([0]), 0.5))

    monkeypatch.setattr(environment_tasks, "play_uniformly", held_still)
    small_run(tmp_path / "run", None, **SHORT)
    scale = last_state(tmp_path / "run")["algorithm"]["inputs.scale"]
    assert bool((scale[:, 0] == 1).all()) and bool(((scale[:, 1:] > 1) & (scale[:, 1:] < 10)).all())


def test_a_killed_run_ends_as_one_that_was_never_killed(tmp_path):
    small_run(tmp_path / "whole", None, **SHORT)
    start_and_kill(tmp_path / "cut", None, 6, **SHORT)
    assert not (tmp_path / "cut" / "DONE").exists()
    (tmp_path / "cut" / UNIFORM).unlink()  # it is the same when it is played again
    resume(tmp_path / "cut")
    refuse_difference(ending(tmp_path / "whole"), ending(tmp_path / "cut"))


def test_a_run_goes_on_against_the_policies_that_it_began_with_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 30)
    other = {**SHORT, "steps": 1, "hidden": [8], "final_episodes": 1}
    own = {**SHORT, "environment": "best-response", "env_settings": {"frozen": str(tmp_path / "other"), "agent": 0}}
    small_run(tmp_path / "other", None, **other)
    start_and_kill(tmp_path / "run", None, 6, **own)
    shutil.rmtree(tmp_path / "other")
    small_run(tmp_path / "other", None, **other, seed=1)
    with pytest.raises(
        RunFolderError, match="The frozen policy of the run .*other is not the one that the run in .*run began with"
    ):
        resume(tmp_path / "run")
    shutil.rmtree(tmp_path / "other")
    small_run(tmp_path / "other", None, **other)
    assert resume(tmp_path / "run").folder.exists()


def test_a_run_ends_the_same_whatever_number_of_processes_steps_the_simulator(tmp_path):
    small_run(tmp_path / "one", None, **SHORT)
    small_run(tmp_path / "two", None, **SHORT, workers=2)
    refuse_difference(ending(tmp_path / "one"), ending(tmp_path / "two"))


def test_a_run_has_data_or_an_environment(tmp_path):
    with pytest.raises(ConfigError, match="ma-ppo needs either --dataset ID or, to learn without data, --environment"):
        prepare("ma-ppo", None, {})
    with pytest.raises(ConfigError, match="--env-settings and --max-steps are for an --environment"):
        prepare("ma-ppo", "data.safetensors", {"max_steps": 3})
    with pytest.raises(ConfigError, match="bc learns from recorded data: give it --dataset"):
        small_run(tmp_path / "run", None, algorithm="bc", environment="coordination")
    with pytest.raises(ConfigError, match="--clip-target needs recorded data"):
        small_run(tmp_path / "run", None, **SHORT, clip_target=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "settings", "kind", "said"),
    [
        ("cordination", {}, RegistryError, "did you mean 'coordination'"),
        ("coordination_2x1_full", {}, DataError, "coordination is made for a team: leave _2x1_full away"),
        ("reacher", {}, ConfigError, "--environment BODY_CONF_VIEW, such as reacher_2x1_full"),
        ("reacher_2x1", {}, ConfigError, "does not say who moves and sees what"),
        ("reacher_9x9_full", {}, PartitionError, "Unknown reacher conf '9x9'"),
        ("coordination", {"N": 3}, DataError, "it takes no settings and no length of episodes"),
        ("reacher_2x1_full", {"N": 3}, DataError, "reacher takes no setting 'N': there are: frame_skip"),
        ("hopper_1x3_full", {"healty_reward": 3}, DataError, "did you mean 'healthy_reward'"),
        ("hopper_1x3_full", {"terminate_when_unhealthy": "no"}, DataError, "= 'no': it should be true or false"),
        ("hopper_1x3_full", {"healthy_reward": True}, DataError, "= True: it should be a finite number"),
        ("hopper_1x3_full", {"frame_skip": 0}, DataError, "= 0: it should be a whole number above 0"),
        ("reacher_2x1_full", {"reward_control_weight": "none"}, DataError, "= 'none': it should be a finite number"),
        ("hopper_1x3_full", {"healthy_z_range": [0.7]}, DataError, "should be a list of 2 finite numbers"),
        ("hopper_1x3_full", {"xml_file": "mine.xml"}, DataError, "what its agents see is fixed"),
        ("ant_1x8_full", {"include_cfrc_ext_in_observation": True}, DataError, "what its agents see is fixed"),
    ],
)
def test_environments_that_there_are_not_are_refused_in_a_sentence(name, settings, kind, said):
    with pytest.raises(kind, match=said):
        find_environment_task(name, settings, permit=ImportPath)


@pytest.mark.parametrize("weight", [0.1, 0, -1])
def test_weights_whose_default_is_written_without_a_point_are_any_numbers(weight):
    made = find_environment_task("reacher_2x1_full", {"reward_control_weight": weight}, permit=ImportPath)
    env = made.kind.make(made.partition, 1)
    env.reset([0])
    paid = env.step(np.full((1, 2, 1), 0.5, np.float32))[1]
    plain = find_environment_task("reacher_2x1_full", permit=ImportPath)
    env = plain.kind.make(plain.partition, 1)
    env.reset([0])
    assert paid[0, 0] - env.step(np.full((1, 2, 1), 0.5, np.float32))[1][0, 0] == pytest.approx((1 - weight) * 0.5)


def test_names_find_bodies_teams_and_import_paths():
    assert find_environment_task("reacher_2x1notip_0", permit=ImportPath).partition.key == "2x1notip_0"
    assert find_environment_task("reacher_2x1_full", permit=ImportPath).reference.expert == pytest.approx(-4.2370844)
    assert find_environment_task("coordination", permit=ImportPath).reference.random == pytest.approx(2 / 3)
    path = find_environment_task("mpe2.simple_v3:parallel_env", {"max_cycles": 3}, permit=ImportPath)
    assert path.partition is None and path.reference is None


def test_uniform_play_is_the_same_whatever_ends_when(monkeypatch):
    point = EnvironmentTask(
        "point", type("Point", (), {"make": lambda part, copies: PointEnv(DISCRETE, copies)}), None, None
    )
    one = play_uniformly(point, 40)
    monkeypatch.setattr(environment_tasks, "COPIES", 3)
    other = play_uniformly(point, 40)
    assert 40 <= len(one) <= 60
    same = min(len(one), len(other))
    assert torch.equal(one.actions[:same], other.actions[:same]) and one.metadata["versions"].keys() == {"offline-marl"}


def test_uniform_choices_are_among_those_that_can_be_made():
    lots = np.random.default_rng(0).random((4000, 3, 4), np.float32)
    can = np.broadcast_to(DISCRETE.present("act").numpy(), lots.shape).copy()
    can[..., 0] = False
    chosen = uniform_actions(DISCRETE, lots, Seen(np.zeros(0, np.float32), avail_actions=can))
    assert [np.unique(chosen[:, agent]).tolist() for agent in range(3)] == [[1, 2], [1], [1, 2, 3]]
    assert np.bincount(chosen[:, 2]).tolist()[1:] == pytest.approx([4000 / 3] * 3, rel=0.1)


def test_the_api_takes_an_environment_and_names_the_folder_after_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = {"steps": 1, "batch_size": 8, "hidden": [4], "final_episodes": 2, "device": "cpu"}
    result = offline_marl.train("ma-ppo", environment="rendezvous", **few)
    assert str(result.folder) == "runs/ma-ppo_rendezvous_seed0" and result.score.reference.expert == pytest.approx(
        6.385
    )


def test_versions_that_differ_are_told_once_and_kept_with_the_score(tmp_path, monkeypatch, capsys):
    data = world("continuous")
    then = {"env_id": "Point-v0", "simulator": "1.0", "gone": "3"}
    path = saved(tmp_path, replace(data, metadata={"scenario": "coordination", "versions": then}))
    now = {"env_id": "Point-v0", "simulator": "2.0", "new": "1"}
    monkeypatch.setattr(PointEnv, "versions", lambda self: now, raising=False)
    monkeypatch.setattr(training_run.ScoredTask, "make_env", lambda self, copies: PointEnv(self.spec, copies))
    monkeypatch.setattr(training_run.ScoredTask, "conventions", lambda self, ends: None)
    result = small_run(tmp_path / "run", path, eval_every=20)
    assert capsys.readouterr().err.count("was recorded with simulator 1.0, now 2.0: scores may differ.") == 1
    assert {row["versions_differ"] for row in table(tmp_path / "run" / "eval.csv")} == {"True"}
    done = json.loads((tmp_path / "run" / "DONE").read_text())
    assert done["versions_differ"] == ["simulator 1.0, now 2.0"] and done["versions"] == now
    assert done["data"]["env_id"] == "Point-v0" and done["data"]["versions"] == {"simulator": "1.0", "gone": "3"}
    assert done["data"]["sha256"] == load_data(tmp_path / "data.safetensors").metadata["sha256"]
    assert "other versions than the data's" in str(result.score)
    assert resume(tmp_path / "run").score.other_versions == ("simulator 1.0, now 2.0",)
    assert evaluate(tmp_path / "run", 2).row()["versions_differ"] is True


def test_versions_that_are_not_known_are_not_compared():
    assert other_versions(None, {"mujoco": "3"}) is None and other_versions({"numpy": "2"}, {"mujoco": "3"}) is None
    assert other_versions({"mujoco": "3"}, {"mujoco": "3"}) == ()
    assert describe_data(world("continuous")) == {}
