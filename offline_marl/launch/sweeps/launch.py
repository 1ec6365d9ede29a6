"""Launch of a sweep's jobs in the order of their dependencies; finished, live and failed ones are left alone."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from offline_marl.core.config import ConfigError
from offline_marl.core.errors import BadInputError, WorkError
from offline_marl.launch.jobs import executors, in_flight, states
from offline_marl.launch.jobs.job import Executor, read_starts
from offline_marl.launch.jobs.profile import Profile, read_profile
from offline_marl.launch.jobs.states import State
from offline_marl.launch.sweeps.folder import Sweep, SweepError
from offline_marl.launch.sweeps.plan import Planned
from offline_marl.runs.kinds import kinds

POLL_S = 0.5


@dataclass(frozen=True)
class Execution:
    """Executor of a launch and the profile of its jobs."""

    executor: Executor = "local"
    profile: Profile = field(default_factory=Profile)


@dataclass
class Launched:
    """Outcome of a launch, in counts and folders."""

    started: list[str] = field(default_factory=list)
    """Folders of the jobs that were given to the executor, inside the sweep's."""
    done: int = 0
    """Jobs that were over before."""
    live: int = 0
    """Jobs that were waiting or running before."""
    failed: int = 0
    """Jobs that had failed before, of a reason of their own: they wait for `retry`."""
    blocked: list[str] = field(default_factory=list)
    """Jobs whose world model has failed."""


def resolve_execution(
    executor: Executor, file: Path | None, parallel: int | None, ray_address: str | None = None
) -> Execution:
    """Resolve executor and profile from flags.

    On this machine no more processes run at once than it has cores, unless the profile or `parallel` says otherwise.

    Raises:
        ConfigError: The profile cannot be read, or an address is given to another executor than Ray.
    """
    profile = read_profile(file)
    if ray_address is not None:
        if executor != "ray":
            raise ConfigError(f"--ray-address is for --executor ray, not for {executor}.")
        profile = profile.model_copy(update={"ray_address": ray_address})
    if parallel is None and executor == "local" and "array_parallelism" not in profile.model_fields_set:
        parallel = min(profile.array_parallelism, _count_cores())
    return Execution(
        executor, profile if parallel is None else profile.model_copy(update={"array_parallelism": parallel})
    )


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launch(sweep: Sweep, jobs: Sequence[Planned], execution: Execution, again: bool = False) -> Launched:
    """Start the jobs that are neither over nor live; the caller holds the sweep's lock.

    They are over when this returns; with Slurm they are in the queue.

    Args:
        sweep: Its folder.
        jobs: Jobs of it; world models among them.
        execution: Executor and profile.
        again: Start jobs too that ended with an error.

    Raises:
        BadInputError: The executor cannot be used.
        WorkError: Slurm refused the jobs.
    """
    launched = Launched()
    if execution.executor == "slurm":
        in_flight.recover_submissions(sweep.logs)
    if execution.executor == "ray":
        states.abandon([sweep.folder(job) for job in jobs])
    ready = _ready(sweep, jobs, again, launched)
    if execution.executor == "slurm":
        _submit_to_slurm(sweep, jobs, ready, execution, launched)
        return launched
    tried: set[str] = set()
    while True:
        for fits_first in (True, False):
            some = [job for job in ready if job.fits_model == fits_first and _model_is_done(sweep, job)]
            tried |= {job.folder for job in some}
            launched.started += [job.folder for job in some]
            _run_here(sweep, some, execution)
        if not _wait_for_others(sweep, jobs):
            break
        # Live jobs of an earlier launcher that was killed may have been killed by now too: look for them once more.
        ready = [job for job in _ready(sweep, jobs, again, Launched()) if job.folder not in tried]
    launched.blocked = [job.folder for job in ready if job.folder not in tried]
    return launched


def jobs_to_start(sweep: Sweep, jobs: Sequence[Planned]) -> list[Planned]:
    """Select the jobs that a launch would start."""
    return _ready(sweep, jobs, False, Launched())


def _ready(sweep: Sweep, jobs: Sequence[Planned], again: bool, launched: Launched) -> list[Planned]:
    ready = []
    now = states.states_of([sweep.folder(job) for job in jobs])
    for job, state in zip(jobs, now, strict=True):
        if state.state == "done":
            launched.done += 1
        elif is_live(state):
            launched.live += 1
        elif not again and failed_by_itself(state):
            launched.failed += 1
        else:
            ready.append(job)
    return ready


def is_live(state: State) -> bool:
    """Check whether a job is running or queued."""
    return state.state == "running" or (state.state == "waiting" and bool(state.id))


def failed_by_itself(state: State) -> bool:
    """Check whether a job ended with an error, rather than by a signal or a lost machine."""
    if state.state != "failed":
        return False
    rows = read_starts(state.folder)
    return bool(rows) and rows[-1].get("how") == "failed"


def _model_is_done(sweep: Sweep, job: Planned) -> bool:
    return job.model is None or (sweep.path / job.model / "DONE").exists()


def _run_here(sweep: Sweep, jobs: Sequence[Planned], execution: Execution) -> None:
    """Run jobs on this machine. Failures stay in their folders; the caller counts them."""
    if not jobs:
        return
    # In this process the jobs draw bars of their own.
    with contextlib.nullcontext() if execution.executor == "debug" else _bar(sweep, jobs):
        try:
            executors.submit([sweep.job(job) for job in jobs], execution.executor, execution.profile, sweep.logs)
        except executors.FailedJobsError:
            pass
        except (BadInputError, WorkError):
            # A single job in this process raises what it failed of.
            if execution.executor != "debug" or not failed_by_itself(states.state_of(sweep.folder(jobs[0]))):
                raise


def _wait_for_others(sweep: Sweep, jobs: Sequence[Planned]) -> bool:
    """Wait for jobs that a launcher before this one started; False if there were none."""
    waited = False
    while going := sum(is_live(state) for state in states.states_of([sweep.folder(job) for job in jobs])):
        if not waited:
            print(f"waiting for {going} jobs that were started before", file=sys.stderr)
        waited = True
        time.sleep(POLL_S)
    return waited


def _submit_to_slurm(
    sweep: Sweep, jobs: Sequence[Planned], ready: Sequence[Planned], execution: Execution, launched: Launched
) -> None:
    """Submit arrays: the world models, the runs that need none of them, and the runs of each."""
    given: dict[str, str] = {}
    for fits, some in group_into_arrays(sweep, jobs, ready):
        after = [given.get(fit.folder) or _id_of_waiting_fit(sweep, fit) for fit in fits]
        if "" in after:
            launched.blocked += [job.folder for job in some]
            continue
        ids = executors.submit([sweep.job(job) for job in some], "slurm", execution.profile, sweep.logs, after)
        given |= dict(zip((job.folder for job in some), ids, strict=True))
        launched.started += [job.folder for job in some]


def _id_of_waiting_fit(sweep: Sweep, fit: Planned) -> str:
    """Read the id of a fit that an earlier launch submitted; empty if it has failed."""
    state = states.state_of(sweep.folder(fit))
    return state.id if is_live(state) else ""


def group_into_arrays(
    sweep: Sweep, jobs: Sequence[Planned], ready: Sequence[Planned]
) -> Iterator[tuple[list[Planned], list[Planned]]]:
    """Group jobs by the fit that they depend on, as an array has one dependency; gives fits and jobs in order."""
    by_folder = {job.folder: job for job in jobs if job.fits_model}
    fits = [job for job in ready if job.fits_model]
    if fits:
        yield [], fits
    groups: dict[str | None, list[Planned]] = {}
    for job in ready:
        if not job.fits_model:
            groups.setdefault(None if _model_is_done(sweep, job) else job.model, []).append(job)
    for model, some in groups.items():
        if model is not None and model not in by_folder:
            raise SweepError(f"The world model {model}, which {some[0].folder} needs, is not there any more.")
        yield ([] if model is None else [by_folder[model]]), some


@contextlib.contextmanager
def _bar(sweep: Sweep, jobs: Sequence[Planned]) -> Iterator[None]:
    """Draw a bar of finished jobs in a thread, while the executor blocks this one."""
    from offline_marl.core.progress import progress_bar

    over = threading.Event()
    what = kinds.get(jobs[0].command).plural
    with progress_bar(len(jobs), what, "job", initial=0) as bar:

        def redraw() -> None:
            while not over.wait(POLL_S):
                draw()

        def draw() -> None:
            bar.update(sum((sweep.folder(job) / "DONE").exists() for job in jobs) - bar.n)

        redrawing = threading.Thread(target=redraw, daemon=True)
        redrawing.start()
        try:
            yield
        finally:
            over.set()
            redrawing.join()
            draw()
