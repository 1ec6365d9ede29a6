"""Sweep files for tests, on data of random numbers."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from worlds import reacher_recording, saved

from offline_marl.launch.jobs import executors
from offline_marl.launch.jobs.job import Job, note_start, write_submitted
from offline_marl.launch.jobs.profile import Profile
from offline_marl.runs.folder import write_json

TINY = """
[fields]
steps = 6
device = "cpu"
hidden = [8]
batch_size = 8
eval_every = 0
final_episodes = 2
checkpoint_every = 2
log_every = 2
"""


def tasks(folder: Path, count: int = 2) -> list[str]:
    """Data sets on disk that a body's team shares."""
    folder.mkdir(parents=True, exist_ok=True)
    return [saved(folder, reacher_recording(seed=n), f"arm{n}.safetensors") + "_2x1notip_0" for n in range(count)]


def head(
    folder: Path, algorithms: Sequence[str] = ("bc", "iql", "td3-bc"), count: int = 2, seeds: Sequence[int] = (0, 1, 2)
) -> str:
    """The lists at the top of a sweep file."""
    lists = {"algorithms": list(algorithms), "datasets": tasks(folder / "data", count), "seeds": list(seeds)}
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in lists.items())


def written(folder: Path, text: str, name: str = "sweep.toml") -> Path:
    """The text in a file."""
    path = folder / name
    path.write_text(text)
    return path


GONE = {"host": socket.gethostname(), "pid": 0, "born": 0}
"""A process of this machine that has ended."""


class Pretended:
    """Takes the place of `executors.submit`: jobs are over at once, or fail; every submission is remembered.

    Args:
        patch: Puts it there.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.submissions: list[tuple[list[str], list[str]]] = []
        """Names of the jobs and ids of those that they wait for."""
        self.failing: set[str] = set()
        """Parts of the names of jobs that fail."""
        self.score: Callable[[Job], dict[str, float]] = lambda job: {"return": float(job.fields["seed"])}
        patch.setattr(executors, "submit", self.submit)

    @property
    def names(self) -> list[str]:
        """Names of all jobs that were submitted, in order."""
        return [name for names, _ in self.submissions for name in names]

    def submit(self, jobs: list[Job], executor: str, profile: Profile, logs: Path, after: Any = ()) -> list[str]:
        if jobs:
            self.submissions.append(([job.out.name for job in jobs], list(after)))
        for number, job in enumerate(jobs):
            # Slurm is not there to be asked.
            write_submitted(job, "debug", f"{len(self.submissions)}_{number}", logs)
            note_start(job.out, {"event": "start", "id": "debug", **GONE})
            if any(part in job.out.name for part in self.failing):
                note_start(job.out, {"event": "end", "how": "failed", "why": "its loss is not finite."})
            elif executor != "slurm":
                finish(job, self.score(job))
        return [f"{len(self.submissions)}_{number}" for number in range(len(jobs))]


def finish(job: Job, score: dict[str, float]) -> None:
    """What the end of a run leaves."""
    write_json(job.out / "versions.json", {"commit": "abc", "dataset_sha256": "def"})
    write_json(job.out / "DONE", {"steps": job.fields.get("steps"), "wall_s": 1.5, "score": score})
