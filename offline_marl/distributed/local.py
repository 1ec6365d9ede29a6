"""Learners as processes of this machine, one each, forked from a process that does nothing else.

That process is forked before training begins and computes nothing, so that learners can be started anew at any time
from memory as it was then: data sets are shared with it page by page, and no gradient was ever taken in it. A learner
is talked to by a thread of its own: one that stops in the middle of a message stops its thread and nobody else.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import shutil
import signal
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import NoReturn

from offline_marl.core.errors import sentence
from offline_marl.distributed.engine import (
    POLL_S,
    Answer,
    Engine,
    EngineError,
    Event,
    Lost,
    Message,
    Payload,
    Program,
    Ready,
    Task,
    wait_out,
)
from offline_marl.distributed.payloads import map_payload, write_payload

DOOR = "door"
"""Socket at which learners knock, in the engine's folder."""
KEPT_VERSIONS = 2
"""Newest payloads that stay on disk: a learner that was given the one before may just be opening it."""
IDLE_S = 0.2
"""Seconds between looks at whether a learner without a task is still there."""
END_S = 5.0
"""Seconds that learners are given to end by themselves."""

Tasks = queue.SimpleQueue[Task]


class LocalEngine(Engine):
    """One process a learner.

    Args:
        learners: How many.
        make: Makes a learner's program; it is forked, not sent, and may hold whatever this process holds.
    """

    def __init__(self, learners: int, make: Callable[[], Program]) -> None:
        super().__init__(learners, make)
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._tasks: dict[int, Tasks] = {}
        self._pids: dict[int, int] = {}
        self._newest = mmap.mmap(-1, 8)  # the newest version, seen by all who are forked from here
        self._versions: list[int] = []
        self._running = False

    def start(self) -> None:
        """Fork the process that forks learners, and ask it for all of them.

        Raises:
            EngineError: This machine cannot fork.
        """
        if not hasattr(os, "fork"):
            raise EngineError("Local learners are forked processes, which this system does not have: use Ray.")
        self._folder = Path(tempfile.mkdtemp(prefix="offline_marl_"))
        self._listener = Listener(str(self._folder / DOOR), "AF_UNIX", backlog=self.learners + 1)
        orders, self._orders = os.pipe()
        self._nursery = os.fork()
        if not self._nursery:
            os.close(self._orders)
            _fork_learners(orders, self._folder, self.make, self._newest)
        os.close(orders)
        self._running = True
        threading.Thread(target=self._welcome, daemon=True).start()
        for learner in range(self.learners):
            self.restart(learner)

    def publish(self, version: int, payload: Payload) -> None:
        """Write what learners read of this version where they can map it."""
        part = self._folder / "part"
        write_payload(part, payload)
        part.rename(self._file_of(version))
        self._newest[:8] = struct.pack("q", version)
        self._versions.append(version)
        while len(self._versions) > KEPT_VERSIONS:
            self._file_of(self._versions.pop(0)).unlink(missing_ok=True)

    def submit(self, task: Task) -> None:
        """Hand the task to the learner's thread."""
        if task.learner not in self._tasks:
            raise EngineError(f"Learner {task.learner} has not started.")
        self._tasks[task.learner].put(task)

    def wait_any(self, timeout_s: float) -> Event | None:
        """The next event of any learner."""
        try:
            return self._events.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return None

    def restart(self, learner: int) -> None:
        """Order another process for this learner; the one before, if any, is killed."""
        self._tasks.pop(learner, None)
        self._pids.pop(learner, None)
        with contextlib.suppress(BrokenPipeError):  # the nursery itself is gone: the controller computes alone
            os.write(self._orders, struct.pack("q", learner))

    def process_of(self, learner: int) -> int | None:
        """The id of a learner's process; None while there is none."""
        return self._pids.get(learner)

    def stop(self) -> None:
        """Kill all learners and the process that forks them, and wait until they are gone."""
        if not self._running:
            return
        self._running = False
        self._listener.close()  # first: its name goes with the folder
        os.close(self._orders)  # the nursery takes it for the end: it kills its children and goes
        deadline = time.monotonic() + END_S
        while not _reaped(self._nursery):
            if time.monotonic() > deadline:
                os.kill(self._nursery, signal.SIGKILL)
            time.sleep(POLL_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file_of(self, version: int) -> Path:
        return self._folder / f"{version}.payload"

    def _welcome(self) -> None:
        """Give each learner that comes in a thread of its own."""
        while self._running:
            try:
                connection = self._listener.accept()
                learner, pid = connection.recv()
            except (OSError, EOFError):
                continue
            tasks: Tasks = queue.SimpleQueue()
            self._tasks[learner] = tasks
            if pid:
                self._pids[learner] = pid
            threading.Thread(target=self._talk, args=(learner, connection, tasks), daemon=True).start()

    def _talk(self, learner: int, connection: Connection, tasks: Tasks) -> None:
        def tell(event: Event) -> None:
            if self._tasks.get(learner) is tasks:  # of a process that was replaced nobody wants to hear
                self._events.put(event)

        try:
            with connection:
                _raise_said(connection.recv())
                tell(Ready(learner))
                while True:
                    task = _next(tasks, connection)
                    connection.send((task.version, task.delay_s, str(self._file_of(task.version))))
                    message, seconds = _raise_said(connection.recv())
                    tell(Answer(learner, task.version, message, seconds))
        except (OSError, EOFError):
            tell(Lost(learner, "its process ended"))
        except EngineError as error:
            tell(Lost(learner, str(error)))


def _next(tasks: Tasks, connection: Connection) -> Task:
    """The next task; a learner that dies while it has none is noticed too."""
    while True:
        try:
            return tasks.get(timeout=IDLE_S)
        except queue.Empty:
            if connection.poll():
                connection.recv()  # nothing is sent unasked, so this is the end of the file


def _raise_said(answer: object) -> tuple[Message | None, float]:
    if isinstance(answer, str):
        raise EngineError(answer)
    assert isinstance(answer, tuple)
    return answer


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    except ChildProcessError:
        return True


def _fork_learners(orders: int, folder: Path, make: Callable[[], Program], newest: mmap.mmap) -> NoReturn:
    """Fork a learner for each number that is ordered; when the orders end, end all of them and what they read."""
    children: dict[int, int] = {}
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while order := os.read(orders, 8):
            (learner,) = struct.unpack("q", order)
            _end(children.pop(learner, None))
            if pid := _fork(learner, folder / DOOR):
                children[learner] = pid
            elif pid == 0:
                os.close(orders)
                _learn(learner, str(folder / DOOR), make, newest)
    finally:
        for pid in children.values():
            _end(pid)
        shutil.rmtree(folder, ignore_errors=True)  # the owner may have been killed
        os._exit(0)


def _fork(learner: int, door: Path) -> int | None:
    """As `os.fork`; where this machine has no room for another process its owner is told that, and it is None."""
    try:
        return os.fork()
    except OSError as error:
        with contextlib.suppress(OSError, EOFError), Client(str(door), "AF_UNIX") as connection:
            connection.send((learner, 0))
            connection.send(f"its process cannot be started: {sentence(error)}")
        return None


def _end(pid: int | None) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _learn(learner: int, door: str, make: Callable[[], Program], newest: mmap.mmap) -> NoReturn:
    """Answer tasks until nobody asks any more."""
    try:
        with contextlib.suppress(OSError, EOFError), Client(door, "AF_UNIX") as connection:
            connection.send((learner, os.getpid()))
            try:
                program = make()
                connection.send((None, 0.0))
                while True:
                    version, delay_s, file = connection.recv()
                    connection.send(_answer(program, learner, version, delay_s, file, newest))
            except (OSError, EOFError):
                raise
            except Exception as error:  # whatever it is, the controller should know it and go on
                connection.send(f"{type(error).__name__}: {sentence(error)}")
    finally:
        os._exit(0)


def _answer(
    program: Program, learner: int, version: int, delay_s: float, file: str, newest: mmap.mmap
) -> tuple[Message | None, float]:
    begun = time.monotonic()
    try:
        payload = map_payload(Path(file))
    except FileNotFoundError:  # superseded while the task was on its way
        return None, 0.0
    message = program(learner, payload)
    seconds = time.monotonic() - begun
    counted = wait_out(delay_s, lambda: bool(struct.unpack("q", newest[:8])[0] != version))
    return (message if counted else None), seconds
