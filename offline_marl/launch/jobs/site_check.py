"""Whether this machine can submit: what was found, one plain sentence each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from offline_marl.launch.jobs import slurm
from offline_marl.launch.jobs.executors import dry_run
from offline_marl.launch.jobs.job import Job
from offline_marl.launch.jobs.profile import VARIABLE, Profile, read_profile, where


def findings(file: Path | None = None) -> Iterator[tuple[bool, str]]:
    """Each thing that submitting needs: whether it is there, and a sentence; ends where the rest could not be asked.

    Raises:
        ConfigError: The profile cannot be read.
    """
    profile, path = read_profile(file), where(file)
    named = (
        f"The profile is {path}." if path else f"There is no profile (--profile FILE or ${VARIABLE}): site defaults."
    )
    yield True, named
    if find_spec("submitit") is None:
        yield False, "submitit is not installed: pip install 'offline-marl[slurm]'."
        return
    yield True, "submitit is installed."
    for command in ("sbatch", "srun", "squeue", "scontrol", "scancel"):
        if slurm.missing(command):
            yield False, f"There is no {command}: this is no login node of a Slurm cluster."
            return
    try:
        version = slurm.ask("sbatch", "--version").strip()
        limit = slurm.array_limit()
        yield (
            True,
            f"Slurm's controller answers ({version}); an array holds up to {limit:,} jobs, longer ones are split.",
        )
        yield True, f"Its partitions are {', '.join(slurm.partitions()) or 'none'}."
        yield True, _tried(profile)
    except (slurm.SlurmError, slurm.MissingSlurmError) as error:
        yield False, str(error)
        return
    yield True, _accounting()


def _tried(profile: Profile) -> str:
    """What Slurm would do with a job of this profile, as it says itself."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "try.sh"
        script.write_text(dry_run([Job(name="try", out=Path(folder))], profile, Path(folder)), encoding="utf-8")
        slurm.ask("sbatch", "--test-only", str(script))
    return "Slurm would take a job of this profile."


def _accounting() -> str:
    try:
        slurm.ask("sacct", "-n", "-X")
    except (slurm.SlurmError, slurm.MissingSlurmError):
        return "There is no accounting (sacct does not answer): deaths are found through the queue and the run folders."
    return "The accounting answers: deaths are found even when the queue has forgotten the job."
