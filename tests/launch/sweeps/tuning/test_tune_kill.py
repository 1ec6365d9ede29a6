"""Trials on processes of this machine, the launcher killed on the way."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from launch.conftest import *  # noqa: F403 - the fixture `cli`
from launch.sweeps.test_sweep_kill import begin, finished, starts

from offline_marl.launch.sweeps.folder import Sweep

FILE = """
algorithms = ["bc"]
datasets = ["coordination-mix-v0"]
seeds = [0]
[fields]
steps = 30
device = "cpu"
hidden = [8]
batch_size = 8
eval_every = 0
final_episodes = 4
checkpoint_every = 10
[optuna]
trials = 6
startup = 2
at_once = 2
[optuna.fields]
lr = { distribution = "log-uniform", low = 1e-5, high = 1e-1 }
hidden = { distribution = "choice", values = [[4], [8, 8]] }
"""


def settings(folder):
    jobs = Sweep(folder / "sweeps" / "sweep").manifest().jobs
    return [(job.folder, job.fields["lr"], job.fields["hidden"]) for job in jobs]


@pytest.mark.slow
def test_trials_whose_launcher_is_killed_are_those_of_an_undisturbed_sweep(cli, tmp_path):
    pytest.importorskip("submitit")
    pytest.importorskip("optuna")
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sweep.toml").write_text(FILE)
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    launcher = begin(cut)
    until = time.monotonic() + 120
    while len(finished(cut)) < 3:
        assert time.monotonic() < until and launcher.poll() is None
        time.sleep(0.05)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    assert len(finished(cut)) < 6
    assert begin(cut).wait(timeout=300) == 0, (cut / "said.txt").read_text()
    out = whole / "sweeps" / "sweep"
    assert cli("sweep", whole / "sweep.toml", "--executor", "debug", "--out", out).code == 0
    for folder in (cut, whole):
        assert len(finished(folder)) == 6
        assert "6 of 6 trials, best normalized_return" in cli("sweep", "status", folder / "sweeps" / "sweep").out
    assert settings(cut) == settings(whole) and len({lr for _, lr, _ in settings(cut)}) == 6
    # What the first launcher left at work was waited for, or cut off with it: at most one round.
    assert len(starts(whole)) == 6 and len(starts(cut)) <= 6 + 2
    journals = [(folder / "sweeps" / "sweep" / "optuna.journal").read_text() for folder in (cut, whole)]
    told = [sorted(json.loads(line).get("values") or [] for line in text.splitlines()) for text in journals]
    assert told[0] == told[1]
