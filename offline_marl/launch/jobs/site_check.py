"""Check of a machine's ability to submit jobs to Slurm, one sentence a finding."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from offline_marl.launch.jobs import slurm
from offline_marl.launch.jobs.executors import dry_run
from offline_marl.launch.jobs.job import Job
from offline_marl.launch.jobs.profile import PROFILE_VARIABLE, Profile, find_profile, read_profile


def check_site(file: Path | None = None) -> Iterator[tuple[bool, str]]:
    """Check each requirement of submitting: whether it is met, and a sentence; ends where no more can be checked.

    Raises:
        ConfigError: The profile cannot be read.
    """
    profile, path = read_profile(file), find_profile(file)
    named = (
        f"The profile is {path}."
        if path
        else f"There is no profile (--profile FILE or ${PROFILE_VARIABLE}): site defaults."
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
        version = slurm.run_command("sbatch", "--version").strip()
        limit = slurm.array_limit()
        yield (
            True,
            f"Slurm's controller answers ({version}); an array holds up to {limit:,} jobs, longer ones are split.",
        )
        yield True, f"Its partitions are {', '.join(slurm.partitions()) or 'none'}."
        yield True, _test_submission(profile)
    except (slurm.SlurmError, slurm.MissingSlurmError) as error:
        yield False, str(error)
        return
    yield True, _accounting()


def _test_submission(profile: Profile) -> str:
    """Let Slurm validate a job of this profile without queueing it (`sbatch --test-only`)."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "try.sh"
        script.write_text(
            dry_run([Job(name="try", fields={"engine": "ray"}, out=Path(folder))], profile, Path(folder)),
            encoding="utf-8",
        )
        slurm.run_command("sbatch", "--test-only", str(script))
    return "Slurm would take a job of this profile."


def _accounting() -> str:
    try:
        slurm.run_command("sacct", "-n", "-X")
    except (slurm.SlurmError, slurm.MissingSlurmError):
        return "There is no accounting (sacct does not answer): deaths are found through the queue and the run folders."
    return "The accounting answers: deaths are found even when the queue has forgotten the job."
