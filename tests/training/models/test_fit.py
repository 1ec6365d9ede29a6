from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace

import pytest
import torch
from runs import (
    SMALL_FIT,
    checkpoints,
    ending,
    last_state,
    leftovers,
    refuse_difference,
    small_fit,
    start_and_kill_fit,
    table,
)
from worlds import saved, world

from offline_marl.core.config import ConfigError
from offline_marl.core.files import load_tree, save_tree
from offline_marl.core.registry import RegistryError
from offline_marl.core.types import Episode, Spec
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.episode_index import episodes_apart
from offline_marl.runs.config import FitFlags
from offline_marl.runs.folder import ModelFolder, RunFolderError
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.models import fit as fitting
from offline_marl.training.models.fit import continue_fit, held_out_errors, prepare_fit, resume_fit
from offline_marl.training.models.rows import MemberSource


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """They take most of a small fit's time, and have tests of their own."""
    monkeypatch.setattr(fitting, "draw_report", lambda *_: None)


@pytest.fixture
def data(tmp_path):
    return saved(tmp_path, world("continuous"))


def contents(out):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}


def test_a_fit_leaves_all_there_is_to_a_model(tmp_path, data):
    fit = small_fit(tmp_path / "model", data)
    assert fit.folder == tmp_path / "model" and fit.steps == 60 and checkpoints(fit.folder) == [60, 40]
    done = json.loads((fit.folder / "DONE").read_text())
    assert done["steps"] == 60 and done["errors"] == fit.errors and len(fit.errors) == 3
    assert [row["step"] for row in table(fit.folder / "eval.csv")] == ["10", "20", "30", "40", "50", "60"]
    assert ModelFolder(fit.folder).config() == prepare_fit("ensemble", data, SMALL_FIT)
    assert not leftovers(fit.folder)


def test_the_best_weights_speak_in_the_end_and_of_them_the_best_members(tmp_path, data):
    fit = small_fit(tmp_path / "model", data, lr=0.1)
    found = held_out_errors(fit.model, fit.held_out)
    assert torch.equal(found, torch.tensor(fit.errors))
    assert fit.model.elites.tolist() == sorted(range(3), key=lambda member: fit.errors[member])[:2]
    means = [float(row["held_out_error"]) for row in table(fit.folder / "eval.csv")]
    assert max(means) > float(found.mean()), "it should have been worse at times, or nothing was put back"


def test_it_stops_when_nothing_is_gained_and_takes_the_weights_of_then(tmp_path, data):
    fields = {"min_improvement": 0.9, "patience": 2}
    fit = small_fit(tmp_path / "patient", data, **fields)
    assert fit.steps == 30 and checkpoints(fit.folder) == [30, 20]
    short = small_fit(tmp_path / "short", data, steps=10, **fields)
    refuse_difference(dict(fit.model.nets.state_dict()), dict(short.model.nets.state_dict()))
    assert fit.errors == short.errors


@pytest.mark.long
@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": "bootstrap", "cosine_steps": 30, "kind": "vae", "window": 2, "steps": 30},
        {"min_improvement": 0.2, "patience": 2, "lr": 0.01},
    ],
    ids=["bootstrap-window", "stops-early"],
)
def test_a_fit_that_died_after_any_step_ends_as_if_it_had_not(tmp_path, data, fields):
    straight = small_fit(tmp_path / "straight", data, **fields)
    for step in (1, straight.steps - 1) if "patience" in fields else (20,):
        start_and_kill_fit(tmp_path / str(step), data, step, **fields)
        resumed = resume_fit(tmp_path / str(step))
        refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / str(step)))
        refuse_difference(dict(straight.model.state_dict()), dict(resumed.model.state_dict()))


@pytest.mark.long
def test_a_process_killed_in_a_fit_is_gone_on_with_as_if_it_had_not_been(tmp_path, data, warm):
    fields = {"steps": 120, "patience": 1_000}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**SMALL_FIT, **fields, "hidden": "8"}.items()]
    out = tmp_path / "killed"
    process = warm.start("-m", "offline_marl", "fit-model", "ensemble", "--dataset", data, "--out", str(out), *flags)
    deadline = time.monotonic() + 60
    while not checkpoints(out) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    done = process.wait()
    assert done.returncode == -signal.SIGKILL, f"it ended before it could be killed: give it more steps {done.stderr}"
    assert not (out / "DONE").exists()
    resume_fit(out)
    small_fit(tmp_path / "straight", data, **fields)
    refuse_difference(ending(tmp_path / "straight"), ending(out))
    assert not leftovers(out)


def test_a_fit_that_died_between_its_last_step_and_its_mark_only_gets_the_mark(tmp_path, data, monkeypatch):
    small_fit(tmp_path / "straight", data)
    fit = small_fit(tmp_path / "killed", data)
    (fit.folder / "DONE").unlink()
    monkeypatch.setattr(type(fit.model), "update", lambda *_: pytest.fail("there is nothing left to learn"))
    resume_fit(fit.folder)
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "killed"))


def test_taking_up_a_finished_fit_changes_nothing_and_gives_back_the_same(tmp_path, data):
    fit = small_fit(tmp_path / "model", data)
    before = contents(fit.folder)
    again = resume_fit(fit.folder)
    assert (again.errors, again.steps) == (fit.errors, fit.steps)
    refuse_difference(dict(again.model.state_dict()), dict(fit.model.state_dict()))
    assert contents(fit.folder) == before


def test_a_finished_model_is_read_by_many_at_once_each_with_its_own_threads(tmp_path, data, monkeypatch):
    fit = small_fit(tmp_path / "model", data)
    folder, task = ModelFolder(fit.folder), open_task(data)
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    with folder.locked():
        read = continue_fit(folder, task, FitFlags(dataset=data, device="cpu", threads=3))
    refuse_difference(dict(read.model.state_dict()), dict(fit.model.state_dict()))
    assert chosen == [3]


def test_a_model_fitted_on_a_gpu_is_read_on_the_cpu(tmp_path, data):
    """The state of a GPU's generator is of another size and cannot be set on the CPU's."""
    fit = small_fit(tmp_path / "model", data, steps=20)
    folder = ModelFolder(fit.folder)
    folder.config_file.write_text(folder.config_file.read_text().replace('"cpu"', '"cuda:0"'))
    path = fit.folder / "checkpoints" / "step_000000020.safetensors"
    state, _ = load_tree(path, "checkpoint")
    for held in (state["source"], state["model"]["_extra_state"]):
        held["generator"] = torch.zeros(16, dtype=torch.uint8)
    save_tree(path, state, "checkpoint")
    read = continue_fit(folder, open_task(data), FitFlags(dataset=data, device="cpu"))
    refuse_difference(dict(read.model.nets.state_dict()), dict(fit.model.nets.state_dict()))


def test_an_unfinished_fit_is_held_by_one_process(tmp_path, data):
    start_and_kill_fit(tmp_path / "model", data, 30)
    folder = ModelFolder(tmp_path / "model")
    with folder.locked(), pytest.raises(RunFolderError, match="Another process"):
        continue_fit(folder, open_task(data))


def test_held_out_episodes_are_never_learnt_from_and_all_others_are(tmp_path, data, monkeypatch):
    drawn = []
    sample = MemberSource.sample

    def spy(self, needs):
        drawn.append(sample(self, needs))
        return drawn[-1]

    monkeypatch.setattr(MemberSource, "sample", spy)
    fit = small_fit(tmp_path / "model", data, members=7, steps=100)
    rows = {tuple(row.tolist()) for batch in drawn for row in batch.rewards.flatten(0, 1)}
    held_out = fit.held_out.transitions(torch.arange(len(fit.held_out)))
    kept = {tuple(row.tolist()) for row in held_out.rewards}
    assert len(kept) == len(fit.held_out) > 0
    assert rows == {tuple(row.tolist()) for row in world("continuous").rewards} - kept


def test_the_seed_decides_the_fit_and_its_held_out_episodes(tmp_path, data):
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        torch.rand(seed)  # the caller's generator is no part of it
        small_fit(tmp_path / name, data, seed=seed, steps=20)
    refuse_difference(ending(tmp_path / "one"), ending(tmp_path / "same"))
    assert ending(tmp_path / "one")["done"]["errors"] != ending(tmp_path / "other")["done"]["errors"]


def test_a_fit_finds_its_file_again_from_another_working_folder(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit = small_fit(None, "data.safetensors", steps=20)
    assert str(fit.folder) == "models/ensemble_data.safetensors_seed0"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resume_fit("../models/ensemble_data.safetensors_seed0").errors == fit.errors


def test_a_damaged_newest_checkpoint_is_told_and_the_older_one_used(tmp_path, data, capsys):
    small_fit(tmp_path / "straight", data)
    start_and_kill_fit(tmp_path / "killed", data, 45)
    path = tmp_path / "killed" / "checkpoints" / "step_000000040.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    resume_fit(tmp_path / "killed")
    assert "Going on from step_000000020.safetensors." in capsys.readouterr().err
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "killed"))


def test_data_that_changed_under_a_fit_is_refused(tmp_path, data):
    start_and_kill_fit(tmp_path / "model", data, 30)
    kept = last_state(tmp_path / "model")
    saved(tmp_path, world("continuous", seed=1))
    with pytest.raises(ValueError, match=r"fitted to another version of .*: sha256 was \w{64}, is \w{64}\.$"):
        resume_fit(tmp_path / "model")
    refuse_difference(last_state(tmp_path / "model"), kept)


@pytest.mark.parametrize(
    ("model", "fields", "error", "said"),
    [
        ("ensembel", {}, RegistryError, r"Unknown world model 'ensembel': did you mean 'ensemble'\?"),
        ("oracle", {}, ConfigError, "There is nothing to fit in oracle"),
        ("ensemble", {"stepz": 3}, ConfigError, r"Unknown field 'stepz' of ensemble: did you mean 'steps'\?"),
        ("ensemble", {"elites": 8}, ConfigError, r"There cannot be more elites \(8\) than members \(7\)\.$"),
        ("ensemble", {"holdout": 1.0}, ConfigError, r"'holdout' cannot be 1.0"),
        ("ensemble", {"settings": {}}, ConfigError, r"Unknown field 'settings'"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_sentence(model, fields, error, said):
    with pytest.raises(error, match=said) as refusal:
        prepare_fit(model, "x_2x1_full", fields)
    assert "\n" not in str(refusal.value)


def test_held_out_episodes_enter_no_statistic(tmp_path):
    """A model is told the means, deviations and borders of what it learns from, whatever the held-out episodes hold."""
    own = world("continuous")
    seen, held_out = episodes_apart(own.lengths, 0.3, 0)
    plain = small_fit(tmp_path / "plain", saved(tmp_path, own), steps=10, holdout=0.3)
    strange = own.rewards.clone()
    rows = torch.repeat_interleave(torch.arange(len(own.lengths)), own.lengths)
    strange[torch.isin(rows, torch.as_tensor(held_out))] *= 1_000
    fit = small_fit(
        tmp_path / "strange",
        saved(tmp_path, replace(own, rewards=strange), "strange.safetensors"),
        steps=10,
        holdout=0.3,
    )
    facts, others = fit.model.facts.tensors(), plain.model.facts.tensors()
    assert all(torch.equal(facts[name], others[name]) for name in facts)
    kept = torch.isin(rows, torch.as_tensor(seen))
    torch.testing.assert_close(facts["reward_high"], own.rewards[kept].amax(0))
    torch.testing.assert_close(facts["reward_mean"], own.rewards[kept].mean(0))


def test_what_earlier_versions_called_shuffle_is_read_as_uniform_draws(tmp_path, data):
    begun = small_fit(tmp_path / "new", data, steps=20)
    start_and_kill_fit(tmp_path / "old", data, 15, steps=20)
    file = tmp_path / "old" / "config.json"
    assert '"uniform"' in file.read_text()
    file.write_text(file.read_text().replace('"uniform"', '"shuffle"'))
    (versions := tmp_path / "old" / "versions.json").write_text(versions.read_text().replace('"uniform"', '"shuffle"'))
    resumed = resume_fit(tmp_path / "old")
    assert resumed.model.config.sampling == "uniform"
    refuse_difference(dict(begun.model.state_dict()), dict(resumed.model.state_dict()))


def short_episodes(length: int, count: int = 40) -> Dataset:
    """Episodes after which nothing was recorded; each agent earns what it does."""
    episodes, generator = [], torch.Generator().manual_seed(0)
    for _ in range(count):
        actions = torch.rand(length, 2, 1, generator=generator) * 2 - 1
        over = torch.zeros(length, 2, dtype=torch.bool)
        over[-1] = True
        obs = torch.randn(length + 1, 2, 2, generator=generator)
        obs[-1] = obs[-2]
        episodes.append(Episode(obs, actions, actions[..., 0], over & False, over, end_seen=torch.tensor(False)))
    return Dataset.from_episodes(episodes, Spec(obs_dims=(2, 2), act_dims=(1, 1)))


def test_a_fit_keeps_what_it_learnt_of_rewards_where_no_next_observation_is_known(tmp_path):
    fit = small_fit(tmp_path / "model", saved(tmp_path, short_episodes(1)), lr=0.01)
    first, *_, last = (float(row["held_out_error"]) for row in table(fit.folder / "eval.csv"))
    assert max(fit.errors) < 1 and last < first
    assert fit.report["reasons"][0] == (
        "no held-out step shows what all agents see next, so that nothing says how it foresees that"
    )
    assert fit.report["rewards"]["error"] is not None


def test_held_out_rows_weigh_alike_whether_or_not_what_followed_is_known(tmp_path, monkeypatch):
    fit = small_fit(tmp_path / "model", saved(tmp_path, short_episodes(3)), steps=10)
    rows = torch.arange(len(fit.held_out))
    whole = held_out_errors(fit.model, fit.held_out)
    monkeypatch.setattr(fit.model, "errors", lambda batch: batch.obs[..., 0, 0].square().mean().sqrt().expand(3))
    monkeypatch.setattr(fitting, "ROWS_AT_ONCE", 5)
    assert whole.isfinite().all()
    seen = fit.held_out.transitions(rows).obs[:, 0, 0]
    torch.testing.assert_close(held_out_errors(fit.model, fit.held_out), seen.square().mean().sqrt().expand(3))
