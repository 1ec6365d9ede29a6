"""Slurm's commands: run by name, their errors rephrased in one sentence."""

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
JOB_VARIABLES = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_")
ARRAY_LIMIT = 1001
"""Slurm's own limit where it does not say another."""


class MissingSlurmError(ConfigError):
    """Lack of Slurm, or of submitit, on this machine; the message says what would help."""


class SlurmError(WorkError, RuntimeError):
    """Refusal of a command by Slurm; the message is one sentence."""


def missing(command: str) -> bool:
    """Whether a command is not installed here."""
    return shutil.which(command) is None


def run_command(*words: str) -> str:
    """Run a command of Slurm's and give its output.

    Raises:
        MissingSlurmError: It is not installed.
        SlurmError: It failed; says why.
    """
    if missing(words[0]):
        raise MissingSlurmError(
            f"There is no {words[0]} on this machine: use a login node of a Slurm cluster, or --executor local."
        )
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise SlurmError(f"Slurm's {words[0]} did not answer within {PATIENCE_S:.0f} s.") from None
    if done.returncode:
        raise SlurmError(explain(done.stderr or done.stdout, words[0]))
    return done.stdout


def explain(complaint: str, command: str = "sbatch") -> str:
    """Rephrase a complaint of Slurm's in one sentence."""
    lines = [line.split("error:", 1)[-1].strip() for line in complaint.splitlines() if line.strip()]
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
def without_job_environment() -> Iterator[None]:
    """Hide the variables of the job that this process runs in: sbatch would take them for flags of the new jobs."""
    variables = {
        name: value for name, value in os.environ.items() if name.startswith(JOB_VARIABLES) and name != "SLURM_CONF"
    }
    variables = variables if "SLURM_JOB_ID" in variables else {}
    for name in variables:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(variables)


def partitions() -> list[str]:
    """List the cluster's partitions; none where it does not answer."""
    try:
        return sorted(set(run_command("sinfo", "-h", "-o", "%R").split()))
    except (MissingSlurmError, SlurmError):
        return []


def array_limit() -> int:
    """Ask how many jobs one array may have: 1 where a site has no arrays."""
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", run_command("scontrol", "show", "config"))
    return max(int(match[1]), 1) if match else ARRAY_LIMIT


def cancel(ids: Sequence[str]) -> None:
    """End jobs, waiting or running; those that are gone already count as ended."""
    if ids:
        run_command("scancel", "--quiet", *ids)
