"""Kills one run again and again: `python killing.py OUT DATA KILLS SEED STEPS [FIELDS]`, then says as JSON what it did.

torch is imported once, here; every attempt at the run is a forked process of its own, ended by a real SIGKILL. Half of
the kills come at any moment of the process's life, its first milliseconds included; the others come after it wrote a
checkpoint, so that the run gets on. The first attempt measures how long both take on this machine.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import checkpoints, leftovers, score_in_point_env, small_run

from offline_marl.training.run import resume

FIELDS: dict[str, Any] = {"algorithm": "ma-iql", "checkpoint_every": 10, "eval_every": 25, "seed": 7}


def attempt(out: Path, data: str, steps: int) -> None:
    """Begin the run, or go on with it."""
    if (out / "config.json").exists():
        resume(out)
    else:
        small_run(out, data or None, steps=steps, **FIELDS)


def fork(out: Path, data: str, steps: int) -> int:
    """A process that works on the run; its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.dup2(os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        attempt(out, data, steps)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def newest(out: Path) -> int:
    """Step of the newest checkpoint."""
    return next(iter(checkpoints(out)), 0)


def wait_for_progress(process: int, out: Path, step: int) -> bool:
    """Wait for a checkpoint after this step; False if the process ended first."""
    while newest(out) <= step:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        time.sleep(0.001)
    return True


def main() -> None:
    out, data, kills, seed, steps = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6])
    FIELDS.update(json.loads(sys.argv[6]) if sys.argv[6:] else {})
    torch.set_num_threads(1)
    score_in_point_env(pytest.MonkeyPatch())
    chance = random.Random(seed)
    stood: list[int] = []
    half_written = 0
    beginning = period = 0.0
    while len(stood) < kills:
        before, began = newest(out), time.monotonic()
        process = fork(out, data, steps)
        if not stood:
            assert wait_for_progress(process, out, 0)
            beginning = time.monotonic() - began
            assert wait_for_progress(process, out, newest(out))
            period = time.monotonic() - began - beginning
        elif len(stood) % 2:
            time.sleep(chance.uniform(0, beginning + 2 * period))
        elif wait_for_progress(process, out, before):
            # A machine that has become faster since would come to the end of the run too soon.
            faster = min(1.0, (time.monotonic() - began) / beginning)
            time.sleep(chance.uniform(0, 1.5 * period * faster))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status):
            break
        stood.append(newest(out))
        half_written += len(leftovers(out)) > 0
    if not (out / "DONE").exists():
        _, status = os.waitpid(fork(out, data, steps), 0)
        assert status == 0, out.with_suffix(".log").read_text()
    print(json.dumps({"stood": stood, "half_written": half_written}))


if __name__ == "__main__":
    main()
