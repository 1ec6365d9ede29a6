"""Jobs on their way to Slurm: written down before sbatch is asked, so that a launcher killed after it finds them."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from offline_marl.core.config import ConfigError, build
from offline_marl.core.files import write_atomically
from offline_marl.launch.jobs import slurm
from offline_marl.launch.jobs.job import Job, read_submitted, write_submitted

SUFFIX = ".handing.json"


@contextlib.contextmanager
def on_the_way(jobs: Sequence[Job], logs: Path) -> Iterator[str]:
    """While jobs are submitted together and their folders told; gives the word that Slurm is to keep with them."""
    word = f"offline-marl-{secrets.token_hex(8)}"
    file = logs / f"{word}{SUFFIX}"
    write_atomically(file, json.dumps([job.model_dump(mode="json") for job in jobs]).encode())
    try:
        yield word
    except Exception:  # refused, or taken back: Slurm holds none of them
        file.unlink(missing_ok=True)
        raise
    file.unlink(missing_ok=True)


def settle(logs: Path) -> int:
    """Tell folders of jobs that Slurm has taken from a launcher that did not live to tell them.

    Returns:
        How many there were.

    Raises:
        SlurmError: Slurm does not answer.
    """
    left = sorted(logs.glob(f"*{SUFFIX}"))
    if not left:
        return 0
    rows = [line.partition("|") for line in slurm.ask("squeue", "-h", "-r", "-t", "all", "-o", "%i|%k").splitlines()]
    told = 0
    for file in left:
        ids = [name for name, _, said in rows if said.endswith(file.name.removesuffix(SUFFIX))]
        jobs = _jobs(file) if ids else []
        head = ids[0].partition("_")[0] if ids else ""
        for number, job in enumerate(jobs):
            held = read_submitted(job.out)
            name = head if len(jobs) == 1 else f"{head}_{number}"
            if held is None or held.id != name:
                write_submitted(job, "slurm", name, logs)
                told += 1
        file.unlink()
    return told


def _jobs(file: Path) -> list[Job]:
    try:
        listed: list[Any] = json.loads(file.read_text(encoding="utf-8"))
        return [build(Job, each) for each in listed]
    except (ValueError, TypeError, ConfigError):
        return []
