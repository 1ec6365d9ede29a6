"""Processes on whichever machine of a Ray cluster has room, each kept by an actor that ends with whoever started it.

A process is told to save and go (SIGTERM) by the one who started it, or goes of itself once its keeper is gone: its
standard input, of which the keeper holds the other end, is then over (see `end_with_keeper`). So a killed worker,
raylet, machine or starter leaves nothing at work, and what was lost can be started anew elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline_marl.core.locks import open_own
from offline_marl.distributed.ray import LOSSES, connect, import_ray, resolved

KEPT_VARIABLE = "OFFLINE_MARL_KEPT"
"""Set for kept processes: their standard input ends with their keeper."""
CLUSTER_VARIABLES = ("RAY_", "SUBMITIT_")
"""Beginnings of variables of Ray's workers, and of jobs in which a cluster was started, that are not the process's."""
USERS_VARIABLES = ("RAY_AUTH_",)
"""Exceptions to these."""
STAY = 'trap : TERM INT; {setup}"$@"; exit $?'
"""Shell between keeper and process: Ray kills the children of a worker that it ends, which could then not save."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources that a process needs: processors, GPUs, memory."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: float = 0.0
    """In bytes; 0 for whatever there is."""

    def fit(self, machine: Mapping[str, float]) -> bool:
        """Whether an empty machine of the cluster has as much."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        return all(machine.get(name, 0.0) >= amount for name, amount in wanted.items())


@dataclass(frozen=True, slots=True)
class Command:
    """Command line of a process, with its interpreter, shell setup and environment variables."""

    words: Sequence[str]
    """Behind `python`."""
    python: Sequence[str] = ()
    """Words in place of the Python of Ray's workers."""
    setup: Sequence[str] = ()
    """Shell lines before."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of the environment, in addition to the worker's."""
    directory: str = ""
    """Where it runs, on machines that have it."""
    log: str = os.devnull
    """Beginning of the files `.out` and `.err` that take what it prints, on a disk that all machines share."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that is over."""

    name: str
    code: int | None
    """As the shell spells it, 128 and more for signals; None where its keeper or its machine is gone."""
    why: str
    futile: bool = True
    """Whether that may be its own doing, rather than its machine's."""


class RayProcesses:
    """Starts processes in a cluster, says which have ended, and ends the others.

    Args:
        address: See `connect`.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address
        self.started_here = False
        """Whether Ray runs for this process alone, on this machine alone."""
        self._keepers: dict[str, Any] = {}
        self._open: dict[Any, str] = {}

    def __enter__(self) -> RayProcesses:
        self._ours = connect(self.address)
        self.started_here = self._ours and resolved(self.address) is None
        return self

    def __exit__(self, *exception: object) -> None:
        """Kill what is left, and leave the cluster; a Ray that was started here ends."""
        ray = import_ray()
        for name in list(self._keepers):
            self._drop(name)
        if self._ours:
            ray.shutdown()

    def machines(self) -> list[dict[str, float]]:
        """Resources of every machine that is alive."""
        return [dict(node["Resources"]) for node in import_ray().nodes() if node["Alive"]]

    def start(self, name: str, command: Command, resources: Resources) -> None:
        """Queue a process for the first machine with room."""
        asked = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
        asked |= {"memory": resources.memory} if resources.memory else {}
        # Ray itself starts nothing again: whoever waits here decides, by what is on the disk.
        made = import_ray().remote(max_restarts=0, max_task_retries=0, max_concurrency=2, **asked)(_Keeper)
        self._keepers[name] = made.remote()
        self._open[self._keepers[name].keep.remote(command)] = name

    def wait(self, timeout_s: float) -> list[Ended]:
        """Processes that have ended; none if none does within the timeout."""
        ray = import_ray()
        if not self._open:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(list(self._open), num_returns=1, timeout=timeout_s)
        ended = [self._conclude(call) for call in ready]
        for one in ended:
            self._drop(one.name)
        return ended

    def terminate(self, name: str) -> None:
        """Tell a process to save and go; one that has yet to begin never does."""
        if name in self._keepers:
            self._keepers[name].terminate.remote()

    def _conclude(self, call: Any) -> Ended:
        ray, name = import_ray(), self._open[call]
        try:
            code = int(ray.get(call))
        except ray.exceptions.RayTaskError as error:
            return Ended(name, 1, f"{type(error.cause).__name__}: {error.cause}")
        except ray.exceptions.RayError as error:  # its worker or its machine is gone, or out of reach
            kind = type(error).__name__
            return Ended(name, None, LOSSES.get(kind, kind), futile=kind == "OutOfMemoryError")
        return Ended(name, code, f"its process ended with {code}" if code < 128 else _signalled(code))

    def _drop(self, name: str) -> None:
        self._open = {call: other for call, other in self._open.items() if other != name}
        import_ray().kill(self._keepers.pop(name), no_restart=True)


def _signalled(code: int) -> str:
    with contextlib.suppress(ValueError):
        return f"its process was ended by {signal.Signals(code - 128).name}"
    return f"its process ended with {code}"


class _Keeper:
    """An actor: of its two threads one waits for the process, the other may be told to end it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._over = False

    def keep(self, command: Command) -> int:
        """Run the process to its end; its exit code."""
        if self._over:
            return 128 + signal.SIGTERM
        setup = "".join(f"{line}\n" for line in command.setup)
        python = command.python or (sys.executable,)
        words = ["bash" if setup else "sh", "-c", STAY.format(setup=setup), "job", *python, *command.words]
        with open_own(Path(f"{command.log}.out"), "ab") as out, open_own(Path(f"{command.log}.err"), "ab") as err:
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,  # held open for as long as this actor lives
                stdout=out,
                stderr=err,
                start_new_session=True,
                env=_environment(command.variables),
                cwd=command.directory if command.directory and Path(command.directory).is_dir() else None,
            )
        self._process = process
        told = self._over  # while the process was being started, when there was none to tell: it has yet to begin
        if told:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        assert process.stdin is not None
        process.stdin.close()
        return 128 + signal.SIGTERM if told else code

    def terminate(self) -> None:
        """Tell the process to save and go, and all that it started."""
        self._over = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """A worker's own environment, without what says that it is one."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(CLUSTER_VARIABLES) or name.startswith(USERS_VARIABLES)
    }
    # Ray's workers also import from where the starter does.
    path = os.pathsep.join(folder for folder in sys.path if folder)
    return {**kept, "PYTHONPATH": path, **variables, KEPT_VARIABLE: "1"}


def end_with_keeper(patience_s: float, tell: Callable[[], None]) -> None:
    """In a kept process: once its keeper is gone, call `tell`, and end after a time to save; else do nothing."""
    if KEPT_VARIABLE not in os.environ:
        return

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):  # not through sys.stdin, whose lock the interpreter wants at its end
                pass
        tell()
        time.sleep(patience_s)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
