from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from pydantic import BaseModel
from runs import ending, last_state, refuse_difference, score_in_point_env, small_run, start_and_kill
from worlds import SPECS, PointEnv, reacher_recording, saved, world

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.bc import BC
from offline_marl.core.config import ConfigError
from offline_marl.core.registry import RegistryError
from offline_marl.core.types import DataError, Needs
from offline_marl.environments.base import MissingSimulatorError
from offline_marl.environments.episodes import episode_seeds, play
from offline_marl.runs.folder import RunFolderError
from offline_marl.training import run


@pytest.fixture
def data(tmp_path):
    return saved(tmp_path, world("continuous"))


def test_fields_find_their_owner():
    config = run.prepare("iql", "x_2x1_full", {"steps": 7, "expectile": 0.9, "hidden": (8, 8)})
    assert config.steps == 7 and config.settings["expectile"] == 0.9 and config.settings["hidden"] == [8, 8]
    assert set(config.settings) == set(algorithms.get("iql").Config.model_fields), "defaults are written down too"


@pytest.mark.parametrize(
    ("algorithm", "fields", "error", "said"),
    [
        ("bcc", {}, RegistryError, r"Unknown algorithm 'bcc': did you mean 'bc'\?"),
        ("bc", {"stepz": 3}, ConfigError, r"Unknown field 'stepz' of bc: did you mean 'steps'\?"),
        ("bc", {"expectile": 0.9}, ConfigError, r"Unknown field 'expectile' of bc"),
        ("iql", {"expectile": 1.5}, ConfigError, r"'expectile' cannot be 1.5"),
        ("bc", {"steps": 0}, ConfigError, r"'steps' cannot be 0"),
        ("bc", {"device": "tpu"}, ConfigError, r"'device' cannot be 'tpu'"),
        ("bc", {"settings": {}}, ConfigError, r"Unknown field 'settings'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence_before_anything_is_made(
    tmp_path, data, algorithm, fields, error, said
):
    with pytest.raises(error, match=said) as refusal:
        run.train(algorithm, data, out=tmp_path / "run", **fields)
    assert "\n" not in str(refusal.value) and not (tmp_path / "run").exists()


def test_an_algorithm_whose_parameters_no_optimiser_moves_is_refused_before_training(tmp_path, data, monkeypatch):
    monkeypatch.setattr(BC, "optimize", lambda *_, **__: None)
    with pytest.raises(DataError, match=r"bc has parameters that no optimiser moves: .* self\.optimize"):
        small_run(tmp_path / "run", data)
    assert not (tmp_path / "run" / "config.json").exists()


def test_settings_of_ones_own_without_the_common_ones_are_refused_before_training(tmp_path, data, monkeypatch):
    class Own(BaseModel):
        lr: float = 1e-3

    monkeypatch.setattr(BC, "Config", Own)
    with pytest.raises(RegistryError, match="'bc' has settings Own without the common ones: .*AlgorithmConfig"):
        run.train("bc", data, out=tmp_path / "run", steps=2)
    assert not (tmp_path / "run" / "config.json").exists()


def test_an_algorithm_that_lacks_a_method_is_refused_before_training(tmp_path, data, monkeypatch):
    monkeypatch.setattr(BC, "__abstractmethods__", frozenset({"update"}))
    with pytest.raises(RegistryError, match=r"The algorithm 'bc' is unfinished: BC lacks update\.$"):
        small_run(tmp_path / "run", data)
    assert not (tmp_path / "run").exists()


def test_an_algorithm_that_cannot_eat_the_data_is_refused_before_training(tmp_path, data, monkeypatch):
    monkeypatch.setattr(BC, "needs", Needs(actions=frozenset({"discrete"})))
    with pytest.raises(DataError, match="bc needs discrete actions; .* holds continuous ones"):
        small_run(tmp_path / "run", data)
    stateless = world("continuous")
    stateless = replace(stateless, state=None, spec=replace(stateless.spec, state_dim=0))
    monkeypatch.setattr(BC, "needs", Needs(state=True))
    with pytest.raises(DataError, match="bc needs a global state"):
        small_run(tmp_path / "run", saved(tmp_path, stateless, "stateless.safetensors"))
    assert not (tmp_path / "run").exists()


def test_the_seed_decides_the_run_and_nothing_else_does(tmp_path, data):
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        torch.rand(seed)  # the caller's generator is no part of it
        small_run(tmp_path / name, data, seed=seed, algorithm="iql")
    refuse_difference(last_state(tmp_path / "one"), last_state(tmp_path / "same"))
    with pytest.raises(AssertionError):
        refuse_difference(last_state(tmp_path / "one")["algorithm"], last_state(tmp_path / "other")["algorithm"])


def test_without_a_folder_the_name_says_what_the_run_is(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = small_run(None, "data.safetensors", seed=5)
    assert str(result.folder) == "runs/bc_data.safetensors_seed5" and (tmp_path / result.folder / "DONE").exists()


def test_a_run_finds_its_file_again_from_another_working_folder(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start_and_kill(tmp_path / "run", "data.safetensors", 30)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run.resume("../run").folder.resolve() == (tmp_path / "run").resolve()


def test_a_folder_of_another_run_is_refused_and_untouched(tmp_path, data):
    small_run(tmp_path / "run", data)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunFolderError, match="holds another run"):
        small_run(tmp_path / "run", data, seed=1)
    with pytest.raises(RunFolderError, match="holds this very run"):
        small_run(tmp_path / "run", data)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_finished_run_without_checkpoints_gives_no_untrained_team(tmp_path, data):
    small_run(tmp_path / "run", data)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(RunFolderError, match=r"is finished, but holds no checkpoint any more: .*DONE\.$"):
        run.resume(tmp_path / "run")


def test_data_that_changed_under_a_run_is_refused(tmp_path, data):
    start_and_kill(tmp_path / "run", data, 30)
    kept = last_state(tmp_path / "run")
    saved(tmp_path, world("continuous", seed=1))
    with pytest.raises(RunFolderError, match=r"is not the data this run began with \(sha256 is \w{64}, was \w{64}\)"):
        run.resume(tmp_path / "run")
    refuse_difference(last_state(tmp_path / "run"), kept)


@pytest.mark.parametrize("killed_at", [30, None])
def test_settings_that_were_edited_under_a_run_are_refused(tmp_path, data, killed_at):
    if killed_at is None:
        small_run(tmp_path / "run", data)
    else:
        start_and_kill(tmp_path / "run", data, killed_at)
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "settings": {**config["settings"], "lr": 1e-9}}))
    with pytest.raises(RunFolderError, match=r"was edited since the run began \(lr was .*, is 1e-09\)"):
        run.resume(tmp_path / "run")
    with pytest.raises(RunFolderError, match="was edited since the run began"):
        small_run(tmp_path / "next", data, init=str(tmp_path / "run"))


def test_data_that_is_gone_is_one_sentence(tmp_path, data):
    start_and_kill(tmp_path / "run", data, 30)
    (tmp_path / "data.safetensors").unlink()
    with pytest.raises(DataError, match="There is no file"):
        run.resume(tmp_path / "run")


def test_a_data_set_of_ones_own_is_kept_in_the_run_folder_and_taken_up_again(tmp_path):
    own = world("discrete")
    small_run(tmp_path / "straight", own)
    start_and_kill(tmp_path / "killed", own, 45)
    (tmp_path / "killed").rename(tmp_path / "moved")
    run.resume(tmp_path / "moved")
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "moved"))
    assert json.loads((tmp_path / "moved" / "config.json").read_text())["dataset"] == "dataset.safetensors"


def test_a_data_set_with_nan_is_refused_with_episode_and_field(tmp_path):
    own = world("continuous")
    own.obs[int(own.lengths[0]) + 1 + 2, 1, 0] = float("nan")
    with pytest.raises(DataError, match="'obs' is not finite in episode 1, step 2"):
        small_run(tmp_path / "run", own)
    assert not (tmp_path / "run").exists()


def test_a_loaded_policy_scores_what_the_run_scored(tmp_path, data, monkeypatch):
    score_in_point_env(monkeypatch)
    result = small_run(tmp_path / "run", data, window=2)
    learner = run.load(tmp_path / "run")
    assert learner.window == 2
    refuse_difference(dict(learner.state_dict()), dict(result.algorithm.state_dict()))
    found = play(learner, PointEnv(SPECS["continuous"], 5), episode_seeds(0, 5)).returns
    assert found.tolist() == result.score.returns.tolist()
    again = run.evaluate(tmp_path / "run", episodes=5, seed=0)
    assert again.returns.tolist() == result.score.returns.tolist()
    assert run.evaluate(tmp_path / "run", episodes=5, seed=1).returns.tolist() != again.returns.tolist()


def test_an_unfinished_run_can_be_loaded_from_its_newest_checkpoint(tmp_path, data):
    start_and_kill(tmp_path / "run", data, 45)
    refuse_difference(dict(run.load(tmp_path / "run").state_dict()), last_state(tmp_path / "run")["algorithm"])


def test_the_score_of_an_unfinished_run_comes_with_a_warning(tmp_path, data, monkeypatch, capsys):
    score_in_point_env(monkeypatch)
    start_and_kill(tmp_path / "run", data, 45)
    capsys.readouterr()
    run.evaluate(tmp_path / "run", episodes=2)
    said = capsys.readouterr()
    wanted = f"warning: {tmp_path / 'run'} is unfinished: its checkpoint after 40 of 60 updates is scored."
    assert (said.out, said.err.splitlines()) == ("", [wanted])
    run.resume(tmp_path / "run")
    capsys.readouterr()
    run.evaluate(tmp_path / "run", episodes=2)
    assert "unfinished" not in capsys.readouterr().err


def test_a_policy_trained_on_a_gpu_acts_on_the_cpu(tmp_path, data):
    """The state of a GPU's generator is of another size and cannot be set on the CPU's."""
    learner = small_run(tmp_path / "run", data).algorithm
    state = learner.state_dict()
    state["_extra_state"]["generator"] = torch.zeros(16, dtype=torch.uint8)
    other = run.load(tmp_path / "run")
    other.load_state_dict(state)
    obs = world("continuous").obs[:4]
    assert torch.equal(other.act(obs), learner.act(obs)) and other.act(obs, explore=True).shape == (4, 3, 2)


def test_a_named_environment_that_is_not_here_is_refused_before_anything_is_learnt(tmp_path, data):
    with pytest.raises(MissingSimulatorError, match="no_such_world cannot be imported here"):
        small_run(tmp_path / "run", data, environment="no_such_world:make", max_steps=5)
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_loading_or_scoring_what_is_not_there_is_one_sentence(tmp_path, data):
    for attempt in (run.load, run.evaluate, run.resume):
        with pytest.raises(RunFolderError, match="holds no run"):
            attempt(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    start_and_kill(tmp_path / "run", data, 3)
    with pytest.raises(RunFolderError, match="holds no checkpoint yet"):
        run.load(tmp_path / "run")
    small_run(tmp_path / "done", data)
    with pytest.raises(DataError, match="there is nothing to act in"):
        run.evaluate(tmp_path / "done")


def test_a_recording_needs_to_be_told_who_sees_what(tmp_path):
    recording = saved(tmp_path, reacher_recording())
    with pytest.raises(DataError, match=r"is a recording: name who sees what, such as .*data.safetensors_2x1_full"):
        small_run(tmp_path / "run", recording)
    with pytest.raises(ValueError, match="9x9"):
        small_run(tmp_path / "run", recording + "_9x9_full")
    assert not (tmp_path / "run").exists()


def test_resuming_with_other_software_warns(tmp_path, capsys):
    small_run(tmp_path / "run", saved(tmp_path, world("continuous")))
    versions = tmp_path / "run" / "versions.json"
    told = json.loads(versions.read_text())
    versions.write_text(json.dumps(told | {"torch": "1.0"}))
    run.resume(tmp_path / "run")
    assert f"began with torch 1.0, now {told['torch']}" in capsys.readouterr().err


def test_a_config_that_names_a_field_of_the_run_again_is_refused(monkeypatch):
    class Twice(algorithms.get("bc").Config):
        seed: int = 3

    monkeypatch.setattr(algorithms.get("bc"), "Config", Twice)
    with pytest.raises(ConfigError, match=r"The config of bc names a field of the run again \(seed\)"):
        run.prepare("bc", "anything", {})
