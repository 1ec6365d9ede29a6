"""Worker process of a job: performs it, and saves on the scheduler's signals, so that its next turn resumes there.

SIGUSR2 announces a pre-emption or the end of the time: save, then ask for another turn. SIGTERM announces that the
process will be killed (`scontrol requeue`, `scancel`, a drained node): save, then wait for it.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offline_marl.core import allocator
from offline_marl.core.errors import TERMINATED, BadInputError, sentence
from offline_marl.core.plugin_files import load_plugin, loaded_plugins
from offline_marl.launch.jobs import disk, slurm
from offline_marl.launch.jobs.job import Job, note_start, perform
from offline_marl.runs.stopping import asked, heeding_the_end, saving_when_interrupted

POLL_S = 0.05
KILL_WAIT_S = 900.0
"""How long a terminated job of Slurm waits to be killed. Its own end, while a pre-emption's grace lasts, would count as
a failure, and nobody would start it again."""
LAST_TURN_REASON = (
    "its time was over in the last turn that `requeues` of the profile allows: submitted again, it goes on"
)
QUEUE_POLL_S = 10.0
RAY_JOB_VARIABLE = "OFFLINE_MARL_RAY_JOB"
"""Holds the id of a job that runs on Ray."""


class Work:
    """Callable that submitit pickles and calls with a job in the job's process; handles requeues.

    Args:
        patience_s: Seconds that a pre-empted job may take to save; it asks for another turn even if it has not, and
            goes on from its last periodic checkpoint.
        plugins: Files that the job's process imports first; those that this one has imported, unless said.
    """

    plugins: tuple[str, ...] = ()
    """Also of a job that was pickled before there were any."""

    def __init__(self, patience_s: float = 60.0, plugins: Sequence[str] | None = None) -> None:
        self.patience_s = patience_s
        self.plugins = loaded_plugins() if plugins is None else tuple(plugins)
        self._over = False
        self._error: BaseException | None = None

    def __call__(self, job: Job) -> dict[str, Any]:
        """Perform the job in a thread, while this one, the main one, waits for signals.

        Raises:
            BadInputError: The run's or the fit's own, or another error that ended it.
            SystemExit: It was terminated, and has saved.
            KeyboardInterrupt: It was interrupted in the process that launched it, and has saved.
        """
        process = process_identity()
        self._note(job, disk.Backoff(), event="start", **process)
        if process["executor"] == "debug":
            return self._work_here(job)
        # Ctrl-C reaches every process of a terminal: a job of its own process then saves as well.
        local = os.environ.get("SUBMITIT_EXECUTOR") == "local"
        interrupted = signal.signal(signal.SIGINT, lambda *_: asked.set()) if local else None
        try:
            with heeding_the_end(asked.set):
                return self._wait(job)
        finally:
            if local:
                signal.signal(signal.SIGINT, interrupted)

    def _work_here(self, job: Job) -> dict[str, Any]:
        """Perform the job in the process that launches jobs: Ctrl-C lets the job save, and ends the launch."""
        with saving_when_interrupted((job.out / "config.json").exists) as interrupted:
            try:
                with heeding_the_end(asked.set):
                    return self._wait(job)
            except SystemExit:
                if interrupted.is_set():
                    raise KeyboardInterrupt from None
                raise

    def _wait(self, job: Job) -> dict[str, Any]:
        try:
            # A daemon, so that a run that does not come to its end keeps no process alive that was told to go.
            threading.Thread(target=self._perform, args=(job,), daemon=True).start()
            # Slept through rather than waited for by a lock, which a signal's handler could find taken by itself.
            while not self._over:
                time.sleep(POLL_S)
        except Exception as error:  # a signal's handler raised it: the run's own, or submitit will not ask for a turn
            if not isinstance(error, BadInputError):
                self._note(job, how="failed", why=LAST_TURN_REASON)
            raise
        else:
            return self._conclude(job)

    def checkpoint(self, job: Job) -> Any:
        """Save, and say with what the job's next turn begins: submitit calls this before the job loses its machine.

        Raises:
            BadInputError: The run ended with this meanwhile.
        """
        from submitit.helpers import DelayedSubmission

        asked.set()
        until = time.monotonic() + self.patience_s
        while not self._over and time.monotonic() < until:
            time.sleep(POLL_S)
        if isinstance(self._error, BadInputError):
            self._note_failure(job, self._error)
            raise self._error
        why = "saved" if self._over else f"did not save within {self.patience_s:.0f} s: its last checkpoint counts"
        self._note(job, how="preempted", why=why)
        return DelayedSubmission(Work(self.patience_s, self.plugins), job)

    def _perform(self, job: Job) -> None:
        try:
            allocator.keep_memory()
            for file in self.plugins:
                load_plugin(file)
            self._summary = perform(job)
        except BaseException as error:
            self._error = error
        self._over = True

    def _conclude(self, job: Job) -> dict[str, Any]:
        error = self._error
        if error is None:
            self._note(job, how="done")
            return self._summary
        # Terminated, its simulators' processes with it: that they are gone is no failure of the run.
        if asked.is_set() and not isinstance(error, BadInputError):
            self._note(job, how="terminated", why=str(error))
            _wait_to_be_killed()
            raise SystemExit(TERMINATED)
        self._note_failure(job, error)
        raise error

    def _note_failure(self, job: Job, error: BaseException) -> None:
        why = sentence(error) if isinstance(error, Exception) else type(error).__name__
        self._note(job, how="failed", why=" ".join(why.split()))

    @staticmethod
    def _note(job: Job, backoff: disk.Backoff | None = None, event: str = "end", **row: Any) -> None:
        """Log a line in the job's folder. An end does not wait for room on the disk: DONE, or its absence, shows it."""
        while True:
            try:
                return note_start(job.out, {"event": event, **row})
            except OSError as error:
                if backoff is None:
                    return
                backoff.wait(error, str(job.out))


def process_identity() -> dict[str, Any]:
    """Identify this process: its executor, its id there, its machine."""
    here = this_process()
    if RAY_JOB_VARIABLE in os.environ:  # first, as a cluster may have been started inside a job of Slurm's
        return {**here, "executor": "ray", "id": os.environ[RAY_JOB_VARIABLE], "node": here["host"]}
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        name = f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")
        node = os.environ.get("SLURMD_NODENAME", here["host"])
        return {**here, "executor": "slurm", "id": name, "node": node}
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        return {**here, "executor": "local", "id": os.environ.get("SUBMITIT_LOCAL_JOB_ID", "")}
    return {**here, "executor": "debug", "id": str(os.getpid())}


def this_process() -> dict[str, Any]:
    """Identify this process among those of all machines, also after its number was given to another."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": start_ticks(os.getpid())}


def start_ticks(process: int) -> int | None:
    """Read when a process of this machine began, in ticks since boot; None if it is gone, or this is no Linux.

    Process ids are reused: only id and start together identify a process that was recorded earlier.
    """
    try:
        words = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] == "Z" else int(words[19])


def _wait_to_be_killed() -> None:
    """Wait while Slurm counts the job as running; on other executors nothing counts an early exit as a failure."""
    until = time.monotonic() + KILL_WAIT_S
    while os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and _is_running() and time.monotonic() < until:
        time.sleep(QUEUE_POLL_S)


def _is_running() -> bool:
    try:
        return "RUNNING" in slurm.run_command("squeue", "-h", "-j", os.environ.get("SLURM_JOB_ID", ""), "-o", "%T")
    except (slurm.SlurmError, slurm.MissingSlurmError):
        return True
