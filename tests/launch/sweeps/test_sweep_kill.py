"""A sweep on processes of this machine, its launcher killed on the way."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ALGORITHMS, DATASETS, SEEDS = ("bc", "iql", "cql"), ("coordination-single-v0", "coordination-mix-v0"), (0, 1, 2)
FILE = f"""
algorithms = {json.dumps(ALGORITHMS)}
datasets = {json.dumps(DATASETS)}
seeds = {json.dumps(SEEDS)}
[fields]
steps = 30
device = "cpu"
hidden = [8]
batch_size = 8
eval_every = 0
final_episodes = 4
checkpoint_every = 10
"""


def begin(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "offline_marl", "sweep", "sweep.toml", "--executor", "local", "--parallel", "2"]
    with (folder / "said.txt").open("wb") as stream:
        return subprocess.Popen(command, cwd=folder, stdout=stream, stderr=stream)


def sweep(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "offline_marl", "sweep", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def finished(folder: Path) -> set[str]:
    return {path.parent.name for path in (folder / "sweeps" / "sweep" / "runs").glob("*/DONE")}


def starts(folder: Path) -> list[dict[str, object]]:
    files = (folder / "sweeps" / "sweep" / "runs").glob("*/starts.jsonl")
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if '"start"' in line]


@pytest.mark.slow
def test_a_sweep_whose_launcher_is_killed_ends_in_one_table(tmp_path):
    pytest.importorskip("submitit")
    (tmp_path / "sweep.toml").write_text(FILE)
    launcher = begin(tmp_path)
    until = time.monotonic() + 120
    while len(finished(tmp_path)) < 4:
        assert time.monotonic() < until and launcher.poll() is None
        time.sleep(0.1)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    before = finished(tmp_path)
    assert 4 <= len(before) < 18
    again = begin(tmp_path)
    assert again.wait(timeout=300) == 0, (tmp_path / "said.txt").read_text()
    assert len(finished(tmp_path)) == 18
    # What was over was not begun again, and what the first launcher left at work was waited for.
    assert len(starts(tmp_path)) <= 18 + 2, starts(tmp_path)
    sweep(tmp_path, "collect", "sweeps/sweep", "--out", "table.csv")
    with (tmp_path / "table.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["algorithm"], row["dataset"], int(row["seed"])) for row in rows} == {
        (algorithm, dataset, seed) for algorithm in ALGORITHMS for dataset in DATASETS for seed in SEEDS
    }
    assert all(float(row["normalized_low"]) <= float(row["normalized_return"]) for row in rows)
    assert all(row["dataset_sha256"] and row["steps"] == "30" for row in rows)


@pytest.mark.slow
def test_cancelling_leaves_no_process_and_loses_no_step(tmp_path):
    pytest.importorskip("submitit")
    long = FILE.replace("steps = 30", "steps = 10_000_000").replace("checkpoint_every = 10", "checkpoint_every = 0")
    (tmp_path / "sweep.toml").write_text(long)
    launcher = begin(tmp_path)
    runs = tmp_path / "sweeps" / "sweep" / "runs"
    until = time.monotonic() + 120
    while len(list(runs.glob("*/metrics.csv"))) < 2:
        assert time.monotonic() < until and launcher.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)
    pids = [int(row["pid"]) for row in starts(tmp_path)]
    assert "2 jobs cancelled" in sweep(tmp_path, "cancel", "sweeps/sweep")
    assert launcher.wait(timeout=30) == 130
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert len(list(runs.glob("*/checkpoints/step_*"))) == 2, "they saved"
    told = json.loads(sweep(tmp_path, "status", "sweeps/sweep", "--json"))
    assert (
        told["running"] == told["done"] == told["failed"] == 0
        and told["stopped"] == 2
        and not list(runs.glob("*/DONE"))
    )
    assert "0 jobs cancelled" in sweep(tmp_path, "cancel", "sweeps/sweep")
