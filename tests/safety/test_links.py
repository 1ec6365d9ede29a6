"""A folder that a stranger prepared: nothing of ours writes, empties or deletes through a link in it."""

from __future__ import annotations

import os
import shutil

import pytest
from launch.conftest import *  # noqa: F403 - the fixture `cli`
from runs import score_in_point_env, small_run
from worlds import saved, world

from offline_marl.core.locks import LinkError
from offline_marl.labelling.leases import Leases
from offline_marl.runs.folder import RunFolder
from offline_marl.training.coded import Iteration
from offline_marl.training.coded_run import CodedRun
from offline_marl.training.run import resume

TINY = ("--steps", 4, "--eval-every", 0, "--final-episodes", 2, "--batch-size", 8, "--hidden", "8")


@pytest.fixture
def victim(tmp_path):
    place = tmp_path / "victim.txt"
    place.write_text("precious")
    return place


@pytest.fixture
def data(tmp_path):
    return saved(tmp_path, world("continuous"))


@pytest.mark.parametrize("name", ["lock", "metrics.csv", "metrics.jsonl"])
def test_training_leaves_the_target_of_a_link_alone(cli, data, victim, tmp_path, name):
    run = tmp_path / "run"
    run.mkdir()
    (run / name).symlink_to(victim)
    said = cli("train", "bc", "--dataset", data, "--out", run, *TINY)
    assert said.code == 2 and (name == "lock") == ("is a link" in said.error)
    assert victim.read_text() == "precious" and not (run / "config.json").exists()


@pytest.mark.parametrize("name", ["lock", "metrics.csv", "eval.csv", "metrics.jsonl", "config.json"])
def test_going_on_leaves_the_target_of_a_link_alone(victim, tmp_path, monkeypatch, name):
    score_in_point_env(monkeypatch)
    begun = small_run(tmp_path / "run", "coordination-single-v0", steps=6).folder
    (begun / "DONE").unlink()
    if name == "config.json":
        shutil.copy(begun / name, victim)
    before = victim.read_text()
    (begun / name).unlink(missing_ok=True)
    (begun / name).symlink_to(victim)
    if name == "lock":
        with pytest.raises(LinkError, match="lock is a link"):
            resume(begun)
    else:
        resume(begun)
        assert name == "config.json" or not (begun / name).is_symlink()
    assert victim.read_text() == before


@pytest.mark.parametrize("name", ["checkpoints", "world_model", "logs"])
def test_a_run_whose_folders_lead_elsewhere_is_refused(tmp_path, monkeypatch, name):
    score_in_point_env(monkeypatch)
    begun = small_run(tmp_path / "run", "coordination-single-v0", steps=6).folder
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if (begun / name).exists():
        shutil.rmtree(begun / name)
    (begun / name).symlink_to(elsewhere)
    with pytest.raises(LinkError, match=f"{name} is a link"):
        resume(begun)
    assert list(elsewhere.iterdir()) == []


def test_collecting_leaves_the_target_of_a_link_alone(cli, victim, tmp_path):
    parts = tmp_path / "mine.safetensors.parts"
    words = ("collect", "rendezvous", "--episodes", 2, "--out", tmp_path / "mine.safetensors", "--score-episodes", 0)
    assert cli(*words).code == 0
    (tmp_path / "mine.safetensors").unlink()
    parts.mkdir()
    (parts / "lock").symlink_to(victim)
    assert "is a link" in cli(*words).error
    shutil.rmtree(parts)
    parts.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "keep").write_text("keep")
    assert "is a link" in cli(*words).error
    assert victim.read_text() == "precious" and (tmp_path / "elsewhere" / "keep").exists()


def test_converting_leaves_the_target_of_a_link_alone(cli, data, victim, tmp_path):
    writing = tmp_path / ".out.safetensors.writing"
    writing.mkdir()
    (writing / "lock").symlink_to(victim)
    words = ("data", "convert", data, tmp_path / "out.safetensors")
    assert "is a link" in cli(*words).error
    shutil.rmtree(writing)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "out.safetensors").write_text("theirs")
    writing.symlink_to(elsewhere)
    assert "is a link" in cli(*words).error
    assert victim.read_text() == "precious" and (elsewhere / "out.safetensors").read_text() == "theirs"


@pytest.mark.parametrize("name", ["leases.jsonl", ".leases.jsonl.part"])
def test_leases_of_a_labelling_page_leave_the_target_of_a_link_alone(victim, tmp_path, name):
    folder = tmp_path / "asked"
    folder.mkdir()
    (folder / name).symlink_to(victim)
    leases = Leases(folder / "leases.jsonl")
    leases.grant(["one"], "me", 9e9)
    assert victim.read_text() == "precious" and Leases(folder / "leases.jsonl").others("one", "you") == ["me"]


def test_leases_that_are_a_link_by_the_time_they_are_written_are_refused(victim, tmp_path):
    leases = Leases(tmp_path / "leases.jsonl")
    (tmp_path / "leases.jsonl").unlink()
    (tmp_path / "leases.jsonl").symlink_to(victim)
    with pytest.raises(LinkError, match="is a link"):
        leases.grant(["one"], "me", 9e9)
    assert victim.read_text() == "precious"


def test_leases_that_are_a_pipe_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "leases.jsonl")
    with pytest.raises(LinkError, match="is a pipe"):
        Leases(tmp_path / "leases.jsonl")


def test_the_log_of_learners_leaves_the_target_of_a_link_alone(victim, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "learners.jsonl").symlink_to(victim)
    run = CodedRun.__new__(CodedRun)
    run.folder, run.accounts = RunFolder(tmp_path / "run"), [Iteration(0, [0], [])]
    with pytest.raises(LinkError, match="is a link"):
        run.write_log()
    assert victim.read_text() == "precious"
