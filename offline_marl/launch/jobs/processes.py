"""Jobs as processes of this machine: what starts them, and the process itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_marl.core.errors import FAILED, TERMINATED, BadInputError, WorkError, sentence
from offline_marl.distributed.ray_processes import end_with_keeper
from offline_marl.launch.jobs.job import Job
from offline_marl.launch.jobs.profile import Profile
from offline_marl.launch.jobs.worker import Work


@dataclass(frozen=True)
class StartedJob:
    """Process handle of a started job, with its id."""

    job_id: str
    process: subprocess.Popen[bytes]


@dataclass(frozen=True)
class ProcessExecutor:
    """Starts jobs as processes that outlive this one; their output goes into files named as those of Slurm's jobs.

    Args:
        logs: Folder of what they print.
        profile: Minutes of a turn, turns, and what the shell does first.
        delay_s: Seconds before the end of a turn at which a job is told to save.
    """

    logs: Path
    profile: Profile
    delay_s: float

    def submit(self, work: Work, job: Job) -> StartedJob:
        """Start one job."""
        turn = 60.0 * self.profile.minutes - self.delay_s
        numbers = [str(work.patience_s), str(turn), str(self.profile.requeues)]
        module = [sys.executable, "-u", "-m", "offline_marl.launch.jobs.processes"]
        command = [*module, job.model_dump_json(), *numbers, *work.plugins]
        if self.profile.setup:
            script = "\n".join([*self.profile.setup, 'exec "$@"'])
            command = ["bash", "-c", script, "job", *command]
        with tempfile.TemporaryDirectory(dir=self.logs) as aside:
            # Under other names until the process, whose number is part of theirs, has one.
            files = {end: Path(aside) / end for end in ("out", "err")}
            with files["out"].open("wb") as out, files["err"].open("wb") as err:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                    env={**os.environ, "SUBMITIT_EXECUTOR": "local"},
                )
            for end, file in files.items():
                file.rename(self.logs / f"{process.pid}_0_log.{end}")
        return StartedJob(str(process.pid), process)


def main(words: Sequence[str]) -> Any:
    """Perform a job in this process; where its turn is over before it is, save and begin another turn.

    Raises:
        SystemExit: The job failed, or was terminated.
    """
    job, (patience, turn, turns), plugins = Job.model_validate_json(words[0]), words[1:4], words[4:]
    os.environ["SUBMITIT_LOCAL_JOB_ID"] = str(os.getpid())
    over = threading.Event()

    def end_turn() -> None:
        over.set()
        os.kill(os.getpid(), signal.SIGTERM)

    clock = threading.Timer(float(turn), end_turn)
    clock.daemon = True
    clock.start()
    end_with_keeper(float(patience), lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        Work(float(patience), plugins)(job)
    except SystemExit as end:
        if not (over.is_set() and end.code == TERMINATED and int(turns) > 0):
            raise
        again = [words[0], patience, turn, str(int(turns) - 1), *plugins]
        os.execv(sys.executable, [sys.executable, "-u", "-m", "offline_marl.launch.jobs.processes", *again])
    except (BadInputError, WorkError, OSError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        raise SystemExit(FAILED) from None
    finally:
        clock.cancel()


if __name__ == "__main__":
    main(sys.argv[1:])
