"""States of jobs: from the files in their folders and, for those on Slurm, from its queue; no accounting needed.

A job that the queue no longer knows and whose folder holds no DONE has died, whatever killed it.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from offline_marl.core.small_files import read_table
from offline_marl.launch.jobs import slurm
from offline_marl.launch.jobs.job import Submitted, note_start, read_starts, read_submitted
from offline_marl.launch.jobs.worker import start_ticks
from offline_marl.runs import checkpoint
from offline_marl.runs.live import is_held_elsewhere
from offline_marl.runs.metric_rows import MOST_STEPS, is_sound, newest_rate, read_rows

Name = Literal["waiting", "running", "done", "failed", "stopped"]
LOG_LINES = 5
"""Last lines of the log that are kept."""
LOG_BYTES = 20_000
LATE_S = 5
"""How long to wait for the DONE of jobs that Slurm has seen complete."""
RUNNING_STATES = {"RUNNING", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT", "STOPPED"}
END_REASONS = {
    "FAILED": "its process ended with an error or was killed",
    "OUT_OF_MEMORY": "it needed more memory than it had asked for",
    "TIMEOUT": "its time was over before it could save",
    "CANCELLED": "it was cancelled",
    "NODE_FAIL": "its node was lost",
    "BOOT_FAIL": "its node did not start",
    "DEADLINE": "it could not have ended in time",
    "PREEMPTED": "its place was given to another job",
    "COMPLETED": "its process ended, but the folder holds no DONE",
}
PENDING_REASONS = {
    "": "in the queue",
    "None": "in the queue",
    "Priority": "others are before it",
    "Resources": "no node is free",
    "BeginTime": "its start is set for later",
    "Dependency": "a job that it depends on is not done",
    "JobArrayTaskLimit": "as many of its submission run as may",
    "PartitionConfig": "no node of its partition has what it asks for",
}
"""Sentences for Slurm's commonest reasons; others are shown as Slurm spells them."""
REQUEUED = "requeued, "
STOPPED_REASON = "it was told to stop: started again, it goes on"
UNMET_DEPENDENCY = "DependencyNeverSatisfied"


@dataclass(frozen=True)
class State:
    """State, progress and last log lines of a job."""

    folder: Path
    state: Name
    why: str = ""
    """What it waits for, or what it failed of."""
    id: str = ""
    requeues: int = 0
    """How often its process was started again by the same submission."""
    step: int = 0
    steps: int | None = None
    """None before the run has begun."""
    rate: float | None = None
    """Updates per second, over the last rows of metrics."""
    left_s: float | None = None
    """Seconds to the last update."""
    log: tuple[str, ...] = ()
    """Its last lines."""


def state_of(folder: Path) -> State:
    """Read the state of the job of a folder; see `states_of`."""
    return states_of([folder])[0]


def states_of(folders: Sequence[Path]) -> list[State]:
    """Read the states of the jobs of these folders; Slurm is asked once for all.

    Raises:
        JobError: A job.json was damaged or edited.
        SlurmError: Slurm does not answer.
        MissingSlurmError: Jobs were submitted to Slurm, and this machine has none.
    """
    given = {folder: None if (folder / "DONE").exists() else read_submitted(folder) for folder in folders}
    queued = Queue(
        [submitted.id for submitted in given.values() if submitted is not None and submitted.executor == "slurm"]
    )
    return [_state(folder, given[folder], queued) for folder in folders]


class Queue:
    """Slurm's states of jobs: from the queue, and for those that have left it from the accounting.

    Args:
        ids: The jobs.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        self._late_s = LATE_S
        self._found = _squeue(ids) if ids else {}
        gone = [name for name in ids if name not in self._found]
        if gone:
            self._found |= _sacct(gone)

    def wait(self) -> bool:
        """Give files that are on their way a moment; false once all jobs together have been given enough."""
        self._late_s = self._late_s - 1
        if self._late_s >= 0:
            time.sleep(1.0)
        return self._late_s >= 0

    def __getitem__(self, name: str) -> tuple[str, str]:
        """Slurm's state of a job and its reason; both empty of one that is gone."""
        return self._found.get(name, ("", ""))


def _squeue(ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Read state and reason of each job that is in the queue or left it a short while ago."""
    heads = ",".join(dict.fromkeys(name.partition("_")[0] for name in ids))
    try:
        output = slurm.run_command("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%r", "-j", heads)
    except slurm.SlurmError as error:
        if "Invalid job id" in str(error):  # all of them are gone
            return {}
        raise
    rows = (line.split("|", 2) for line in output.splitlines())
    return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}


def _sacct(ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Read the accounting's states of jobs that have left the queue; none where there is no accounting."""
    heads = ",".join(dict.fromkeys(name.partition("_")[0] for name in ids))
    try:
        output = slurm.run_command("sacct", "-n", "-X", "-P", "-o", "JobID,State", "-j", heads)
    except (slurm.SlurmError, slurm.MissingSlurmError):
        return {}
    rows = (line.split("|", 1) for line in output.splitlines())
    return {row[0]: (row[1].split(" ")[0], "") for row in rows if len(row) == 2 and row[1]}


def _state(folder: Path, given: Submitted | None, queued: Queue) -> State:
    starts = read_starts(folder)
    known = State(folder, "waiting", id="" if given is None else given.id, requeues=_requeues(starts))
    known = replace(known, **_progress(folder))
    if (folder / "DONE").exists():
        return replace(known, state="done", left_s=0.0, rate=known.rate)
    if given is None:
        return replace(known, why="it was not submitted")
    judges: dict[str, Callable[[Submitted, list[dict[str, Any]], Queue], tuple[Name, str]]]
    judges = {"slurm": _judge_slurm_job, "ray": _judge_ray_job}
    name, why = judges.get(given.executor, partial(_judge_process, folder))(given, starts, queued)
    if _done_meanwhile(folder, given, queued):
        return replace(known, state="done", left_s=0.0)
    if name == "failed" and _was_stopped(given, starts):
        name, why = "stopped", STOPPED_REASON
    if name != "running":
        known = replace(known, left_s=None)
    requeues = known.requeues + why.startswith(REQUEUED)  # its next start is not written down yet
    return replace(known, state=name, why=why, requeues=requeues, log=_last_log_lines(given))


def _done_meanwhile(folder: Path, given: Submitted, queued: Queue) -> bool:
    """Check for a DONE since the first look; a shared disk may show it late, so a completed job is waited for."""
    while "DONE" not in os.listdir(folder):
        if queued[given.id][0] != "COMPLETED" or not queued.wait():
            return False
    return True


def _judge_slurm_job(given: Submitted, starts: list[dict[str, Any]], queued: Queue) -> tuple[Name, str]:
    state, reason = queued[given.id]
    if state in RUNNING_STATES:
        return "running", ""
    if reason == UNMET_DEPENDENCY:
        return "failed", "a job that it depends on failed"
    if state and state not in END_REASONS:
        again = any(row.get("event") == "start" and row.get("id") == given.id for row in starts)
        return "waiting", f"{REQUEUED if again else ''}{PENDING_REASONS.get(reason, reason)}"
    failure = _reported_failure(given, starts)
    if failure:
        return "failed", failure
    return "failed", END_REASONS.get(state, "it is gone from Slurm's queue, and its folder holds no DONE")


def _judge_process(folder: Path, given: Submitted, starts: list[dict[str, Any]], queued: Queue) -> tuple[Name, str]:
    begun = [row for row in starts if row.get("event") == "start"]
    failure = _reported_failure(given, starts)
    if failure:
        return "failed", failure
    if begun and begun[-1].get("host") != socket.gethostname():
        # A container that is started again has another name, and so has the machine that a folder was moved to.
        if starts[-1].get("how") != "terminated" and is_held_elsewhere(folder):
            return "running", f"on {begun[-1].get('host')}, which only that machine can tell for certain"
        return "failed", f"nobody holds its folder, and {begun[-1].get('host')} has written nothing into it for a while"
    if begun and _alive(begun[-1]):
        return "running", ""
    # Its number may be another process's by now, but one that has begun is told by when that was.
    starting = all(str(row.get("when", "")) < given.when for row in begun)
    if starting and given.id.isdigit() and start_ticks(int(given.id)) is not None:
        return "waiting", "its process is starting"
    return "failed", "its process is gone, and its folder holds no DONE"


def _judge_ray_job(given: Submitted, starts: list[dict[str, Any]], queued: Queue) -> tuple[Name, str]:
    """Judge by the job's log and by its launcher, which starts it again for as long as it lives."""
    failure = _reported_failure(given, starts)
    if failure:
        return "failed", failure
    own = [row for row in starts if row.get("id") == given.id]
    begun = [row for row in own if row.get("event") == "start"]
    launcher = given.launcher or {}
    here = launcher.get("host") == socket.gethostname()
    last = own[-1].get("event") if own else ""
    if (here and not _alive(launcher)) or last == "abandoned":
        if begun and begun[-1].get("host") == socket.gethostname() and _alive(begun[-1]):
            return "running", "its launcher is gone: it saves and ends"
        return "failed", "its launcher is gone, and with it its jobs: started again, it goes on"
    doubt = "" if here else f", launched on {launcher.get('host')}, which only that machine can tell for certain"
    if last == "start":
        return "running", f"on {begun[-1].get('host')}{doubt}"
    return "waiting", f"{REQUEUED if begun else ''}in Ray's queue{doubt}"


def abandon(folders: Sequence[Path]) -> None:
    """Take note that no launcher of another machine cares for jobs on Ray any more; for who has the sweep's lock."""
    for folder in folders:
        given = None if (folder / "DONE").exists() else read_submitted(folder)
        if given is None or given.executor != "ray" or (given.launcher or {}).get("host") == socket.gethostname():
            continue
        if state_of(folder).state in {"waiting", "running"}:
            note_start(folder, {"event": "abandoned", "id": given.id})


def _alive(start: dict[str, Any]) -> bool:
    now = start_ticks(int(start.get("pid", 0)))
    return now is not None and now == start.get("born")


def _reported_failure(given: Submitted, starts: list[dict[str, Any]]) -> str:
    """Read the reason that the job itself logged for its failure; empty if it was killed, or began again after it."""
    last = starts[-1] if starts else {}
    return str(last.get("why", "")) if last.get("how") == "failed" and last.get("when", "") >= given.when else ""


def _was_stopped(given: Submitted, starts: list[dict[str, Any]]) -> bool:
    """Check whether the job was cancelled, or terminated with the time to save; nothing of it is lost."""
    last = starts[-1] if starts else {}
    ours = last.get("event") == "cancel" or last.get("how") == "terminated"
    return ours and last.get("when", "") >= given.when


def _requeues(starts: list[dict[str, Any]]) -> int:
    begun = [str(row.get("id")) for row in starts if row.get("event") == "start"]
    return len(begun) - len(set(begun))


def _progress(folder: Path) -> dict[str, Any]:
    try:
        steps = read_table(folder / "config.json")["steps"]
    except (OSError, ValueError, KeyError):
        return {}
    if type(steps) is not int or not 0 < steps < MOST_STEPS:
        return {}
    rows = [row for row in read_rows(folder / "metrics.jsonl") if row.get("kind") == "train" and is_sound(row)]
    saved = checkpoint.found(folder / "checkpoints")
    step = max([saved[0][0] if saved else 0, *(row["step"] for row in rows[-1:])])
    rate = newest_rate(rows)
    return {"step": step, "steps": steps, "rate": rate, "left_s": (steps - step) / rate if rate else None}


def _last_log_lines(given: Submitted) -> tuple[str, ...]:
    """Read the last lines of the job's log; of a progress bar only what was drawn last."""
    path = given.logs / f"{given.id}_0_log.err"
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - LOG_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ()
    lines = (line.rstrip("\r").rpartition("\r")[2].strip() for line in text.split("\n"))
    return tuple(line for line in lines if line)[-LOG_LINES:]


def cancel(folders: Sequence[Path]) -> list[State]:
    """End the jobs of these folders that wait or run, and give the states that they were in.

    Raises:
        SlurmError: Slurm refused.
    """
    live = [state for state in states_of(folders) if state.state in {"waiting", "running"}]
    given = [(read_submitted(state.folder), state) for state in live]
    for submitted, state in given:
        if submitted is not None:
            note_start(state.folder, {"event": "cancel"})
    slurm.cancel([submitted.id for submitted, _ in given if submitted is not None and submitted.executor == "slurm"])
    for submitted, state in given:
        if submitted is not None and submitted.executor in {"local", "ray"}:
            terminate_process(state.folder)
    return live


def terminate_process(folder: Path) -> None:
    """Tell the job's process on this machine, if it is on this one, to save and end."""
    begun = [row for row in read_starts(folder) if row.get("event") == "start"]
    if begun and begun[-1].get("host") == socket.gethostname() and _alive(begun[-1]):
        os.kill(int(begun[-1]["pid"]), signal.SIGTERM)
