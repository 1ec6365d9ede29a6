"""Small jobs for tests of submission, and what one does to a cluster."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from offline_marl.launch.jobs.job import Job, checked, read_starts

FIELDS: dict[str, Any] = {
    "steps": 20,
    "device": "cpu",
    "hidden": [8],
    "batch_size": 8,
    "log_every": 5,
    "eval_every": 0,
    "checkpoint_every": 10,
}
FIT = {**FIELDS, "members": 2, "elites": 1, "holdout": 0.3, "eval_every": 10}


def job(data: str, out: Path, name: str = "bc", **fields: Any) -> Job:
    """A training, or a fit if it is named ensemble, of some milliseconds."""
    fit = name == "ensemble"
    given = {"dataset": data, **(FIT if fit else FIELDS), **fields}
    return checked(Job(command="fit-model" if fit else "train", name=name, fields=given, out=out))


def done(each: Job) -> bool:
    return (each.out / "DONE").exists()


def starts(each: Job) -> list[dict[str, Any]]:
    return [row for row in read_starts(each.out) if row["event"] == "start"]


def ends(each: Job) -> list[str]:
    return [row["how"] for row in read_starts(each.out) if row["event"] == "end"]


def step(each: Job) -> int:
    """The step of its newest row of metrics."""
    try:
        return int(json.loads((each.out / "metrics.jsonl").read_text().splitlines()[-1])["step"])
    except (OSError, IndexError, ValueError):
        return 0


def until(what: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until it is so.

    Raises:
        AssertionError: It did not come to that.
    """
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not so after {seconds:.0f} s"
        time.sleep(0.1)


def slurm(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
