"""Jobs as processes of a Ray cluster: started by this process, and started again when they or their machine are lost.

What a job has done stands in its folder, so that a lost one goes on from its newest checkpoint wherever the cluster has
room. Jobs end with this process (they save first); their states are read from their folders, without Ray.
"""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_marl.core.config import ConfigError
from offline_marl.core.plugin_files import loaded_plugins
from offline_marl.distributed.ray_processes import Command, Ended, RayProcesses, Resources
from offline_marl.launch.jobs.job import Job, note_start, read_starts, write_submitted
from offline_marl.launch.jobs.profile import Profile
from offline_marl.launch.jobs.worker import RAY_JOB_VARIABLE, this_process
from offline_marl.runs import checkpoint

POLL_S = 0.5
LATE_S = 5.0
"""How long to wait for the DONE of a job that ended well; a shared disk may show it late."""
FUTILE_DEATHS = 3
"""Deaths of a job's process after which it is given up, if it has not saved anything new between them."""
MODULE = "offline_marl.launch.jobs.processes"
HANDED_ON = ("OFFLINE_MARL_", "OMP_NUM_THREADS", "MUJOCO_GL", "PYTHONHASHSEED")
"""Beginnings of the variables that jobs get from here; others are for `setup` of the profile."""


def run_on_ray(jobs: Sequence[Job], profile: Profile, logs: Path, delay_s: float, patience_s: float) -> list[str]:
    """Run jobs in the cluster of the profile, and wait for all; failures are in their folders.

    Args:
        jobs: Checked ones.
        profile: Resources of each, and the cluster's address.
        logs: Folder of what they print.
        delay_s: Seconds before the end of a turn at which a job is told to save.
        patience_s: Seconds that a job which is told to end may take to save.

    Returns:
        The id of each.

    Raises:
        EngineError: There is no such cluster.
        ConfigError: Ray was started here, and this machine is too small for a job.
    """
    with RayProcesses(profile.ray_address) as cluster:
        launcher = _Launcher(cluster, profile, logs, delay_s, patience_s)
        launcher.refuse_too_large()
        launcher.run(jobs)
    return [launcher.ids[job.out] for job in jobs]


@dataclass
class _Losses:
    """How often a job was lost."""

    turns: int = 0
    """Starts in all."""
    deaths: int = 0
    """Ends of its process, on a machine that lived on, since it has last saved."""
    step: int = -1
    """Of its newest checkpoint then."""


class _Launcher:
    def __init__(self, cluster: RayProcesses, profile: Profile, logs: Path, delay_s: float, patience_s: float) -> None:
        self.cluster, self.profile, self.logs = cluster, profile, logs
        self.delay_s, self.patience_s = delay_s, patience_s
        self.resources = Resources(profile.cpus, profile.gpus, (profile.memory_gb or 0.0) * 2**30)
        self.ids: dict[Path, str] = {}
        self._token = secrets.token_hex(4)
        self._going: dict[str, Job] = {}
        self._losses: dict[str, _Losses] = {}
        self._rows: dict[str, int] = {}
        """How many lines the log of a job's starts had when it was started last."""

    def refuse_too_large(self) -> None:
        """Say so if no machine is large enough; a cluster that others started may yet get one that is."""
        if any(self.resources.fit(machine) for machine in self.cluster.machines()):
            return
        asked = (
            f"{self.profile.cpus} cores, {self.profile.gpus} GPUs and {self.profile.memory_gb or 'any'} GB of memory"
        )
        if self.cluster.started_here:
            raise ConfigError(f"This machine is too small for a job of the profile, which asks for {asked}.")
        print(f"no machine of the Ray cluster has {asked}: the jobs wait for one", file=sys.stderr)

    def run(self, jobs: Sequence[Job]) -> None:
        """Run them all, at most `array_parallelism` at once."""
        waiting = deque(jobs)
        for number, job in enumerate(jobs):
            self.ids[job.out] = f"ray-{self._token}-{number}"
            write_submitted(job, "ray", self.ids[job.out], self.logs, this_process())
        try:
            while waiting or self._going:
                while waiting and len(self._going) < self.profile.array_parallelism:
                    self._start(waiting.popleft())
                for ended in self.cluster.wait(POLL_S):
                    self._conclude(ended)
        except BaseException:
            for job in waiting:
                note_start(job.out, {"event": "cancel"})
            self._end_all()
            raise

    def _start(self, job: Job) -> None:
        name = self.ids[job.out]
        self._losses.setdefault(name, _Losses()).turns += 1
        self._going[name], self._rows[name] = job, len(read_starts(job.out))
        turn = 60.0 * self.profile.minutes - self.delay_s
        numbers = [str(self.patience_s), str(turn), str(self.profile.requeues)]
        words = ["-u", "-m", MODULE, job.model_dump_json(), *numbers, *loaded_plugins()]
        variables = {key: value for key, value in os.environ.items() if key.startswith(HANDED_ON)}
        container = self.profile.container
        command = Command(
            words,
            python=() if container is None else (*shlex.split(container), "python"),
            setup=self.profile.setup,
            variables={**variables, RAY_JOB_VARIABLE: name},
            directory=os.getcwd(),
            log=str(self.logs / f"{name}_0_log"),
        )
        self.cluster.start(name, command, self.resources)

    def _conclude(self, ended: Ended) -> None:
        """Leave a job that is done, or failed by itself, alone; start one that was lost again."""
        job, losses = self._going.pop(ended.name), self._losses[ended.name]
        rows = read_starts(job.out)[self._rows[ended.name] :]
        if _is_done(job, ended.code == 0) or any(row.get("how") == "failed" for row in rows):
            return
        step = _saved_step(job)
        losses.deaths = (0 if step > losses.step else losses.deaths) + ended.futile
        losses.step = step
        if losses.deaths >= FUTILE_DEATHS:
            why = f"it died {losses.deaths} times without getting beyond step {max(step, 0)}, of the last {ended.why}"
            note_start(job.out, {"event": "end", "how": "failed", "why": why})
        elif losses.turns > self.profile.requeues:
            why = f"it was lost {losses.turns} times, more often than `requeues` of the profile allows"
            note_start(job.out, {"event": "end", "how": "failed", "why": why})
        else:
            note_start(job.out, {"event": "lost", "id": ended.name, "why": ended.why})
            self._start(job)

    def _end_all(self) -> None:
        """Tell all jobs to save and go, and give them the time."""
        for name, job in self._going.items():
            note_start(job.out, {"event": "cancel"})
            self.cluster.terminate(name)
        until = time.monotonic() + self.patience_s
        while self._going and time.monotonic() < until:
            for ended in self.cluster.wait(POLL_S):
                self._going.pop(ended.name, None)


def _is_done(job: Job, ended_well: bool) -> bool:
    until = time.monotonic() + (LATE_S if ended_well else 0.0)
    while not job.out.is_dir() or "DONE" not in os.listdir(job.out):
        if time.monotonic() >= until:
            return False
        time.sleep(POLL_S)
    return True


def _saved_step(job: Job) -> int:
    saved = checkpoint.found(job.out / "checkpoints")
    return saved[0][0] if saved else -1
