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
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import NoReturn

from offline_marl.core.errors import sentence
from offline_marl.core.progress import say
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
SHORT_PLACE = "/tmp"
"""Where that folder is if the path of the usual place is too long for a socket's name."""
LONGEST_NAME = 100
"""Bytes that a socket's name may have on all systems."""
KEPT_VERSIONS = 2
"""Newest payloads that stay on disk: a learner that was given the one before may just be opening it."""
IDLE_S = 0.2
"""Seconds between looks at whether a learner without a task is still there."""
REAP_S = 0.1
"""Seconds between looks at whether a learner died before it said anything."""
END_S = 5.0
"""Seconds that learners are given to end by themselves."""
ORDER = struct.Struct("qq")
"""A learner, and the number of the order for it; no learner, but `END`, ends all."""
END = -1

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
        self._connected: set[int] = set()
        """Processes whose connection is open."""
        self._count = 0
        self._ordered: dict[int, int] = {}
        """Newest order of each learner whose process has not come in."""
        self._nursery_told = False
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
        self._folder = _folder()
        try:
            self._listener = Listener(str(self._folder / DOOR), "AF_UNIX", backlog=self.learners + 1)
            orders, self._orders = os.pipe()
            self._nursery = os.fork()
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise EngineError(f"Learners cannot be started: {sentence(error)}") from None
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
        self._count += 1
        self._ordered[learner] = self._count
        try:
            os.write(self._orders, ORDER.pack(learner, self._count))
        except BrokenPipeError:
            if not self._nursery_told:
                say("The process that starts learners is gone: those that are lost are not started anew in this run.")
            self._nursery_told = True

    def process_of(self, learner: int) -> int | None:
        """The id of a learner's process; None while there is none."""
        return self._pids.get(learner)

    def stop(self) -> None:
        """Kill all learners and the process that forks them, and wait until they are gone."""
        if not self._running:
            return
        self._running = False
        self._listener.close()  # first: its name goes with the folder
        with contextlib.suppress(BrokenPipeError):
            os.write(self._orders, ORDER.pack(END, 0))  # the nursery kills its children and goes
        os.close(self._orders)  # which alone would not tell it: processes forked later may have it open, too
        deadline = time.monotonic() + END_S
        while (ended_well := _ended_well(self._nursery)) is None:
            if time.monotonic() > deadline:
                os.kill(self._nursery, signal.SIGKILL)
            time.sleep(POLL_S)
        if not ended_well:  # it was killed, and its children were not
            for pid in list(self._connected):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file_of(self, version: int) -> Path:
        return self._folder / f"{version}.payload"

    def _welcome(self) -> None:
        """Give each learner that comes in a thread of its own."""
        while self._running:
            try:
                connection = self._listener.accept()
                learner, order, pid = connection.recv()
            except (OSError, EOFError):
                continue
            if self._ordered.get(learner) != order:  # replaced meanwhile, or its own thread tells of its end
                connection.close()
                continue
            del self._ordered[learner]
            tasks: Tasks = queue.SimpleQueue()
            self._tasks[learner] = tasks
            if pid:
                self._pids[learner] = pid
                self._connected.add(pid)
            threading.Thread(target=self._talk, args=(learner, pid, connection, tasks), daemon=True).start()

    def _talk(self, learner: int, pid: int, connection: Connection, tasks: Tasks) -> None:
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
            self._connected.discard(pid)
            tell(Lost(learner, "its process ended"))
        except EngineError as error:
            self._connected.discard(pid)
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


def _folder() -> Path:
    """A new folder whose socket's name is not too long."""
    made = Path(tempfile.mkdtemp(prefix="offline_marl_"))
    if len(os.fsencode(made / DOOR)) <= LONGEST_NAME:
        return made
    made.rmdir()
    try:
        return Path(tempfile.mkdtemp(prefix="offline_marl_", dir=SHORT_PLACE))
    except OSError as error:
        raise EngineError(f"{made.parent} is too long for the name of a socket: {sentence(error)}") from None


def _ended_well(pid: int) -> bool | None:
    """Whether a child has ended by itself; None while it runs."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # somebody else has seen how
        return False
    return status == 0 if ended else None


def _fork_learners(orders: int, folder: Path, make: Callable[[], Program], newest: mmap.mmap) -> NoReturn:
    """Fork a learner for each order; when the orders end, end all of them and what they read."""
    children: dict[int, tuple[int, int]] = {}
    """Order and process of each learner."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while True:
            if not wait([orders], REAP_S):
                _tell_of_the_dead(children, folder / DOOR)
                continue
            learner, number = ORDER.unpack(os.read(orders, ORDER.size) or ORDER.pack(END, 0))
            if learner == END:
                break
            _end(children.pop(learner, (0, None))[1])
            if pid := _fork(learner, number, folder / DOOR):
                children[learner] = number, pid
            elif pid == 0:
                os.close(orders)
                _learn(learner, number, str(folder / DOOR), make, newest)
    finally:
        for _, pid in children.values():
            _end(pid)
        shutil.rmtree(folder, ignore_errors=True)  # the owner may have been killed
        os._exit(0)


def _tell_of_the_dead(children: dict[int, tuple[int, int]], door: Path) -> None:
    """Tell the owner of learners that have ended: of those that never came in nobody else does."""
    for learner, (number, pid) in list(children.items()):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del children[learner]
                _tell(door, learner, number, "its process ended")


def _fork(learner: int, number: int, door: Path) -> int | None:
    """As `os.fork`; where this machine has no room for another process its owner is told that, and it is None."""
    try:
        return os.fork()
    except OSError as error:
        _tell(door, learner, number, f"its process cannot be started: {sentence(error)}")
        return None


def _tell(door: Path, learner: int, number: int, reason: str) -> None:
    """Tell the owner in a learner's stead why there is none."""
    with contextlib.suppress(OSError, EOFError), Client(str(door), "AF_UNIX") as connection:
        connection.send((learner, number, 0))
        connection.send(reason)


def _end(pid: int | None) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _learn(learner: int, number: int, door: str, make: Callable[[], Program], newest: mmap.mmap) -> NoReturn:
    """Answer tasks until nobody asks any more."""
    try:
        with contextlib.suppress(OSError, EOFError), Client(door, "AF_UNIX") as connection:
            connection.send((learner, number, os.getpid()))
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
