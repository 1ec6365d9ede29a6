from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from compared import compare
from runs import (
    SMALL,
    checkpoints,
    ending,
    last_state,
    leftovers,
    refuse_difference,
    rows,
    score_in_point_env,
    small_fit,
    small_run,
    start_and_kill,
    table,
)
from worlds import SPECS, PointEnv, saved, world

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.bc import BC
from offline_marl.core.config import ConfigError
from offline_marl.core.types import DataError
from offline_marl.runs import log_files
from offline_marl.runs.folder import RunFolderError
from offline_marl.runs.log_files import MissingLoggerError
from offline_marl.tasks.data_tasks import ScoredTask
from offline_marl.training import run
from offline_marl.training.loop import DivergedError, SourceStoppedError


@pytest.fixture
def data(tmp_path):
    return saved(tmp_path, world("continuous"))


def test_a_finished_run_holds_all_there_is_to_it(tmp_path, data, monkeypatch):
    score_in_point_env(monkeypatch, picture=True)
    result = small_run(tmp_path / "run", data, eval_every=25)
    assert result.folder == tmp_path / "run" and checkpoints(result.folder) == [60, 40]
    assert [row["step"] for row in table(result.folder / "metrics.csv")] == [
        str(step) for step in (7, 14, 20, 21, 25, 28, 35, 40, 42, 49, 50, 56, 60)
    ]
    assert [row["step"] for row in table(result.folder / "eval.csv")] == ["25", "50", "60"]
    done = json.loads((result.folder / "DONE").read_text())
    assert done["steps"] == 60 and len(done["returns"]) == 5
    assert done["score"]["return"] == result.score.mean and done["best"]["step"] in (25, 50, 60)
    assert result.picture is not None and result.picture.exists()
    assert not leftovers(result.folder)


class Failing(PointEnv):
    """Fails in the given round of episodes, counted over all runs."""

    rounds, fails_in, shows = 0, 0, None

    def reset(self, seeds):
        Failing.rounds += 1
        return super().reset(seeds)

    def step(self, actions):
        seen, rewards, *ends = super().step(actions)
        if Failing.rounds == Failing.fails_in:
            if self.shows is None:
                raise OSError("the simulator lost its licence")
            rewards = rewards * self.shows
        return seen, rewards, *ends


@pytest.mark.parametrize(
    ("shows", "said"),
    [
        (None, "failed in a step: OSError: the simulator lost its licence"),
        (float("nan"), "reward of agent 0 is not finite"),
    ],
)
def test_a_score_that_fails_on_the_way_is_named_and_costs_no_update(tmp_path, data, monkeypatch, shows, said):
    small_run(tmp_path / "whole", data)
    score_in_point_env(monkeypatch)
    monkeypatch.setattr(ScoredTask, "make_env", lambda self, copies: Failing(self.spec, copies))
    for name, value in (("rounds", 0), ("fails_in", 2), ("shows", shows)):
        monkeypatch.setattr(Failing, name, value)
    told = []
    hook = lambda step, learner, metrics: told.append(step)  # noqa: E731
    fields = {"eval_every": 10, "checkpoint_every": 1000}
    with pytest.raises(SourceStoppedError, match=rf"{said}.* saved as it stands, after update 20\."):
        small_run(tmp_path / "run", data, hooks=[hook], **fields)
    assert checkpoints(tmp_path / "run") == [20] and told == list(range(1, 21))
    result = run.resume(tmp_path / "run", hooks=[hook])
    assert told == list(range(1, 61)) and result.score is not None
    assert [row["step"] for row in table(tmp_path / "run" / "eval.csv")] == ["10", "30", "40", "50", "60"]
    learnt, plain = last_state(tmp_path / "run")["algorithm"], last_state(tmp_path / "whole")["algorithm"]
    refuse_difference(learnt, plain)


def test_a_last_score_that_fails_is_named_and_taken_by_resume(tmp_path, data, monkeypatch):
    score_in_point_env(monkeypatch)
    monkeypatch.setattr(ScoredTask, "make_env", lambda self, copies: Failing(self.spec, copies))
    for name, value in (("rounds", 0), ("fails_in", 1), ("shows", None)):
        monkeypatch.setattr(Failing, name, value)
    with pytest.raises(
        SourceStoppedError, match=r"lost its licence\. The run has made its updates.*`resume` scores it"
    ):
        small_run(tmp_path / "run", data)
    assert checkpoints(tmp_path / "run")[0] == 60
    assert run.resume(tmp_path / "run").score is not None


def test_without_an_environment_a_run_ends_without_a_score_and_says_so(tmp_path, data, capsys):
    result = small_run(tmp_path / "run", data)
    assert result.score is None and result.picture is None
    assert f"warning: no scores: no environment belongs to {data};" in capsys.readouterr().err
    assert "score" not in json.loads((tmp_path / "run" / "DONE").read_text())


# Those that learn in a world model need one first: test_wiring.py.
@pytest.mark.parametrize(
    "algorithm", [name for name in algorithms.names() if algorithms.get(name).needs.origin != "model"]
)
def test_a_run_that_died_after_any_step_ends_as_if_it_had_not(tmp_path, data, monkeypatch, algorithm):
    score_in_point_env(monkeypatch)
    fields = {"algorithm": algorithm, "steps": 20, "checkpoint_every": 10, "eval_every": 5}
    if "continuous" not in algorithms.get(algorithm).needs.actions:
        data = saved(tmp_path, world("discrete"))
    if "epochs" in algorithms.get(algorithm).Config.model_fields:
        fields["epochs"] = 1
    if algorithms.get(algorithm).needs.origin == "model":
        fields["world_model"] = str(small_fit(tmp_path / "model", data, steps=10).folder)
    if algorithms.get(algorithm).needs.view == "pairs":
        fields["preferences"] = str(compare(tmp_path / "comparisons", data))
    small_run(tmp_path / "straight", data, **fields)
    # Between two checkpoints, and once before the first; every learner is saved at any step by the contract.
    for step in (1, 13) if algorithm == "bc" else (13,):
        start_and_kill(tmp_path / str(step), data, step, **fields)
        run.resume(tmp_path / str(step))
        refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / str(step)))


@pytest.mark.long
@pytest.mark.parametrize("kind", sorted(SPECS))
def test_a_run_with_histories_that_died_ends_as_if_it_had_not(tmp_path, monkeypatch, kind):
    score_in_point_env(monkeypatch)
    fields = {"algorithm": "ma-iql", "steps": 20, "checkpoint_every": 10, "window": 2}
    small_run(tmp_path / "straight", world(kind), **fields)
    start_and_kill(tmp_path / "killed", world(kind), 14, **fields)
    run.resume(tmp_path / "killed")
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "killed"))


def test_a_run_that_died_between_its_last_step_and_its_score_is_only_scored(tmp_path, data, monkeypatch):
    score_in_point_env(monkeypatch)
    small_run(tmp_path / "straight", data)
    small_run(tmp_path / "killed", data)
    (tmp_path / "killed" / "DONE").unlink()
    monkeypatch.setattr(BC, "update", lambda *_: pytest.fail("there is nothing left to learn"))
    run.resume(tmp_path / "killed")
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "killed"))


def test_taking_up_a_finished_run_changes_nothing_and_reports_the_same(tmp_path, data, monkeypatch):
    score_in_point_env(monkeypatch, picture=True)
    first = small_run(tmp_path / "run", data)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in first.folder.rglob("*") if path.is_file()}
    before.pop(first.folder / "lock")
    again = run.resume(first.folder)
    assert again.score.returns.tolist() == first.score.returns.tolist()
    assert (again.score.low, again.score.high, again.picture) == (first.score.low, first.score.high, first.picture)
    refuse_difference(dict(again.algorithm.state_dict()), dict(first.algorithm.state_dict()))
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in first.folder.rglob("*") if path.is_file()}
    after.pop(first.folder / "lock")
    assert before == after


def test_the_newest_checkpoints_are_kept_and_no_more(tmp_path, data):
    small_run(tmp_path / "three", data, checkpoint_every=10, keep_checkpoints=3)
    small_run(tmp_path / "end", data, checkpoint_every=0)
    assert checkpoints(tmp_path / "three") == [60, 50, 40] and checkpoints(tmp_path / "end") == [60]


def damage(out, step):
    path = out / "checkpoints" / f"step_{step:09d}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return path


def test_a_damaged_newest_checkpoint_is_told_and_the_older_one_used(tmp_path, data, capsys):
    small_run(tmp_path / "straight", data)
    start_and_kill(tmp_path / "killed", data, 45)
    path = damage(tmp_path / "killed", 40)
    run.resume(tmp_path / "killed")
    said = capsys.readouterr().err
    assert f"warning: {path}" in said and "Going on from step_000000020.safetensors." in said
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "killed"))


def test_when_no_checkpoint_can_be_read_nothing_is_overwritten(tmp_path, data):
    start_and_kill(tmp_path / "run", data, 45)
    for step in (20, 40):
        damage(tmp_path / "run", step)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for attempt in (run.resume, run.load):
        with pytest.raises(RunFolderError, match=r"No checkpoint of .*run can be read: .*step_000000020"):
            attempt(tmp_path / "run")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_full_disk_at_a_checkpoint_keeps_the_last_one_and_the_run_goes_on_later(tmp_path, data, monkeypatch):
    small_run(tmp_path / "straight", data)
    from offline_marl.core import files

    replace_file = files.os.replace

    def full(source, target):
        if "step_000000040" in str(target):
            raise OSError(28, "No space left on device")
        replace_file(source, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(files.os, "replace", full)
        small_run(tmp_path / "full", data)
    assert checkpoints(tmp_path / "full") == [20] and not leftovers(tmp_path / "full")
    run.resume(tmp_path / "full")
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "full"))


def test_what_a_killed_process_had_half_written_is_swept_away(tmp_path, data):
    start_and_kill(tmp_path / "run", data, 45)
    for name in (".config.json.k1.part", "checkpoints/.step_000000060.safetensors.k2.part"):
        (tmp_path / "run" / name).write_bytes(b"half")
    run.resume(tmp_path / "run")
    assert not leftovers(tmp_path / "run")


def test_a_loss_that_stops_being_finite_names_its_step_and_the_last_good_checkpoint_stays(tmp_path, data, monkeypatch):
    update = BC.update
    steps = []

    def poisoned(self, batch):
        steps.append(1)
        return update(self, batch if len(steps) < 47 else replace(batch, obs=batch.obs * float("nan")))

    monkeypatch.setattr(BC, "update", poisoned)
    with pytest.raises(DivergedError, match=r"loss/actor became nan at step 47; the checkpoint before it is kept"):
        small_run(tmp_path / "run", data)
    assert checkpoints(tmp_path / "run") == [40, 20] and not (tmp_path / "run" / "DONE").exists()
    monkeypatch.undo()
    assert all(bool(torch.isfinite(p).all()) for p in run.load(tmp_path / "run").parameters())
    assert [row["step"] for row in rows(tmp_path / "run")][-1] == 42


def test_torchs_own_generator_is_seeded_for_the_run_and_left_as_it_was(tmp_path, data, monkeypatch):
    """An algorithm that draws from it (dropout) repeats with its seed, wherever the process stood, killed or not."""
    update = BC.update

    def dropping(self, batch):
        return update(self, replace(batch, obs=batch.obs * (torch.rand_like(batch.obs) < 0.9)))

    monkeypatch.setattr(BC, "update", dropping)
    torch.manual_seed(1)
    small_run(tmp_path / "one", data)
    torch.manual_seed(2)
    small_run(tmp_path / "two", data)
    start_and_kill(tmp_path / "early", data, 5)
    start_and_kill(tmp_path / "late", data, 47)
    expected = torch.get_rng_state()
    run.resume(tmp_path / "early")
    run.resume(tmp_path / "late")
    assert torch.equal(torch.get_rng_state(), expected)
    for other in ("two", "early", "late"):
        refuse_difference(last_state(tmp_path / "one"), last_state(tmp_path / other))
    small_run(tmp_path / "other", data, seed=1)
    with pytest.raises(AssertionError):
        refuse_difference(last_state(tmp_path / "one")["torch"], last_state(tmp_path / "other")["torch"])


def test_standardisation_comes_from_the_data_and_travels_with_the_checkpoint(tmp_path):
    shifted = world("continuous")
    shifted = replace(shifted, obs=(shifted.obs * 5 + 3) * shifted.spec.present("obs"))
    small_run(tmp_path / "run", saved(tmp_path, shifted), standardize_obs=True)
    learner = run.load(tmp_path / "run")
    features = learner.inputs(shifted.obs)
    present = shifted.spec.present("obs")
    torch.testing.assert_close(features.mean(0), torch.zeros(3, 4), rtol=0, atol=1e-4)
    torch.testing.assert_close(features.std(0, correction=0)[present], torch.ones(9), rtol=0, atol=1e-4)
    small_run(tmp_path / "plain", saved(tmp_path, shifted), standardize_obs=False)
    assert torch.equal(run.load(tmp_path / "plain").inputs(shifted.obs), shifted.obs)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"window": 50}, DataError),
        ({"tensorboard": True}, MissingLoggerError),
        ({"device": "cuda:99"}, ConfigError),
    ],
    ids=["window longer than any episode", "logger not installed", "no such GPU"],
)
def test_settings_that_cannot_run_do_not_take_the_folder(tmp_path, data, monkeypatch, fields, error):
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(log_files, "find_spec", lambda name: None)
        small_run(tmp_path / "run", data, **fields)
    assert small_run(tmp_path / "run", data).algorithm is not None


@pytest.mark.mujoco
def test_a_run_on_a_recording_is_scored_in_its_simulator(tmp_path):
    pytest.importorskip("mujoco")
    from worlds import reacher_recording

    task = saved(tmp_path, reacher_recording()) + "_2x1notip_0"
    result = small_run(tmp_path / "run", task, eval_every=30, **{"final_episodes": 2, "eval_episodes": 2})
    assert len(result.score.returns) == 2 and result.score.normalized is not None
    again = run.evaluate(tmp_path / "run", episodes=2)
    assert again.returns.tolist() == result.score.returns.tolist()


def test_every_field_of_small_is_a_field_of_a_run():
    config = run.prepare("bc", "x_2x1_full", SMALL)
    assert config.settings["hidden"] == [16] and config.steps == 60
