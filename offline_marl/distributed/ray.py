"""Learners as Ray actors, on this machine or on many, and the way to a cluster; the one file that imports Ray."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from offline_marl.core.errors import sentence
from offline_marl.core.fields import check_ray_address
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

REACH_S = 10.0
"""Seconds in which a cluster's address should take a connection."""
SETTINGS = b"\x04"
"""Kind of the first frame of either side of HTTP/2, which gRPC and with it Ray's head speak."""
HEAD_OF_FRAME = 9
"""Bytes of it that say its length and, the fourth of them, its kind."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + SETTINGS + bytes(5)
"""What a client of HTTP/2 says first."""
LOSSES = {
    "ActorDiedError": "its worker or its machine died",
    "ActorUnavailableError": "its worker or its machine is out of reach",
    "OutOfMemoryError": "its machine ran out of memory",
}
"""What Ray's errors mean."""
OUR_NAMESPACE = "offline_marl"
ADDRESS_VARIABLE = "RAY_ADDRESS"
MACHINES_VARIABLE = "OFFLINE_MARL_RAY_NODES"
"""How many machines the cluster at $RAY_ADDRESS, which is just starting, will have."""
GATHER_S = 60.0
"""Seconds that a run waits for so many."""
CPUS = 0.001
"""Processors for a learner, of which as many as wanted share a machine. Actors without any Ray places at random, with
some it gives each machine as many: fewest are lost with one."""


class RayEngine(Engine):
    """One actor a learner, wherever Ray places it.

    Args:
        learners: How many.
        make: Makes a learner's program; pickled by Ray, so it holds names and paths rather than data.
        address: Of a running cluster, `auto` for the one this machine belongs to; None starts Ray here.
        cpus: Processors that Ray reserves for each learner.
    """

    def __init__(
        self, learners: int, make: Callable[[], Program], address: str | None = None, cpus: float = CPUS
    ) -> None:
        super().__init__(learners, make)
        self.address, self.cpus = address, cpus
        self._actors: dict[int, Any] = {}
        self._open: dict[Any, tuple[int, Task | None]] = {}
        """Learner and task of each answer that is waited for; no task where a start is."""
        self._events: deque[Event] = deque()
        self._ours = False

    def start(self) -> None:
        """Connect to the cluster, or start one of this machine, and start the learners in it.

        Raises:
            EngineError: Ray is not installed, or no cluster answers at the address.
        """
        ray = import_ray()
        self._ours = connect(self.address)
        if resolved(self.address) == os.environ.get(ADDRESS_VARIABLE):
            _await_machines(int(os.environ.get(MACHINES_VARIABLE, "0")))
        placed = {"num_cpus": self.cpus, "scheduling_strategy": "SPREAD"}
        self._remote = ray.remote(max_restarts=0, max_concurrency=2, **placed)(_Learner)
        for learner in range(self.learners):
            self.restart(learner)

    def publish(self, version: int, payload: Payload) -> None:
        """Put what learners read of this version into the object store, once for each machine."""
        ray = import_ray()
        self._payload = ray.put({name: np.asarray(value, order="C") for name, value in payload.items()})
        for actor in self._actors.values():
            actor.supersede.remote(version)

    def submit(self, task: Task) -> None:
        """Ask the learner's actor; the answer is waited for in `wait_any`."""
        call = self._actors[task.learner].compute.remote(task.version, self._payload, task.delay_s)
        self._open[call] = (task.learner, task)

    def wait_any(self, timeout_s: float) -> Event | None:
        """The next event of any learner."""
        ray = import_ray()
        if self._events:
            return self._events.popleft()
        if not self._open:
            time.sleep(min(max(timeout_s, 0.0), POLL_S))
            return None
        ready, _ = ray.wait(list(self._open), num_returns=1, timeout=max(timeout_s, 0.0))
        return self._heard(ready[0]) if ready else None

    def restart(self, learner: int) -> None:
        """Start another actor for this learner; the one before, if any, is killed."""
        ray = import_ray()
        if learner in self._actors:
            ray.kill(self._actors[learner], no_restart=True)
        self._open = {call: entry for call, entry in self._open.items() if entry[0] != learner}
        self._actors[learner] = self._remote.remote(learner, self.make)
        self._open[self._actors[learner].begin.remote()] = (learner, None)

    def process_of(self, learner: int) -> int | None:
        """The id of a learner's process, on its own machine; waits for the learner's start."""
        ray = import_ray()
        return int(ray.get(self._actors[learner].process.remote()))

    def stop(self) -> None:
        """Kill the learners; a Ray that was started here ends, one that was there stays."""
        ray = import_ray()
        if not ray.is_initialized():
            return
        for actor in self._actors.values():
            ray.kill(actor, no_restart=True)
        self._actors.clear()
        self._open.clear()
        if self._ours:
            ray.shutdown()

    def _heard(self, call: Any) -> Event:
        ray = import_ray()
        learner, task = self._open.pop(call)
        try:
            answer = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            return Lost(learner, f"{type(error.cause).__name__}: {sentence(error.cause)}")
        except ray.exceptions.RayError as error:  # its process, its machine, or the way to it is gone
            return Lost(learner, LOSSES.get(type(error).__name__, type(error).__name__))
        if task is None:
            return Ready(learner)
        numbers, note, seconds = answer
        message = None if numbers is None else Message(np.array(numbers), note)
        return Answer(learner, task.version, message, seconds)


class _Learner:
    """An actor; of its two threads one computes, the other is told of newer versions."""

    def __init__(self, learner: int, make: Callable[[], Program]) -> None:
        self.learner, self.newest = learner, -1
        self.make = make

    def begin(self) -> None:
        """Make its program; not when it is constructed, where Ray would keep to itself why that failed."""
        self.program = self.make()

    def process(self) -> int:
        """The id of its process."""
        return os.getpid()

    def supersede(self, version: int) -> None:
        """Take note of the newest version."""
        self.newest = max(self.newest, version)

    def compute(self, version: int, payload: Payload, delay_s: float) -> tuple[Any, bytes, float]:
        """The message of a version; None where it was superseded before it would have been sent."""
        begun = time.monotonic()
        if version < self.newest:
            return None, b"", 0.0
        message = self.program(self.learner, payload)
        seconds = time.monotonic() - begun
        if not wait_out(delay_s, lambda: version < self.newest):
            return None, b"", seconds
        return message.numbers, message.note, seconds


def connect(address: str | None) -> bool:
    """Join the cluster at an address, or start Ray on this machine; whether this process had to.

    Args:
        address: Of a running cluster; `auto` for the one this machine belongs to. Without any, or with `auto`,
            $RAY_ADDRESS counts, which Ray's own launchers set; None without it starts Ray here.

    Raises:
        EngineError: Ray is not installed, or no cluster answers at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        return False
    address = resolved(address)
    main = threading.current_thread() is threading.main_thread()
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        if address is not None:
            _reach(check_ray_address(address))
        ray.init(
            # None would join whatever cluster was last started on this machine, were it dead or another's.
            address=address or "local",
            namespace=OUR_NAMESPACE,
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            configure_logging=False,
        )
    except (OSError, RuntimeError, ValueError) as error:
        where = "on this machine" if address in {None, "auto"} else f"at {address}"
        raise EngineError(f"There is no Ray {where}: {sentence(error)}") from None
    finally:
        if main and terminated != signal.SIG_DFL:  # whoever listens saves then; Ray's own handler would just leave
            signal.signal(signal.SIGTERM, terminated)
    return True


def resolved(address: str | None) -> str | None:
    """The address that is meant, by the flag or else by the environment; None for a Ray of this machine's own."""
    meant = (os.environ.get(ADDRESS_VARIABLE) or address) if address in {None, "auto"} else address
    return None if meant == "local" else meant


def _await_machines(count: int) -> None:
    """Wait until the cluster has so many machines, so that learners are spread over all; not for good."""
    until = time.monotonic() + GATHER_S
    while sum(node["Alive"] for node in import_ray().nodes()) < count and time.monotonic() < until:
        time.sleep(0.5)


def _reach(address: str) -> None:
    """Make sure that something at the address speaks Ray's protocol; Ray itself would try for ten minutes.

    Raises:
        OSError: It does not.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in {"1", "true"}:
            return
        try:
            connection.sendall(PREFACE)
            head = connection.recv(HEAD_OF_FRAME)
        except OSError:
            head = b""
    if head[3:4] != SETTINGS:
        raise OSError("what listens there speaks another protocol")


def import_ray() -> Any:
    """The package, or the advice to install it.

    Raises:
        EngineError: It is not there.
    """
    try:
        import ray
    except ImportError:
        raise EngineError("Ray is not installed: pip install 'offline-marl[ray]'.") from None
    return ray
