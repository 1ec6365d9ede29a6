"""Jobs in flight to Slurm: recorded before sbatch is called, so that the ids of a killed launcher are recovered."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from offline_marl.core.config import ConfigError, build
from offline_marl.core.files import write_atomically
from offline_marl.core.small_files import read
from offline_marl.launch.jobs import slurm
from offline_marl.launch.jobs.job import Job, read_submitted, write_submitted

SUFFIX = ".handing.json"


@contextlib.contextmanager
def recorded_before_submission(jobs: Sequence[Job], logs: Path) -> Iterator[str]:
    """Record jobs for as long as they are submitted; gives the token to pass as Slurm's comment of the jobs.

    A launcher that is killed between sbatch's answer and `job.json` leaves the record. `recover_submissions` finds the
    jobs by the token in the queue, in the order of their array.
    """
    token = f"offline-marl-{secrets.token_hex(8)}"
    file = logs / f"{token}{SUFFIX}"
    write_atomically(file, json.dumps([job.model_dump(mode="json") for job in jobs]).encode())
    try:
        yield token
    except Exception:  # refused, or taken back: Slurm holds none of them
        file.unlink(missing_ok=True)
        raise
    file.unlink(missing_ok=True)


def recover_submissions(logs: Path) -> int:
    """Write the ids of jobs that Slurm took from a launcher that was killed before it wrote them.

    Returns:
        How many jobs were recovered.

    Raises:
        SlurmError: Slurm does not answer.
    """
    files = sorted(logs.glob(f"*{SUFFIX}"))
    if not files:
        return 0
    rows = [
        line.partition("|") for line in slurm.run_command("squeue", "-h", "-r", "-t", "all", "-o", "%i|%k").splitlines()
    ]
    recovered = 0
    for file in files:
        ids = [name for name, _, comment in rows if comment.endswith(file.name.removesuffix(SUFFIX))]
        jobs = _jobs(file) if ids else []
        head = ids[0].partition("_")[0] if ids else ""
        for number, job in enumerate(jobs):
            submitted = read_submitted(job.out)
            name = head if len(jobs) == 1 else f"{head}_{number}"
            if submitted is None or submitted.id != name:
                write_submitted(job, "slurm", name, logs)
                recovered += 1
        file.unlink()
    return recovered


def _jobs(file: Path) -> list[Job]:
    try:
        listed: list[Any] = read(file)
        return [build(Job, entry) for entry in listed]
    except (ValueError, TypeError, ConfigError):
        return []
