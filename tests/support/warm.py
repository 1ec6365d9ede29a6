"""Python processes that need not import torch again: forks of one that has, and that knows nothing of offline_marl yet.

What is run is run as `python ARGUMENTS` would run it: with its own folder, environment, paths, output and exit code.
For tests of what a new process does; those of what it imports, or of how long it takes, start a real one.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT = 120.0
"""Seconds after which a process is killed."""


@dataclass(frozen=True)
class Started:
    """A process that runs, or has run."""

    warm: Warm
    pid: int
    out: Path
    err: Path

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Its exit code and all that it said."""
        code = self.warm.ask(wait=self.pid)
        return subprocess.CompletedProcess([], code, self.out.read_text(), self.err.read_text())


class Warm:
    """The process that is forked; one a session is enough."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._count = 0

    def ask(self, **words: Any) -> int:
        """One line to the server and one back."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(words) + "\n")
        return int(self._server.stdout.readline())

    def start(self, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Started:
        """What `python ARGUMENTS` would start: `-c CODE`, `-m MODULE ...` or `FILE ...`."""
        self._count += 1
        out, err = (Path(self._folder.name) / f"{self._count}.{name}" for name in ("out", "err"))
        env = dict(os.environ if env is None else env)
        words = {"cwd": str(cwd or Path.cwd()), "env": env, "out": str(out), "err": str(err)}
        return Started(self, self.ask(start=list(arguments), **words), out, err)

    def run(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Start, and wait for the end."""
        return self.start(*arguments, **more).wait()

    def close(self) -> None:
        """End the server, which would not notice by its input if a fork of ours still held that."""
        self._server.terminate()
        self._server.communicate()
        self._folder.cleanup()


def ended(pid: int) -> int:
    """Wait for a fork; its exit code as subprocess has it."""
    deadline = time.monotonic() + LIMIT
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def serve() -> dict[str, Any]:
    """Fork whenever asked to; returns in the forks alone."""
    for line in sys.stdin:
        words = json.loads(line)
        if "wait" in words:
            print(ended(words["wait"]), flush=True)
        elif (pid := os.fork()) == 0:
            return words
        else:
            print(pid, flush=True)
    raise SystemExit


def become(words: Mapping[str, Any]) -> None:
    """Take the place of a new process."""
    os.chdir(words["cwd"])
    for number, name in ((0, os.devnull), (1, words["out"]), (2, words["err"])):
        os.dup2(os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(words["env"])
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    kind, *arguments = words["start"]
    first = "" if kind == "-c" else os.getcwd() if kind == "-m" else str(Path(kind).resolve().parent)
    sys.path[:] = [first, *given, *(path for path in sys.path[1:] if path not in before)]
    importlib.invalidate_caches()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if kind == "-c":
        sys.argv = ["-c", *arguments[1:]]
        exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *arguments]
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    asked = serve()
    code: Any = 0
    try:
        become(asked)
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    # As Python ends, but for a second of freeing torch's memory piece by piece.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
