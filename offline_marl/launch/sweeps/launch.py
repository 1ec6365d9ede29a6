"""Starting a sweep's jobs: what is over, at work or failed is left alone; world models come before who needs them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from offline_marl.core.errors import BadInputError, WorkError
from offline_marl.launch.jobs import executors, in_flight, states
from offline_marl.launch.jobs.job import Executor, read_starts
from offline_marl.launch.jobs.profile import Profile, read_profile
from offline_marl.launch.jobs.states import State
from offline_marl.launch.sweeps.folder import Sweep, SweepError
from offline_marl.launch.sweeps.plan import Planned

POLL_S = 0.5


@dataclass(frozen=True)
class How:
    """Who carries jobs out, and what each may ask for."""

    executor: Executor = "local"
    profile: Profile = field(default_factory=Profile)


@dataclass
class Launched:
    """What a launch did."""

    started: list[str] = field(default_factory=list)
    """Folders of the jobs that were given to the executor, inside the sweep's."""
    done: int = 0
    """Jobs that were over before."""
    live: int = 0
    """Jobs that were waiting or running before."""
    failed: int = 0
    """Jobs that had failed before, of a reason of their own: they wait for `retry`."""
    held: list[str] = field(default_factory=list)
    """Jobs whose world model has failed."""


def how_of(executor: Executor, file: Path | None, parallel: int | None) -> How:
    """The executor and its profile.

    On this machine no more processes run at once than it has cores, unless the profile or `parallel` says otherwise.

    Raises:
        ConfigError: The profile cannot be read.
    """
    profile = read_profile(file)
    if parallel is None and executor == "local" and "array_parallelism" not in profile.model_fields_set:
        parallel = min(profile.array_parallelism, _cores())
    return How(executor, profile if parallel is None else profile.model_copy(update={"array_parallelism": parallel}))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launch(sweep: Sweep, jobs: Sequence[Planned], how: How, again: bool = False) -> Launched:
    """Start those of the jobs that nobody works on and that are not over; for who holds the sweep.

    With the debug and local executors they are over when this returns; with Slurm they are in the queue.

    Args:
        sweep: Its folder.
        jobs: Jobs of it; world models among them.
        how: Who carries them out.
        again: Start those too that failed of a reason of their own.

    Raises:
        BadInputError: The executor cannot be used.
        WorkError: Slurm refused the jobs.
    """
    said = Launched()
    if how.executor == "slurm":
        in_flight.recover_submissions(sweep.logs)
    ready = _ready(sweep, jobs, again, said)
    if how.executor == "slurm":
        _queue(sweep, jobs, ready, how, said)
        return said
    tried: set[str] = set()
    while True:
        for command in ("fit-model", "train"):
            some = [job for job in ready if job.command == command and _model_is_done(sweep, job)]
            tried |= {job.folder for job in some}
            said.started += [job.folder for job in some]
            _perform(sweep, some, how)
        if not _wait_for_others(sweep, jobs):
            break
        # What others worked on may be cut off: a launcher that was killed leaves its processes, these can be killed.
        ready = [job for job in _ready(sweep, jobs, again, Launched()) if job.folder not in tried]
    said.held = [job.folder for job in ready if job.folder not in tried]
    return said


def ready_of(sweep: Sweep, jobs: Sequence[Planned]) -> list[Planned]:
    """The jobs that a launch would start."""
    return _ready(sweep, jobs, False, Launched())


def _ready(sweep: Sweep, jobs: Sequence[Planned], again: bool, said: Launched) -> list[Planned]:
    ready = []
    now = states.states_of([sweep.folder(job) for job in jobs])
    for job, state in zip(jobs, now, strict=True):
        if state.state == "done":
            said.done += 1
        elif is_live(state):
            said.live += 1
        elif not again and failed_by_itself(state):
            said.failed += 1
        else:
            ready.append(job)
    return ready


def is_live(state: State) -> bool:
    """Whether somebody works on a job, or will."""
    return state.state == "running" or (state.state == "waiting" and bool(state.id))


def failed_by_itself(state: State) -> bool:
    """Whether the job ended with an error, and was not just cut off."""
    if state.state != "failed":
        return False
    rows = read_starts(state.folder)
    return bool(rows) and rows[-1].get("how") == "failed"


def _model_is_done(sweep: Sweep, job: Planned) -> bool:
    return job.model is None or (sweep.path / job.model / "DONE").exists()


def _perform(sweep: Sweep, jobs: Sequence[Planned], how: How) -> None:
    """Carry jobs out here. Why some failed is in their folders, and told by who counts them."""
    if not jobs:
        return
    # In this process the jobs draw bars of their own.
    with contextlib.nullcontext() if how.executor == "debug" else _bar(sweep, jobs):
        try:
            executors.submit([sweep.job(job) for job in jobs], how.executor, how.profile, sweep.logs)
        except executors.FailedJobsError:
            pass
        except (BadInputError, WorkError):
            # A single job in this process raises what it failed of.
            if how.executor != "debug" or not failed_by_itself(states.state_of(sweep.folder(jobs[0]))):
                raise


def _wait_for_others(sweep: Sweep, jobs: Sequence[Planned]) -> bool:
    """Wait for jobs that a launcher before this one started; False if there were none."""
    waited = False
    while live := sum(is_live(state) for state in states.states_of([sweep.folder(job) for job in jobs])):
        if not waited:
            print(f"waiting for {live} jobs that were started before", file=sys.stderr)
        waited = True
        time.sleep(POLL_S)
    return waited


def _queue(sweep: Sweep, jobs: Sequence[Planned], ready: Sequence[Planned], how: How, said: Launched) -> None:
    """Submit arrays: the world models, the runs that need none of them, and the runs of each."""
    given: dict[str, str] = {}
    for fits, some in arrays(sweep, jobs, ready):
        after = [given.get(fit.folder) or _waiting_id(sweep, fit) for fit in fits]
        if "" in after:
            said.held += [job.folder for job in some]
            continue
        ids = executors.submit([sweep.job(job) for job in some], "slurm", how.profile, sweep.logs, after)
        given |= dict(zip((job.folder for job in some), ids, strict=True))
        said.started += [job.folder for job in some]


def _waiting_id(sweep: Sweep, fit: Planned) -> str:
    """The id of a fit that an earlier launch submitted; empty if it has failed."""
    state = states.state_of(sweep.folder(fit))
    return state.id if is_live(state) else ""


def arrays(
    sweep: Sweep, jobs: Sequence[Planned], ready: Sequence[Planned]
) -> Iterator[tuple[list[Planned], list[Planned]]]:
    """Jobs that are submitted together, and the fits they wait for, in the order of submission."""
    by_folder = {job.folder: job for job in jobs if job.command == "fit-model"}
    fits = [job for job in ready if job.command == "fit-model"]
    if fits:
        yield [], fits
    groups: dict[str | None, list[Planned]] = {}
    for job in ready:
        if job.command == "train":
            groups.setdefault(None if _model_is_done(sweep, job) else job.model, []).append(job)
    for model, some in groups.items():
        if model is not None and model not in by_folder:
            raise SweepError(f"The world model {model}, which {some[0].folder} needs, is not there any more.")
        yield ([] if model is None else [by_folder[model]]), some


@contextlib.contextmanager
def _bar(sweep: Sweep, jobs: Sequence[Planned]) -> Iterator[None]:
    """A bar of jobs that have finished, drawn beside the executor's work."""
    from offline_marl.core.progress import progress_bar

    over = threading.Event()
    what = "world models" if jobs[0].command == "fit-model" else "runs"
    with progress_bar(len(jobs), what, "job", initial=0) as bar:

        def look() -> None:
            while not over.wait(POLL_S):
                draw()

        def draw() -> None:
            bar.update(sum((sweep.folder(job) / "DONE").exists() for job in jobs) - bar.n)

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        try:
            yield
        finally:
            over.set()
            looking.join()
            draw()
