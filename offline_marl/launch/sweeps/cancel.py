"""Cancellation of a sweep: the launcher first, so that nothing new begins, then its waiting and running jobs."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from offline_marl.core.errors import WorkError
from offline_marl.launch.jobs import states
from offline_marl.launch.jobs.job import read_starts, read_submitted
from offline_marl.launch.jobs.states import State
from offline_marl.launch.jobs.worker import start_ticks
from offline_marl.launch.sweeps.folder import Sweep
from offline_marl.launch.sweeps.launch import is_live

T = TypeVar("T")
PATIENCE_S = 60.0
"""How long jobs may take to save and to leave."""
POLL_S = 0.2


def cancel(sweep: Sweep) -> str:
    """End the launcher and every job that waits or runs; gives a line that says how many.

    Raises:
        WorkError: Something is still at work after a minute, or the launcher runs on another machine.
        SlurmError: Slurm refused.
    """
    folders = [sweep.folder(job) for job in sweep.manifest().jobs]
    before = [state for state in states.states_of(folders) if is_live(state)]
    _stop_launcher(sweep)
    states.cancel(folders)
    left = _wait(lambda: [state for state in states.states_of(folders) if is_live(state)])
    for state in left:
        _kill(state)
    left = _wait(lambda: [state for state in states.states_of(folders) if is_live(state)]) if left else []
    if left:
        raise WorkError(f"{len(left)} jobs of {sweep.path} are still at work, the first {left[0].folder.name}.")
    return f"{len(before)} jobs cancelled; `offline-marl sweep {sweep.path}` would go on with them"


def _stop_launcher(sweep: Sweep) -> None:
    launcher = sweep.launcher()
    if launcher is None:
        return
    host, process = launcher
    if host != socket.gethostname():
        raise WorkError(f"The launcher of {sweep.path} runs on {host}: cancel it there.")
    os.kill(process, signal.SIGTERM)
    if _wait(lambda: [launcher] if sweep.launcher() == launcher else []):
        os.kill(process, signal.SIGKILL)


def _kill(state: State) -> None:
    """End a job of this machine that did not save in time."""
    given = read_submitted(state.folder)
    begun = [row for row in read_starts(state.folder) if row.get("event") == "start"]
    if (
        given is None
        or given.executor not in {"local", "ray"}
        or not begun
        or begun[-1].get("host") != socket.gethostname()
    ):
        return
    process = int(begun[-1]["pid"])
    if start_ticks(process) == begun[-1].get("born"):  # not given to another process since
        os.kill(process, signal.SIGKILL)


def _wait(remaining: Callable[[], Sequence[T]]) -> Sequence[T]:
    until = time.monotonic() + PATIENCE_S
    while (left := remaining()) and time.monotonic() < until:
        time.sleep(POLL_S)
    return left
