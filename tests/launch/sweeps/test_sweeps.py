"""Sweeps as they are typed; what the jobs do is pretended."""

from __future__ import annotations

import csv
import json
import time

import pytest
from launch.conftest import *  # noqa: F403 - the fixture `cli`
from sweeping import GONE, TINY, Pretended, head, written

from offline_marl.launch.cli import sweep
from offline_marl.launch.jobs.job import note_start
from offline_marl.launch.sweeps.folder import Sweep
from offline_marl.report.gather.tables import read_table


@pytest.fixture
def pretended(monkeypatch):
    return Pretended(monkeypatch)


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_second_launch_starts_nothing(cli, tmp_path, pretended):
    file = written(tmp_path, head(tmp_path) + TINY)
    said = cli("sweep", file)
    assert said.code == 0 and said.out.startswith("18 started; before: 0 done")
    assert len(set(pretended.names)) == 18
    again = cli("sweep", file)
    assert again.code == 0 and again.out.startswith("0 started; before: 18 done")
    assert len(pretended.names) == 18
    assert cli("sweep", "sweeps/sweep").out.startswith("0 started")


def test_a_longer_file_starts_only_what_is_new(cli, tmp_path, pretended):
    cli("sweep", written(tmp_path, head(tmp_path, ["bc"], 1) + TINY), "--out", "here")
    said = cli("sweep", written(tmp_path, head(tmp_path, ["bc", "iql"], 1, [0, 1, 2, 3]) + TINY), "--out", "here")
    assert "8 jobs, 5 of them new" in said.err and said.out.startswith("5 started; before: 3 done")
    assert len(set(pretended.names)) == len(pretended.names) == 8


def test_a_changed_setting_starts_nothing(cli, tmp_path, pretended):
    text = head(tmp_path, ["bc"], 1, [0]) + TINY
    cli("sweep", written(tmp_path, text))
    said = cli("sweep", written(tmp_path, text.replace("steps = 6", "steps = 8")))
    assert said.code == 2 and "changes steps of bc_" in said.error and "from 6 to 8" in said.error
    assert len(pretended.names) == 1


def test_world_models_come_first_and_runs_of_failed_ones_are_held_back(cli, tmp_path, pretended):
    text = head(tmp_path, ["iql"], 2, [0]) + 'world_models = ["small", "none"]\n' + TINY + "[models.small]\n"
    pretended.failing = {"small_arm1"}
    said = cli("sweep", written(tmp_path, text), "--executor", "debug")
    assert [len(names) for names, _ in pretended.submissions] == [2, 3]
    assert said.code == 1 and "1 of 6 jobs failed, 1 wait for a world model that failed" in said.err
    assert "its loss is not finite: `offline-marl sweep retry" in said.err
    pretended.failing = set()
    # Only `retry` starts again what failed of itself.
    assert cli("sweep", tmp_path / "sweep.toml").out.startswith("0 started")
    assert cli("sweep", "retry", "sweeps/sweep").out.startswith("2 started")
    assert [names[0][:10] for names, _ in pretended.submissions[2:]] == ["small_arm1", "iql_arm1.s"]
    assert "nothing in" in cli("sweep", "retry", "sweeps/sweep").out


def test_what_was_cut_off_goes_on_without_being_asked(cli, tmp_path, pretended):
    file = written(tmp_path, head(tmp_path, ["bc"], 1, [0, 1]) + TINY)
    cli("sweep", file)
    folder = tmp_path / "sweeps" / "sweep" / "runs" / "bc_arm0.safetensors_2x1notip_0_seed1"
    (folder / "DONE").unlink()
    note_start(folder, {"event": "start", "id": "debug", **GONE})
    assert cli("sweep", file).out.startswith("1 started; before: 1 done")
    assert pretended.names[-1] == folder.name


def test_on_slurm_runs_wait_for_their_world_model(cli, tmp_path, pretended):
    text = head(tmp_path, ["iql"], 2, [0, 1]) + 'world_models = ["small", "none"]\n' + TINY + "[models.small]\n"
    profile = tmp_path / "profile.toml"
    profile.write_text('partition = "low"\n')
    cli("sweep", written(tmp_path, text), "--executor", "slurm", "--profile", profile)
    fits, *runs = pretended.submissions
    assert len(fits[0]) == 2 and fits[1] == []
    by_wait = {tuple(after): names for names, after in runs}
    assert sorted(by_wait) == [(), ("1_0",), ("1_1",)]
    assert len(by_wait[()]) == 4 and all("arm0" in name and "small" in name for name in by_wait[("1_0",)])
    manifest = Sweep("sweeps/sweep").manifest()
    assert manifest.executor == "slurm" and manifest.profile == str(profile)


def test_a_dry_run_writes_nothing(cli, tmp_path, pretended):
    pytest.importorskip("submitit")
    text = head(tmp_path, ["iql"], 1, [0, 1]) + 'world_models = ["small"]\n' + TINY + "[models.small]\n"
    file = written(tmp_path, text)
    said = cli("sweep", file, "--dry-run", "--executor", "slurm")
    assert said.code == 0 and "3 of 3 jobs to start" in said.out
    assert said.out.count("#!/bin/bash") == 2 and "afterok:<id of models/small_arm0" in said.out
    assert not (tmp_path / "sweeps").exists() and not pretended.names
    cli("sweep", file)
    assert "0 of 3 jobs to start" in cli("sweep", file, "--dry-run").out


def test_status_tells_why_and_how_far(cli, tmp_path, pretended):
    pretended.failing = {"seed1"}
    cli("sweep", written(tmp_path, head(tmp_path, ["bc"], 1) + TINY))
    said = cli("sweep", "status", "sweeps/sweep")
    assert "3 jobs: 2 done, 1 failed; requeued 0 times" in said.out
    assert "its loss is not finite" in said.out and "seed1" in said.out and "seed0" not in said.out
    told = json.loads(cli("sweep", "status", "sweeps/sweep", "--json").out)
    assert (told["jobs"], told["done"], told["failed"], told["waiting"]) == (3, 2, 1, 0)
    assert {each["job"][-5:]: each["state"] for each in told["each"]} == {
        "seed0": "done",
        "seed1": "failed",
        "seed2": "done",
    }


def test_a_stopped_run_is_not_told_as_lost(cli, tmp_path, pretended):
    pretended.failing = {"bc"}
    cli("sweep", written(tmp_path, head(tmp_path, ["bc"], 1, [0]) + TINY))
    (folder,) = (tmp_path / "sweeps" / "sweep" / "runs").iterdir()
    note_start(folder, {"event": "start", "id": "debug", **GONE})
    note_start(folder, {"event": "end", "how": "terminated"})
    said = cli("sweep", "status", "sweeps/sweep").out
    assert "1 jobs: 1 stopped;" in said and "it was told to stop: started again, it goes on" in said
    assert "nothing in " in cli("sweep", "retry", "sweeps/sweep").out


def test_one_table_holds_every_varied_field_and_where_it_came_from(cli, tmp_path, pretended):
    text = head(tmp_path, ["bc", "iql"], 1, [0, 1]) + TINY
    pretended.score = lambda job: {"return": 1.0, "return_low": 0.5, "return_high": 1.5, "normalized_return": 10.0}
    cli(
        "sweep", written(tmp_path, text + "[algorithm.iql.grid]\nexpectile = [0.6, 0.8]\n[grid]\nhidden = [[4], [8]]\n")
    )
    assert "12 of 12 runs have finished" in cli("sweep", "collect", "sweeps/sweep", "--out", "all.csv").out
    assert "--out . is a folder: name a file" in cli("sweep", "collect", "sweeps/sweep", "--out", ".").error
    rows = table(tmp_path / "all.csv")
    assert {row["expectile"] for row in rows} == {"", "0.6", "0.8"} and {row["hidden"] for row in rows} == {
        "[4]",
        "[8]",
    }
    first = rows[0]
    wanted = {"algorithm": "bc", "seed": "0", "return": "1.0", "return_low": "0.5", "normalized_return": "10.0"}
    wanted |= {"budget": "6", "steps": "6", "wall_s": "1.5", "commit": "abc", "dataset_sha256": "def", "tuned_on": ""}
    assert {name: first[name] for name in wanted} == wanted
    assert first["dataset"].endswith("arm0.safetensors_2x1notip_0") and "environment" not in first


def test_a_field_added_later_is_a_column_of_the_runs_before(cli, tmp_path, pretended):
    text = head(tmp_path, ["bc"], 1, [0]) + TINY
    cli("sweep", written(tmp_path, text))
    cli("sweep", written(tmp_path, text + "[grid]\nlr = [3e-4, 1e-3]\n"))
    cli("sweep", "collect", "sweeps/sweep")
    rows = table(tmp_path / "sweeps" / "sweep" / "table.csv")
    assert sorted(float(row["lr"]) for row in rows) == [3e-4, 1e-3]


def best(job):
    return {"return": 10 * job.fields["lr"] + 0.001 * job.fields["seed"], "normalized_return": job.fields["seed"]}


def test_the_best_settings_are_run_on_new_seeds_and_say_so(cli, tmp_path, pretended):
    pretended.score = best
    text = head(tmp_path, ["bc", "iql"], 2, [0, 1]) + TINY + "[grid]\nlr = [1e-3, 3e-3, 2e-3]\n"
    cli("sweep", written(tmp_path, text))
    said = cli("sweep", "best", "sweeps/sweep", "--metric", "return", "--seeds", "10,11,12")
    assert said.code == 0 and said.out.count("lr = 0.003 (return 0.030 over seeds 0, 1, best of 3)") == 4
    assert len(pretended.names) == 24 + 12 and all("lr=0.003" in name for name in pretended.names[24:])
    cli("sweep", "collect", "sweeps/sweep-best")
    rows = table(tmp_path / "sweeps" / "sweep-best" / "table.csv")
    assert {row["seed"] for row in rows} == {"10", "11", "12"}
    assert {row["tuned_on"] for row in rows} == {"tuned on seeds 0, 1: best return of 3 settings"}
    for run in (tmp_path / "sweeps" / "sweep-best" / "runs").iterdir():
        assert json.loads((run / "tuned.json").read_text())["seeds"] == [0, 1]
    # Typed again it adds nothing; with more seeds, only those.
    assert "0 started" in cli("sweep", "best", "sweeps/sweep", "--metric", "return", "--seeds", "10,11").out
    assert "4 started" in cli("sweep", "best", "sweeps/sweep", "--metric", "return", "--seeds", "13").out
    assert "started" not in cli("sweep", "best", "sweeps/sweep", "--metric", "return").out


def test_the_best_is_chosen_in_each_environment(cli, tmp_path, pretended):
    pretended.score = lambda job: {"return": 10 * job.fields["lr"] - job.fields["max_steps"]}
    text = 'algorithms = ["vdn"]\nenvironments = ["simple-spread"]\nseeds = [0]\n[fields]\nsteps = 1\n'
    cli("sweep", written(tmp_path, text + "[grid]\nmax_steps = [5, 25]\nlr = [1e-3, 3e-3]\n"))
    said = cli("sweep", "best", "sweeps/sweep", "--metric", "return", "--seeds", "10")
    assert "vdn on simple-spread, max_steps 5: lr = 0.003 (return -4.970 over seeds 0, best of 2)" in said.out
    assert "vdn on simple-spread, max_steps 25: lr = 0.003 (return -24.970 over seeds 0, best of 2)" in said.out
    assert len(pretended.names) == 4 + 2
    assert "0 started" in cli("sweep", "best", "sweeps/sweep", "--metric", "return", "--seeds", "10").out


def test_no_choice_is_made_among_scores_of_other_launches_that_are_scored_otherwise(cli, tmp_path, pretended):
    pretended.score = lambda job: {"return": 10 * job.fields["lr"] - job.fields.get("max_steps", 25)}
    text = 'algorithms = ["vdn"]\nenvironments = ["simple-spread"]\nseeds = [0]\n[fields]\nsteps = 1\n'
    cli("sweep", written(tmp_path, text + "[grid]\nlr = [1e-3, 3e-3]\n"))
    # Between launches the file changes: easier episodes, then another budget.
    cli("sweep", written(tmp_path, text + "max_steps = 5\n[grid]\nlr = [2e-3]\n"))
    cli("sweep", written(tmp_path, text.replace("steps = 1", "steps = 9") + "[grid]\nlr = [4e-3]\n"))
    said = cli("sweep", "best", "sweeps/sweep", "--metric", "return").out.splitlines()
    assert said[0].startswith("vdn on simple-spread, max_steps None: lr = 0.004, steps = 9 (return")
    assert "best of 3" in said[0] and said[1].startswith("vdn on simple-spread, max_steps 5: lr = 0.002 (return")
    cli("sweep", "collect", "sweeps/sweep")
    rows = table(tmp_path / "sweeps" / "sweep" / "table.csv")
    assert [row["max_steps"] for row in rows] == ["", "", "5", ""]


def test_no_choice_is_made_among_runs_whose_data_was_replaced_in_between(cli, tmp_path, pretended):
    file = written(tmp_path, head(tmp_path, ["bc"], 1, [0]) + TINY + "[grid]\nlr = [1e-3, 3e-3]\n")
    cli("sweep", file)
    versions = next((tmp_path / "sweeps" / "sweep" / "runs").glob("*lr=0.003*")) / "versions.json"
    versions.write_text(json.dumps({**json.loads(versions.read_text()), "dataset_sha256": "other"}))
    said = cli("sweep", "best", "sweeps/sweep", "--metric", "return")
    assert said.code == 2 and "was other data for some runs of" in said.error


def test_tables_tell_settings_that_no_grid_varies(cli, tmp_path, pretended):
    for name, rate in (("one", "1e-3"), ("two", "3e-3")):
        text = head(tmp_path, ["bc"], 1, [0]) + TINY + f"lr = {rate}\n"
        cli("sweep", written(tmp_path, text), "--out", name)
        cli("sweep", "collect", name)
    runs = [run for name in ("one", "two") for run in read_table(tmp_path / name / "table.csv")]
    assert [run.settings["lr"] for run in runs] == [0.001, 0.003] and "threads" not in runs[0].settings


def test_the_best_with_shared_world_models_uses_them_where_they_are(cli, tmp_path, pretended):
    text = head(tmp_path, ["iql"], 1, [0, 1]) + 'world_models = ["one", "each"]\n' + TINY
    text += '[models.one]\n[models.each]\nseed = "run"\n'
    pretended.score = lambda job: {"return": float("each" in job.out.name)}
    cli("sweep", written(tmp_path, text))
    assert cli("sweep", "best", "sweeps/sweep", "--metric", "return", "--seeds", "7").code == 0
    assert [name.partition("_")[0] for name in pretended.names[-2:]] == ["each", "iql"]
    pretended.score = lambda job: {"return": float("one" in job.out.name)}
    cli("sweep", tmp_path / "sweep.toml", "--out", "other")
    assert cli("sweep", "best", "other", "--metric", "return", "--seeds", "7").code == 0
    job = Sweep("other-best").manifest().jobs[0]
    assert len(pretended.submissions[-1][0]) == 1 and job.model == str(
        tmp_path / "other" / "models" / "one_arm0.safetensors_2x1notip_0_seed0"
    )


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("--metric", "retrun"), "Unknown metric 'retrun': did you mean 'return'"),
        (
            ("--metric", "return", "--seeds", "1,5"),
            "Seed 1 chose the settings of bc: give seeds that are not among 0, 1",
        ),
        (("--metric", "agreement"), "has no agreement: choose by another metric"),
    ],
)
def test_an_unfair_choice_is_refused(cli, tmp_path, pretended, words, sentence):
    pretended.score = best
    cli("sweep", written(tmp_path, head(tmp_path, ["bc"], 1, [0, 1]) + TINY + "[grid]\nlr = [1e-3, 3e-3]\n"))
    assert sentence in cli("sweep", "best", "sweeps/sweep", *words).error


def test_a_choice_waits_for_every_run(cli, tmp_path, pretended):
    pretended.score, pretended.failing = best, {"lr=0.001_seed1"}
    text = head(tmp_path, ["bc"], 1, [0, 1]) + TINY
    cli("sweep", written(tmp_path, text + "[grid]\nlr = [1e-3, 3e-3]\n"))
    assert "1 of 4 runs" in cli("sweep", "best", "sweeps/sweep", "--metric", "return").error
    pretended.failing = set()
    cli("sweep", "retry", "sweeps/sweep")
    cli("sweep", "best", "sweeps/sweep", "--metric", "return", "--seeds", "5")
    assert "were chosen already" in cli("sweep", "best", "sweeps/sweep-best", "--metric", "return").error
    # A choice that changed does not go into the same table.
    cli("sweep", written(tmp_path, text + "[grid]\nlr = [1e-3, 3e-3, 9e-3]\n"))
    assert (
        "give this choice another --out"
        in cli("sweep", "best", "sweeps/sweep", "--metric", "return", "--seeds", "5").error
    )


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("status", "nowhere"), "holds no sweep (there is no sweep.json in it)"),
        (("collect", "nowhere"), "holds no sweep"),
        (("nowhere.toml",), "There is no config file nowhere.toml"),
        (("sweep.toml", "--out", "full"), "holds no sweep and is not empty: choose another --out"),
        (("sweep.toml", "--executor", "slrum"), "Field 'executor' cannot be 'slrum'"),
        (("sweep.toml", "--profile", "none.toml"), "none.toml"),
        (("sweep.toml", "--parallel", "0"), "Field 'parallel' cannot be"),
        (("status", "broken"), "sweep.json was damaged or edited"),
        (("--oops",), "Unknown flag"),
    ],
)
def test_bad_input_is_one_sentence(cli, tmp_path, pretended, words, sentence):
    written(tmp_path, head(tmp_path, ["bc"], 1, [0]) + TINY)
    for name in ("full", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "broken" / "sweep.json").write_text("{")
    said = cli("sweep", *words)
    assert said.code == 2 and sentence in said.error
    assert not pretended.names


def test_nothing_finished_is_nothing_to_collect(cli, tmp_path, pretended):
    pretended.failing = {"bc"}
    cli("sweep", written(tmp_path, head(tmp_path, ["bc"], 1, [0]) + TINY))
    assert "None of the 1 runs" in cli("sweep", "collect", "sweeps/sweep").error


def test_two_launchers_do_not_meet(cli, tmp_path, pretended):
    file = written(tmp_path, head(tmp_path, ["bc"], 1, [0]) + TINY)
    with Sweep("sweeps/sweep").locked():
        assert Sweep("sweeps/sweep").launcher() is not None
        assert "Another process is launching jobs" in cli("sweep", file).error
    assert Sweep("sweeps/sweep").launcher() is None
    assert cli("sweep", file).code == 0


def test_jobs_that_another_launcher_adds_meanwhile_are_not_lost(cli, tmp_path, pretended, monkeypatch):
    first, second = (head(tmp_path, [name], 1, [0]) + TINY for name in ("bc", "iql"))
    written(tmp_path, first, "first.toml")
    locked, others = Sweep.locked, []

    def late(self):
        # Between the plan of the second launcher and its lock the first one comes and goes.
        if not others:
            others.append("first")
            assert cli("sweep", "first.toml", "--out", "here").code == 0
        return locked(self)

    monkeypatch.setattr(Sweep, "locked", late)
    said = cli("sweep", written(tmp_path, second, "second.toml"), "--out", "here")
    assert said.code == 2 and "Another process changed the jobs" in said.error
    assert cli("sweep", "second.toml", "--out", "here").out.startswith("1 started; before: 0 done")
    assert [job.name for job in Sweep("here").manifest().jobs] == ["bc", "iql"]


def test_a_hundred_jobs_are_launched_within_a_second(tmp_path, monkeypatch, pretended, capsys):
    monkeypatch.chdir(tmp_path)
    file = written(
        tmp_path, head(tmp_path, ["bc", "iql"], 2, range(5)) + TINY + "[grid]\nlr = [1e-3, 2e-3, 3e-3, 4e-3, 5e-3]\n"
    )
    began = time.monotonic()
    sweep.run([str(file)])
    first = time.monotonic() - began
    assert len(pretended.names) == 100
    sweep.run([str(file)])
    second = time.monotonic() - began - first
    # 0.3 s each on an idle machine, imports included.
    assert first < 4 and second < 4, (first, second)
