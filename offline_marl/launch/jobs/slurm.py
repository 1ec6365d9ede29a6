"""What Slurm's commands say, in words of ours: asked by name, answered in one sentence where they refuse."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from offline_marl.core.config import ConfigError, suggest
from offline_marl.core.errors import WorkError

PATIENCE_S = 60.0
OWN = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_")
ARRAY_LIMIT = 1001
"""Slurm's own limit where it does not say another."""


class MissingSlurmError(ConfigError):
    """There is no Slurm here, or not the package that talks to it; the message says what would help."""


class SlurmError(WorkError, RuntimeError):
    """Slurm did not do what it was asked; the message is one sentence."""


def missing(command: str) -> bool:
    """Whether a command is not installed here."""
    return shutil.which(command) is None


def ask(*words: str) -> str:
    """What a command of Slurm's prints.

    Raises:
        MissingSlurmError: It is not installed.
        SlurmError: It failed; says why.
    """
    if missing(words[0]):
        raise MissingSlurmError(
            f"There is no {words[0]} on this machine: use a login node of a Slurm cluster, or --executor local."
        )
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise SlurmError(f"Slurm's {words[0]} did not answer within {PATIENCE_S:.0f} s.") from None
    if done.returncode:
        raise SlurmError(explain(done.stderr or done.stdout, words[0]))
    return done.stdout


def explain(said: str, command: str = "sbatch") -> str:
    """One sentence for what a command of Slurm's complained of."""
    lines = [line.split("error:", 1)[-1].strip() for line in said.splitlines() if line.strip()]
    text = " ".join(lines)
    if re.search(r"contact.*controller|Connection refused|Socket timed out|Zero Bytes", text, re.IGNORECASE):
        return "Slurm's controller (slurmctld) does not answer: it is down, or SLURM_CONF does not point to it."
    if "configuration source" in text or "process configuration file" in text:
        return "Slurm's commands find no slurm.conf here: use a login node of the cluster, or set SLURM_CONF."
    partition = re.search(r"invalid partition specified: (\S+)", text)
    if partition:
        return f"There is no partition '{partition[1]}' in this cluster: {suggest(partition[1], partitions())}."
    if "Invalid account" in text:
        return "Slurm does not know this account, or it may not use the partition: see `sacctmgr show associations`."
    if "configuration is not available" in text:
        return "No node of the partition has as many cores, as much memory or the GPUs that the profile asks for."
    last = lines[-1].rstrip(".") if lines else "it said nothing"
    return f"{command} refused: {last}."


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """What a job's own environment asks for is not asked for by jobs that are submitted from within it."""
    own = {name: value for name, value in os.environ.items() if name.startswith(OWN) and name != "SLURM_CONF"}
    own = own if "SLURM_JOB_ID" in own else {}
    for name in own:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(own)


def partitions() -> list[str]:
    """Names of the cluster's partitions; none where it does not answer."""
    try:
        return sorted(set(ask("sinfo", "-h", "-o", "%R").split()))
    except (MissingSlurmError, SlurmError):
        return []


def array_limit() -> int:
    """How many jobs one array may have."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"))
    return int(found[1]) if found else ARRAY_LIMIT


def cancel(ids: Sequence[str]) -> None:
    """End jobs, waiting or running; those that are gone already count as ended."""
    if ids:
        ask("scancel", "--quiet", *ids)
