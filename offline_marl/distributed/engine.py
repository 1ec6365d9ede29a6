"""Engines of distributed training: start learners, give them tasks, wait for whichever answers first, restart the dead.

Learners are stateless: a task names a version, and all that its answer depends on is published with that version. No
call here waits for a learner that hangs; only `wait_any` waits at all, and not beyond its timeout.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from offline_marl.core.errors import WorkError
from offline_marl.distributed.coding import Floats

POLL_S = 0.002
"""Seconds between looks of a learner that is late on purpose at whether its version still counts."""

Payload = Mapping[str, npt.NDArray[np.generic]]
"""What all learners are told of a version, by name."""


class EngineError(WorkError, RuntimeError):
    """Learners cannot be started, or are asked for what no engine does."""


@dataclass(frozen=True, slots=True)
class Task:
    """One learner's part of one version."""

    learner: int
    version: int
    delay_s: float = 0.0
    """Emulated lateness: seconds after the answer was ready until it is sent, or until the version is superseded."""


@dataclass(frozen=True, slots=True)
class Message:
    """A learner's coded numbers."""

    numbers: Floats
    note: bytes = b""
    """What the numbers are; alike in the messages of all learners."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Result of a task."""

    learner: int
    version: int
    message: Message | None
    """None where the version was superseded before the answer was sent."""
    seconds: float
    """Time of computing, without the emulated delay."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A learner whose process is gone."""

    learner: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ready:
    """A learner that can be given its first task, after its start or a restart."""

    learner: int


Event = Answer | Lost | Ready


class Program(Protocol):
    """Function that a learner runs, from the payload of a version to its message."""

    def __call__(self, learner: int, payload: Payload) -> Message:
        """The message."""
        ...


def wait_out(delay_s: float, superseded: Callable[[], bool]) -> bool:
    """Sleep through an emulated delay, by the clock; whether its version still counted at the end."""
    deadline = time.monotonic() + delay_s
    while (left := deadline - time.monotonic()) > 0:
        if superseded():
            return False
        time.sleep(min(POLL_S, left))
    return True


class Engine(ABC):
    """Learners by number, from 0 on.

    Args:
        learners: How many.
        make: Makes a learner's program, in the learner's own process.
    """

    def __init__(self, learners: int, make: Callable[[], Program]) -> None:
        self.learners, self.make = learners, make

    @abstractmethod
    def start(self) -> None:
        """Start all learners; each is `Ready` when it can be given a task."""

    @abstractmethod
    def publish(self, version: int, payload: Payload) -> None:
        """Tell all learners of a version, which supersedes those before it."""

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Give a learner that has no task its part of the newest version."""

    @abstractmethod
    def wait_any(self, timeout_s: float) -> Event | None:
        """The next event; None if there is none within the timeout, or at once if there can be none."""

    @abstractmethod
    def restart(self, learner: int) -> None:
        """Start a lost learner anew, in the background: `Ready` says when it is there."""

    @abstractmethod
    def stop(self) -> None:
        """End all learners, whatever they are doing."""

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


class ScriptedEngine(Engine):
    """Learners in this process, whose order of answering is written down: for tests, and to replay a run's log.

    Args:
        learners: How many.
        make: Makes the one program that serves them all.
        script: Of each version from 1 on, the learners that answer, in order; those that are not named never
            do. Negative numbers, -1 - n, are learners n that die at this place. Beyond its end all answer in order.
    """

    def __init__(self, learners: int, make: Callable[[], Program], script: Iterable[Sequence[int]] = ()) -> None:
        super().__init__(learners, make)
        self.script = {version: list(order) for version, order in enumerate(script, start=1)}
        self._events: deque[Event] = deque()
        self._open: dict[int, Task] = {}
        self._order: list[int] = []
        self._version = -1
        self._payload: Payload = {}

    def start(self) -> None:
        """All are ready at once."""
        self._program = self.make()
        self._events.extend(Ready(learner) for learner in range(self.learners))

    def publish(self, version: int, payload: Payload) -> None:
        """What was not answered by now never is: those learners are free again."""
        self._events.extend(Answer(task.learner, task.version, None, 0.0) for task in self._open.values())
        self._open.clear()
        self._version, self._payload = version, payload
        self._order = list(self.script.get(version, range(self.learners)))

    def submit(self, task: Task) -> None:
        """Note the task; it is computed when its turn comes."""
        if task.learner in self._open:
            raise EngineError(f"Learner {task.learner} has a task already.")
        self._open[task.learner] = task

    def wait_any(self, timeout_s: float) -> Event | None:
        """What the script says comes next; None where it names nobody any more."""
        if self._events:
            return self._events.popleft()
        while self._order and self._open:
            learner = self._order.pop(0)
            if learner < 0:
                self._open.pop(-1 - learner, None)
                return Lost(-1 - learner, "as the script says")
            if learner in self._open:
                task = self._open.pop(learner)
                return Answer(learner, task.version, self._program(learner, self._payload), 0.0)
        return None

    def restart(self, learner: int) -> None:
        """It is ready at once."""
        self._events.append(Ready(learner))

    def stop(self) -> None:
        """Nothing runs."""
        self._open.clear()
