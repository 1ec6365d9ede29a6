"""Executors of jobs: this process, processes of this machine, Slurm through submitit, or a Ray cluster."""

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
from offline_marl.launch.jobs.job import Executor, Job, note_start, read_starts, without_stop_request, write_submitted
from offline_marl.launch.jobs.processes import ProcessExecutor, StartedJob
from offline_marl.launch.jobs.profile import Profile
from offline_marl.launch.jobs.ray_allocation import HEAD_STEP, ray_lines, with_nodes_for_ray
from offline_marl.launch.jobs.ray_jobs import run_on_ray
from offline_marl.launch.jobs.worker import Work

POLL_S = 0.05
WRITER_THREADS = 16
"""Threads that write `job.json` files of an array: latency of a shared disk, not its bandwidth, is what they hide."""
IGNORING_SIGNALS = """bash -c 'trap "" USR2 TERM; exec "$@"' job"""
"""Starts Python with the signals ignored that its handlers take over: before these are installed, a signal's default
action would kill the job, and Slurm would count it as failed rather than requeue it."""
SAVING_SHARE = 0.8
"""Part of the time between the signal and the end of a job that saving may take."""


class FailedJobsError(WorkError, RuntimeError):
    """Failure of jobs of this machine; the message says how many, and why the first."""


def submit(
    jobs: Sequence[Job], executor: Executor, profile: Profile, logs: Path, after: Sequence[str] = ()
) -> list[str]:
    """Submit jobs to an executor; they are over when this returns, save with Slurm.

    Args:
        jobs: Checked ones, each with a folder of its own.
        executor: One of the four.
        profile: Resources of each.
        logs: Folder of what they print.
        after: Ids of Slurm jobs that must have succeeded before; the other executors run one submission after another.

    Returns:
        The id of each.

    Raises:
        MissingSlurmError: Slurm, or submitit for it, is not installed.
        SlurmError: Slurm refused them; those of an array before stay submitted.
        FailedJobsError: Some ran here, or on Ray, and failed; all were tried.
        EngineError: There is no Ray, or no cluster at the address.
    """
    if not jobs:
        return []
    logs = logs.absolute()
    if executor in {"local", "debug"} and profile.container is not None:
        print(f"warning: jobs of the {executor} executor run outside the profile's container", file=sys.stderr)
    if executor == "debug":
        return _debug(jobs, logs)
    if executor == "slurm" and find_spec("submitit") is None:
        raise slurm.MissingSlurmError("submitit is not installed: pip install 'offline-marl[slurm]'.")
    logs.mkdir(parents=True, exist_ok=True)
    if executor == "ray":
        return _ray(jobs, profile, logs)
    return _local(jobs, profile, logs) if executor == "local" else _slurm(jobs, profile, logs, after)


def dry_run(jobs: Sequence[Job], profile: Profile, logs: Path, after: Sequence[str] = ()) -> str:
    """Render the script that `submit` would give to sbatch, once for every array."""
    if find_spec("submitit") is None:
        raise slurm.MissingSlurmError("submitit is not installed: pip install 'offline-marl[slurm]'.")
    profile = with_nodes_for_ray(profile, jobs)
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
            with without_stop_request():
                Work()(job)
        except Exception as error:
            if len(jobs) == 1:
                raise
            failures.append(sentence(error))
    _refuse_failures(len(jobs), failures)
    return ["debug"] * len(jobs)


def _local(jobs: Sequence[Job], profile: Profile, logs: Path) -> list[str]:
    """Run jobs as subprocesses, at most `array_parallelism` at once; they survive this process being killed."""
    delay = _signal_delay(profile)
    executor = ProcessExecutor(logs, profile, delay)
    work = Work(SAVING_SHARE * delay)
    ids, going = [], list[tuple[Job, StartedJob]]()
    try:
        for job in jobs:
            while len(going) >= profile.array_parallelism:
                going = _running(going)
            given = executor.submit(work, job)
            write_submitted(job, "local", given.job_id, logs)
            ids.append(given.job_id)
            going.append((job, given))
        while going:
            going = _running(going)
    except BaseException:
        for job, given in going:
            note_start(job.out, {"event": "cancel"})
            states.terminate_process(job.out)  # it saves
            given.process.terminate()
        raise
    _refuse_failures(len(jobs), [_failure_reason(job) for job in jobs if not (job.out / "DONE").exists()])
    return ids


def _ray(jobs: Sequence[Job], profile: Profile, logs: Path) -> list[str]:
    delay = _signal_delay(profile)
    ids = run_on_ray(jobs, profile, logs, delay, SAVING_SHARE * delay)
    _refuse_failures(len(jobs), [_failure_reason(job) for job in jobs if not (job.out / "DONE").exists()])
    return ids


def _running(going: Sequence[tuple[Job, StartedJob]]) -> list[tuple[Job, StartedJob]]:
    time.sleep(POLL_S)
    return [(job, given) for job, given in going if given.process.poll() is None]


def _failure_reason(job: Job) -> str:
    ends = [row for row in read_starts(job.out) if row.get("event") == "end"]
    return str(ends[-1].get("why", "it ended")) if ends else f"the process of {job.out} is gone."


def _refuse_failures(count: int, failures: Sequence[str]) -> None:
    if failures:
        which = "The job failed" if count == 1 else f"{len(failures)} of {count} jobs failed, the first"
        raise FailedJobsError(f"{which}: {failures[0]}")


def _slurm(jobs: Sequence[Job], profile: Profile, logs: Path, after: Sequence[str]) -> list[str]:
    from submitit.slurm.slurm import SlurmExecutor

    profile = with_nodes_for_ray(profile, jobs)
    slurm.run_command("sbatch", "--version")
    limit = slurm.array_limit()
    ids = []
    for first in range(0, len(jobs), limit):
        some = jobs[first : first + limit]
        executor = SlurmExecutor(logs, max_num_timeout=profile.requeues, python=_python(profile))
        work = Work(SAVING_SHARE * _signal_delay(profile))
        with in_flight.recorded_before_submission(some, logs) as word:
            executor.update_parameters(**_parameters(profile, after, word), job_name=_name(some))
            with slurm.without_job_environment(), _refusals():
                given = executor.map_array(work, some) if len(some) > 1 else [executor.submit(work, some[0])]
            names = [submitted.job_id for submitted in given]
            _write_down(some, names, logs)
        ids += names
    return ids


def _write_down(jobs: Sequence[Job], ids: Sequence[str], logs: Path) -> None:
    """Write the ids of jobs into their folders; cancel all if one cannot be written, as nothing would find it again."""
    try:
        with ThreadPoolExecutor(WRITER_THREADS) as writers:
            list(writers.map(lambda job, name: write_submitted(job, "slurm", name, logs), jobs, ids))
    except OSError:
        slurm.cancel(ids)
        raise


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn a complaint of sbatch into one sentence."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    # submitit prints the complaint beside raising it: that copy goes into a file that is thrown away.
    with tempfile.TemporaryFile("w+") as aside, contextlib.redirect_stderr(aside):
        try:
            yield
        except (FailedJobError, FailedSubmissionError) as error:
            raise slurm.SlurmError(slurm.explain(str(error))) from None


def _parameters(profile: Profile, after: Sequence[str], token: str = "") -> dict[str, Any]:
    given = {"requeue": True, "kill-on-invalid-dep": "yes", **profile.sbatch}
    if given["requeue"] is False:
        given["no-requeue"] = True
    more: dict[str, Any] = {name: value for name, value in given.items() if value is not False}
    if after:
        waits = "afterok:" + ":".join(dict.fromkeys(after))
        more["dependency"] = ",".join(filter(None, (str(more.get("dependency", "")), waits)))
    # By the token, which stands last, jobs of a killed launcher are found again.
    comment = " ".join(filter(None, (str(more.pop("comment", "")), token)))
    spread: dict[str, Any] = {}
    if profile.nodes is not None:
        spread = {"nodes": profile.nodes, "ntasks_per_node": 1, "srun_args": list(HEAD_STEP)}
        spread["setup"] = [*profile.setup, *ray_lines(profile, _bare_python(profile))]
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
        "signal_delay_s": _signal_delay(profile),
        "comment": comment or None,
        "additional_parameters": more,
        **spread,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _signal_delay(profile: Profile) -> int:
    """Compute the seconds that a job has to save; never more than half of its time."""
    return min(profile.signal_delay_s, 30 * profile.minutes)


def _python(profile: Profile) -> str:
    return f"{IGNORING_SIGNALS} {_bare_python(profile)}"


def _bare_python(profile: Profile) -> str:
    return shlex.quote(sys.executable) if profile.container is None else f"{profile.container} python"


def _name(jobs: Sequence[Job]) -> str:
    return f"{jobs[0].command}-{jobs[0].name}"
