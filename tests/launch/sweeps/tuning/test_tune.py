"""Sweeps that Optuna drives, as they are typed; what the jobs do is pretended."""

from __future__ import annotations

import csv
import json
import math

import pytest
from launch.conftest import *  # noqa: F403 - the fixture `cli`
from sweeping import GONE, TINY, Pretended, finish, head, written

from offline_marl.launch.jobs.job import note_start
from offline_marl.launch.sweeps import launch
from offline_marl.launch.sweeps.folder import Sweep
from offline_marl.launch.sweeps.tuning import optuna_study, tune

pytest.importorskip("optuna")
OPTUNA = """
[optuna]
trials = 7
startup = 3
metric = "return"
[optuna.fields]
lr = { distribution = "log-uniform", low = 1e-5, high = 1.0 }
"""


def score(job):
    return {"return": -((math.log10(job.fields.get("lr", 1)) + 2) ** 2) + 0.01 * job.fields["seed"]}


@pytest.fixture
def pretended(monkeypatch):
    made = Pretended(monkeypatch)
    made.score = score
    return made


def file(folder, more="", algorithms=("bc",), seeds=(0, 1), optuna=OPTUNA):
    return written(folder, head(folder, algorithms, 1, seeds) + more + TINY + optuna)


def settings(place="sweeps/sweep"):
    return [(job.folder, job.fields["lr"]) for job in Sweep(place).manifest().jobs if "trial" in job.about]


def test_rounds_fill_the_places_and_the_second_launch_starts_nothing(cli, tmp_path, pretended):
    said = cli("sweep", file(tmp_path), "--parallel", "5")
    assert said.code == 0 and said.out.startswith("14 started; before: 0 done")
    assert [len(names) for names, _ in pretended.submissions] == [4, 4, 4, 2], "two trials of two seeds at once"
    assert "bc on arm0.safetensors_2x1notip_0: 7 of 7 trials, best return" in said.out
    assert "trials 3 to 4 of 7" in said.err and "trial 7 of 7" in said.err
    again = cli("sweep", tmp_path / "sweep.toml", "--parallel", "5")
    assert again.code == 0 and again.out.startswith("0 started; before: 14 done") and "7 of 7 trials" in again.out
    assert cli("sweep", "sweeps/sweep").out.startswith("0 started; before: 14 done")
    assert len(pretended.names) == 14


def test_each_algorithm_has_a_study_and_a_world_model_comes_first(cli, tmp_path, pretended):
    text = 'world_models = ["none", "each"]\n'
    models = '[models.each]\nseed = "run"\n[algorithm.td3-bc.search]\ntrials = 2\n'
    models += 'fields.lr = { distribution = "choice", values = [0.1, 0.2] }\n'
    cli(
        "sweep",
        file(tmp_path, text, ["cql", "iql", "td3-bc"], optuna=OPTUNA.replace("7", "3") + models),
        "--parallel",
        "9",
    )
    assert len(pretended.submissions[0][0]) == 2 and pretended.submissions[0][0][0].startswith("each_arm0")
    # The other runs go beside the first round.
    assert sum("td3-bc" in name for name in pretended.submissions[1][0]) == 8
    manifest = Sweep("sweeps/sweep").manifest()
    assert len(manifest.jobs) == 2 + 8 + 4 * 6 and len({job.folder for job in manifest.jobs}) == len(manifest.jobs)
    assert len(manifest.studies) == 4
    own = {job.model for job in manifest.jobs if "each" in job.folder and job.command == "train"}
    assert own == {f"models/each_arm0.safetensors_2x1notip_0_seed{seed}" for seed in (0, 1)}
    assert cli("sweep", "status", "sweeps/sweep").out.count(" 3 of 3 trials") == 4


def test_results_lead_the_way_and_seeds_are_averaged(cli, tmp_path, pretended):
    text = OPTUNA.replace("trials = 7", "trials = 14").replace("startup", "at_once = 2\nstartup")
    cli("sweep", file(tmp_path, optuna=text))
    by_trial = [lr for folder, lr in settings() if folder.endswith("seed0")]
    assert [lr for folder, lr in settings() if folder.endswith("seed1")] == by_trial
    away = [abs(math.log10(lr) + 2) for lr in by_trial]
    assert sum(away[8:]) / 6 < sum(away[:8]) / 8
    best = max(-(each**2) for each in away) + 0.005
    (told,) = json.loads(cli("sweep", "status", "sweeps/sweep", "--json").out)["studies"]
    assert (told["over"], told["trials"], told["failed"]) == (14, 14, 0) and told["best"] == pytest.approx(best)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("where, when", [("ask", 2), ("ask", 4), ("add", 2), ("submit", 2), ("tell", 1), ("tell", 2)])
def test_a_launcher_killed_anywhere_makes_the_same_trials(cli, tmp_path, pretended, monkeypatch, where, when):
    cli("sweep", file(tmp_path, seeds=[0]), "--out", "whole", "--parallel", "2")
    place = {
        "ask": (optuna_study.OptunaStudy, "ask"),
        "tell": (optuna_study.OptunaStudy, "tell"),
        "add": (Sweep, "add"),
        "submit": (launch.executors, "submit"),
    }
    kind, name = place[where]
    true, calls = getattr(kind, name), []

    def killed(*args, **settings):
        calls.append(1)
        if len(calls) == when:
            raise Killed
        return true(*args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(kind, name, killed)
        with pytest.raises(Killed):
            cli("sweep", tmp_path / "sweep.toml", "--parallel", "2")
    assert cli("sweep", tmp_path / "sweep.toml", "--parallel", "2").code == 0
    assert settings() == settings("whole")
    assert len(set(pretended.names)) == 7 and len(pretended.names) == 14, "nothing ran twice"


def test_failed_trials_are_told_and_passed_over(cli, tmp_path, pretended):
    pretended.failing = {"trial001_seed1", "trial004_seed0"}
    said = cli("sweep", file(tmp_path), "--parallel", "2")
    assert said.code == 0 and "7 of 7 trials, 2 failed, best return" in said.out
    assert "0 started" in cli("sweep", "sweeps/sweep").out
    journal = (tmp_path / "sweeps/sweep/optuna.journal").read_text().splitlines()
    assert [json.loads(line).get("state") for line in journal].count(3) == 2
    said = cli("sweep", "best", "sweeps/sweep", "--metric", "return", "--seeds", "10,11")
    assert said.code == 0 and "best of 5)" in said.out
    cli("sweep", "collect", "sweeps/sweep-best")
    with (tmp_path / "sweeps/sweep-best/table.csv").open(newline="") as stream:
        assert {row["tuned_on"] for row in csv.DictReader(stream)} == {"tuned on seeds 0, 1: best return of 5 settings"}
    cli("sweep", "collect", "sweeps/sweep")
    assert len((tmp_path / "sweeps/sweep/table.csv").read_text().splitlines()) == 1 + 12
    assert cli("sweep", "retry", "sweeps/sweep").out.startswith("2 started")


def test_what_fails_from_the_first_is_not_tried_to_the_end(cli, tmp_path, pretended):
    pretended.failing = {"bc"}
    said = cli("sweep", file(tmp_path, seeds=[0], optuna=OPTUNA.replace("7", "12")), "--parallel", "2")
    assert said.code == 1 and "its loss is not finite" in said.err and len(pretended.names) == 6
    assert "All trials of" in cli("sweep", "best", "sweeps/sweep", "--metric", "return").error
    pretended.failing = set()
    assert cli("sweep", "sweeps/sweep", "--parallel", "2").code == 0
    assert len(pretended.names) == 12


def test_a_trial_that_was_cut_off_waits_for_the_next_launch(cli, tmp_path, pretended, monkeypatch):
    def submit(jobs, *_):
        for job in jobs:
            note_start(job.out, {"event": "start", "id": "debug", **GONE})
            if "trial001" not in job.out.name:
                finish(job, score(job))

    with monkeypatch.context() as patch:
        patch.setattr(launch.executors, "submit", submit)
        cli("sweep", file(tmp_path), "--parallel", "4")
    assert "1 of 7 trials" in cli("sweep", "status", "sweeps/sweep").out
    said = cli("sweep", tmp_path / "sweep.toml", "--parallel", "4")
    assert said.code == 0 and said.out.startswith("12 started; before: 2 done")
    assert "7 of 7 trials" in said.out
    cli("sweep", tmp_path / "sweep.toml", "--out", "whole", "--parallel", "4")
    assert settings() == settings("whole")


def test_more_trials_are_added_and_changed_ones_refused(cli, tmp_path, pretended):
    cli("sweep", file(tmp_path))
    before = settings()
    longer = OPTUNA.replace("trials = 7", "trials = 9")
    assert cli("sweep", file(tmp_path, optuna=longer)).out.startswith("4 started; before: 14 done")
    assert settings()[:14] == before
    for old, new, words in [
        ("high = 1.0", "high = 0.1", "changes [optuna.fields] lr of bc on arm0.safetensors_2x1notip_0"),
        ('"return"', '"return_low"', "changes [optuna] metric of bc on"),
        ("startup = 3", "startup = 3\nseed = 1", "changes [optuna] seed of bc"),
    ]:
        said = cli("sweep", file(tmp_path, optuna=longer.replace(old, new)))
        assert said.code == 2 and words in said.error and "another --out" in said.error
    assert "changes the seeds of bc" in cli("sweep", file(tmp_path, seeds=[0, 1, 2], optuna=longer)).error
    text = file(tmp_path).read_text().replace("steps = 6", "steps = 8")
    assert "changes steps of bc" in cli("sweep", written(tmp_path, text)).error
    assert len(pretended.names) == 18


def test_a_dry_run_tells_the_next_round_and_writes_nothing(cli, tmp_path, pretended):
    said = cli("sweep", file(tmp_path), "--dry-run", "--parallel", "4")
    assert said.code == 0 and "4 of 4 jobs to start, 4 of them new" in said.out
    assert "trials after these depend on results" in said.out and not (tmp_path / "sweeps").exists()
    cli("sweep", tmp_path / "sweep.toml", "--parallel", "4")
    assert [f"lr = {lr}" for _, lr in settings()[:4]] == [
        line.strip() for line in said.out.splitlines() if " lr = " in line
    ]
    assert "0 of 14 jobs to start" in cli("sweep", tmp_path / "sweep.toml", "--dry-run").out
    longer = file(tmp_path, optuna=OPTUNA.replace("trials = 7", "trials = 8"))
    held = (tmp_path / "sweeps/sweep/optuna.journal").read_bytes()
    assert "2 of 16 jobs to start, 2 of them new" in cli("sweep", longer, "--dry-run").out
    assert (tmp_path / "sweeps/sweep/optuna.journal").read_bytes() == held


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda lines: [], "knows nothing of trial 0 of bc on arm0"),
        (lambda lines: lines[1:], "knows nothing of trial 0"),
        (lambda lines: lines[:-2], "knows nothing of trial 6"),
        (lambda lines: [b"what\n", *lines], "was damaged or edited"),
        (
            lambda lines: [lines[0], lines[1].replace(b'"lr":0.', b'"lr":0.0'), *lines[2:]],
            "was damaged or edited: lr of",
        ),
    ],
)
def test_a_journal_that_does_not_fit_is_one_sentence(cli, tmp_path, pretended, damage, words):
    cli("sweep", file(tmp_path), "--parallel", "2")
    journal = tmp_path / "sweeps/sweep/optuna.journal"
    journal.write_bytes(b"".join(damage(journal.read_bytes().splitlines(keepends=True))))
    said = cli("sweep", "sweeps/sweep")
    assert said.code == 2 and words in said.error and "optuna.journal" in said.error
    assert len(pretended.names) == 14
    assert cli("sweep", "status", "sweeps/sweep").code == 0, "which needs no journal"


def test_a_metric_that_no_run_has_is_told(cli, tmp_path, pretended):
    said = cli("sweep", file(tmp_path, optuna=OPTUNA.replace('"return"', '"agreement"')), "--parallel", "2")
    assert said.code == 2 and "has no agreement: name another metric in [optuna]" in said.error
    assert "1 of 7 trials" in cli("sweep", "status", "sweeps/sweep").out
    # Without a name, the return stands in for a normalised one.
    assert cli("sweep", file(tmp_path, optuna=OPTUNA.replace('metric = "return"', "")), "--out", "other").code == 0


def test_settings_that_cannot_be_are_told_before_anything_starts(cli, tmp_path, pretended, monkeypatch):
    wrong = OPTUNA.replace("lr =", "learning_rate =")
    assert "learning_rate" in cli("sweep", file(tmp_path, optuna=wrong)).error
    assert "cannot begin: " in cli("sweep", file(tmp_path, optuna=OPTUNA.replace("lr =", "batch_size ="))).error
    eased = OPTUNA + 'max-steps = { distribution = "choice", values = [5, 25] }\n'
    assert "max-steps would choose among scores that are not" in cli("sweep", file(tmp_path, optuna=eased)).error
    monkeypatch.setattr(optuna_study, "find_spec", lambda name: None)
    said = cli("sweep", file(tmp_path))
    assert said.code == 2 and "pip install 'offline-marl[tune]'" in said.error
    assert not (tmp_path / "sweeps").exists()


def test_on_slurm_the_launcher_waits_for_results(cli, tmp_path, pretended, monkeypatch):
    waiting = []

    def submit(jobs, *rest):
        ids = pretended.submit(jobs, *rest)
        waiting.extend(jobs)
        return ids

    def sleep(_):
        while waiting:
            job = waiting.pop()
            finish(job, score(job))

    monkeypatch.setattr(tune.time, "sleep", sleep)
    monkeypatch.setattr(tune, "is_live", lambda state: bool(waiting))
    monkeypatch.setattr(launch.executors, "submit", submit)
    said = cli("sweep", file(tmp_path), "--executor", "slurm", "--parallel", "6")
    assert said.code == 0 and "7 of 7 trials" in said.out
    assert [len(names) for names, _ in pretended.submissions] == [6, 6, 2]
