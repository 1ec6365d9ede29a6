"""A sweep on a real Slurm: `pytest -m slurm`."""

from __future__ import annotations

import csv
import json

import pytest
from cluster import slurm, until
from launch.conftest import cli  # noqa: F401 - a fixture
from launch.jobs.test_slurm import cluster  # noqa: F401 - a fixture
from sweeping import TINY, head, written
from worlds import saved, world

from offline_marl.launch.jobs import executors

pytestmark = pytest.mark.slurm
FILE = """
algorithms = ["td3-bc", "iql"]
datasets = [{data}]
seeds = [0, 1]
world_models = ["none", "small"]
{tiny}
[models.small]
fields = {{ members = 2, elites = 1, holdout = 0.3, eval_every = 3, log_every = 3 }}
"""


def test_a_sweep_fits_first_ends_in_a_table_and_starts_nothing_again(cli, tmp_path):  # noqa: F811
    data = json.dumps(saved(tmp_path, world("continuous")))
    file = written(tmp_path, FILE.format(data=data, tiny=TINY))
    profile = tmp_path / "profile.toml"
    profile.write_text("minutes = 60\n")
    said = cli("sweep", file, "--executor", "slurm", "--profile", profile)
    assert said.code == 0 and said.out.startswith("9 started"), said.err

    def told():
        return json.loads(cli("sweep", "status", "sweeps/sweep", "--json").out)

    # While they run it starts nothing either.
    assert cli("sweep", file).out.startswith("0 started")
    until(lambda: told()["done"] + told()["failed"] == 9, 240)
    assert told()["done"] == 9, told()
    again = cli("sweep", file)
    assert again.code == 0 and again.out.startswith("0 started; before: 9 done")
    until(lambda: not slurm("squeue", "-h"))
    cli("sweep", "collect", "sweeps/sweep")
    with (tmp_path / "sweeps" / "sweep" / "table.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 8


def test_cancelling_empties_the_queue_and_the_sweep_goes_on(cli, tmp_path):  # noqa: F811
    data = json.dumps(saved(tmp_path, world("continuous")))
    text = FILE.format(data=data, tiny=TINY.replace("steps = 6", "steps = 100_000"))
    file = written(tmp_path, text.replace('world_models = ["none", "small"]', ""))
    assert cli("sweep", file, "--executor", "slurm").code == 0
    until(lambda: "RUNNING" in slurm("squeue", "-h", "-o", "%T"))
    assert cli("sweep", "cancel", "sweeps/sweep").out.startswith("4 jobs cancelled")
    until(lambda: not slurm("squeue", "-h"))
    assert cli("sweep", file, "--dry-run").out.count("train") >= 4


def test_optuna_proposes_from_what_ran_on_slurm(cli, tmp_path):  # noqa: F811
    pytest.importorskip("optuna")
    wanted = """
[optuna]
trials = 4
at_once = 2
startup = 2
metric = "return"
fields.lr = { distribution = "log-uniform", low = 1e-4, high = 1e-2 }
"""
    file = written(tmp_path, head(tmp_path, ["bc"], 1, [0]) + TINY + wanted)
    said = cli("sweep", file, "--executor", "slurm")
    assert said.code == 0 and said.out.startswith("4 started"), said.err
    assert "4 of 4 trials, best return" in cli("sweep", "status", "sweeps/sweep").out
    assert cli("sweep", file).out.startswith("0 started; before: 4 done")


def test_a_launcher_killed_after_slurm_took_its_jobs_queues_none_twice(cli, tmp_path, monkeypatch):  # noqa: F811
    data = json.dumps(saved(tmp_path, world("continuous")))
    file = written(tmp_path, FILE.format(data=data, tiny=TINY).replace('world_models = ["none", "small"]', ""))

    profile = tmp_path / "profile.toml"
    profile.write_text("[sbatch]\ncomment = 'ours'\n")  # it does not take the place of what they are found by

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(executors, "_write_down", killed)
        assert cli("sweep", file, "--executor", "slurm", "--profile", profile).code == 130
    assert not list((tmp_path / "sweeps").glob("*/runs/*/job.json"))
    assert cli("sweep", file).out.startswith("0 started")
    until(lambda: json.loads(cli("sweep", "status", "sweeps/sweep", "--json").out)["done"] == 4, 120)
