"""Who runs jobs: this process, subprocesses of this machine, or Slurm; the latter two through submitit."""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from offline_marl.core.errors import WorkError, sentence
from offline_marl.launch.jobs import in_flight, slurm, states
from offline_marl.launch.jobs.job import Executor, Job, not_asked, note_start, read_starts, write_submitted
from offline_marl.launch.jobs.profile import Profile
from offline_marl.launch.jobs.worker import Work

GLANCE_S = 0.05
WRITERS = 16
"""Small files written at once: each waits for its disk, and many waits are one."""
DEAF = """bash -c 'trap "" USR2 TERM; exec "$@"' job"""
"""Until Python listens to them, signals would end a job that has only just begun; Slurm would count it as failed."""
SHARE_TO_SAVE = 0.8
"""Of the time between the signal and the end of a job."""


class FailedJobsError(WorkError, RuntimeError):
    """Jobs that ran here and did not finish; the message says how many, and why the first."""


def submit(
    jobs: Sequence[Job], executor: Executor, profile: Profile, logs: Path, after: Sequence[str] = ()
) -> list[str]:
    """Give jobs to an executor; with debug and local they are over when this returns.

    Args:
        jobs: Checked ones, each with a folder of its own.
        executor: Who runs them.
        profile: What each asks for.
        logs: Folder of what they print.
        after: Ids of Slurm jobs that must have succeeded before; the other executors run one submission after another.

    Returns:
        The id of each.

    Raises:
        MissingSlurmError: Slurm or submitit is not installed.
        SlurmError: Slurm refused them; those of an array before stay submitted.
        FailedJobsError: Some ran here and failed; all were tried.
    """
    if not jobs:
        return []
    logs = logs.absolute()
    if executor == "debug":
        return _debug(jobs, logs)
    if find_spec("submitit") is None:
        raise slurm.MissingSlurmError("submitit is not installed: pip install 'offline-marl[slurm]'.")
    logs.mkdir(parents=True, exist_ok=True)
    return _local(jobs, profile, logs) if executor == "local" else _slurm(jobs, profile, logs, after)


def dry_run(jobs: Sequence[Job], profile: Profile, logs: Path, after: Sequence[str] = ()) -> str:
    """The script that `submit` would hand to sbatch, once for every array."""
    if find_spec("submitit") is None:
        raise slurm.MissingSlurmError("submitit is not installed: pip install 'offline-marl[slurm]'.")
    from submitit.slurm import slurm as theirs

    parameters = {**_parameters(profile, after), "job_name": _name(jobs)}
    parameters |= {"map_count": len(jobs)} if len(jobs) > 1 else {}
    command = f"{_python(profile)} -u -m submitit.core._submit {shlex.quote(str(logs.absolute()))}"
    text: str = theirs._make_sbatch_string(command=command, folder=logs.absolute(), **parameters)
    return text


def _debug(jobs: Sequence[Job], logs: Path) -> list[str]:
    failures = []
    for job in jobs:
        write_submitted(job, "debug", "debug", logs)
        try:
            with not_asked():
                Work()(job)
        except Exception as error:
            if len(jobs) == 1:
                raise
            failures.append(sentence(error))
    _refuse_failures(len(jobs), failures)
    return ["debug"] * len(jobs)


def _local(jobs: Sequence[Job], profile: Profile, logs: Path) -> list[str]:
    """Never more processes at once than the profile says; they outlive this one, and their folders know the rest."""
    from submitit.local.local import LocalExecutor

    executor = LocalExecutor(logs, max_num_timeout=profile.requeues)
    delay = _delay(profile)
    executor.update_parameters(
        timeout_min=profile.minutes, signal_delay_s=delay, gpus_per_node=profile.gpus, setup=list(profile.setup)
    )
    work = Work(SHARE_TO_SAVE * delay)
    ids, going = [], list[tuple[Job, Any]]()
    try:
        for job in jobs:
            while len(going) >= profile.array_parallelism:
                going = _still(going)
            given = executor.submit(work, job)
            write_submitted(job, "local", given.job_id, logs)
            ids.append(given.job_id)
            going.append((job, given))
        while going:
            going = _still(going)
    except BaseException:
        for job, given in going:
            note_start(job.out, {"event": "cancel"})
            states.end_here(job.out)  # it saves
            given._process.terminate()
        raise
    _refuse_failures(len(jobs), [_why(job) for job in jobs if not (job.out / "DONE").exists()])
    return ids


def _still(going: Sequence[tuple[Job, Any]]) -> list[tuple[Job, Any]]:
    time.sleep(GLANCE_S)
    return [(job, given) for job, given in going if given._process.poll() is None]


def _why(job: Job) -> str:
    ends = [row for row in read_starts(job.out) if row.get("event") == "end"]
    return str(ends[-1].get("why", "it ended")) if ends else f"the process of {job.out} is gone."


def _refuse_failures(count: int, failures: Sequence[str]) -> None:
    if failures:
        which = "The job failed" if count == 1 else f"{len(failures)} of {count} jobs failed, the first"
        raise FailedJobsError(f"{which}: {failures[0]}")


def _slurm(jobs: Sequence[Job], profile: Profile, logs: Path, after: Sequence[str]) -> list[str]:
    from submitit.slurm.slurm import SlurmExecutor

    slurm.ask("sbatch", "--version")
    limit = slurm.array_limit()
    ids = []
    for first in range(0, len(jobs), limit):
        some = jobs[first : first + limit]
        executor = SlurmExecutor(logs, max_num_timeout=profile.requeues, python=_python(profile))
        work = Work(SHARE_TO_SAVE * _delay(profile))
        with in_flight.on_the_way(some, logs) as word:
            executor.update_parameters(**_parameters(profile, after), job_name=_name(some), comment=word)
            with slurm.outside_of_jobs(), _refusals():
                given = executor.map_array(work, some) if len(some) > 1 else [executor.submit(work, some[0])]
            names = [each.job_id for each in given]
            _write_down(some, names, logs)
        ids += names
    return ids


def _write_down(jobs: Sequence[Job], ids: Sequence[str], logs: Path) -> None:
    """Tell each job's folder who has it. Jobs that cannot be written down are taken back: nobody would find them."""
    try:
        with ThreadPoolExecutor(WRITERS) as writers:
            list(writers.map(lambda job, name: write_submitted(job, "slurm", name, logs), jobs, ids))
    except OSError:
        slurm.cancel(ids)
        raise


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What sbatch complains of, in one sentence."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    # submitit prints the complaint as well.
    with tempfile.TemporaryFile("w+") as aside, contextlib.redirect_stderr(aside):
        try:
            yield
        except (FailedJobError, FailedSubmissionError) as error:
            raise slurm.SlurmError(slurm.explain(str(error))) from None


def _parameters(profile: Profile, after: Sequence[str]) -> dict[str, Any]:
    more: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes", **profile.sbatch}
    if after:
        more["dependency"] = "afterok:" + ":".join(dict.fromkeys(after))
    asked: dict[str, Any] = {
        "time": profile.minutes,
        "cpus_per_task": profile.cpus,
        "account": profile.account,
        "partition": profile.partition,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "mem": None if profile.memory_gb is None else f"{round(1024 * profile.memory_gb)}MB",
        "gpus_per_node": profile.gpus or None,
        "setup": list(profile.setup) or None,
        "array_parallelism": profile.array_parallelism,
        "signal_delay_s": _delay(profile),
        "additional_parameters": more,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _delay(profile: Profile) -> int:
    """Seconds that a job has to save; never more than half of its time."""
    return min(profile.signal_delay_s, 30 * profile.minutes)


def _python(profile: Profile) -> str:
    python = shlex.quote(sys.executable) if profile.container is None else f"{profile.container} python"
    return f"{DEAF} {python}"


def _name(jobs: Sequence[Job]) -> str:
    return f"{jobs[0].command}-{jobs[0].name}"
