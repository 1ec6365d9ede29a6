"""Requests to stop: a run that gets one saves after its current update, and ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

asked = threading.Event()
"""Set by whoever wants the work of this process to stop: a signal's handler, a scheduler that needs the machine."""


class StoppedEarly(Exception):
    """The run was asked to stop and has saved where it stands."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after update {step:,}, which is saved")
        self.step = step


@contextlib.contextmanager
def heeding_the_end(tell: Callable[[], object]) -> Iterator[None]:
    """Call `tell` at SIGTERM, and at SIGHUP unless it is ignored, as it is under nohup; for the main thread.

    Args:
        tell: What is to happen; it may raise.
    """
    # A terminal that has gone answers whatever is written with an error, which would end the work before it saved.
    terminals = [number for number in (1, 2) if os.isatty(number)]

    def ended(number: int, _: object) -> None:
        if number != signal.SIGTERM and terminals:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for terminal in terminals:
                os.dup2(nowhere, terminal)
            os.close(nowhere)
        tell()

    names = ("SIGTERM", "SIGHUP")
    heeded = [number for name in names if (number := getattr(signal, name, None)) is not None]
    heeded = [number for number in heeded if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ended) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def saving_when_interrupted(has_begun: Callable[[], bool]) -> Iterator[threading.Event]:
    """At SIGINT (Ctrl-C) let the run save and end; interrupt at once at a second one, or before the run has begun.

    For the main thread. Where SIGINT is ignored, as in the background of a shell, it stays so.

    Args:
        has_begun: Whether there is a run that can be gone on with.

    Yields:
        Set once the run was interrupted so.
    """
    interrupted = threading.Event()

    def ended(_: int, __: object) -> None:
        if asked.is_set() or not has_begun():
            raise KeyboardInterrupt
        interrupted.set()
        asked.set()
        with contextlib.suppress(OSError):  # not by print, which may be in the middle of a line of its own
            os.write(2, b"\ninterrupted: it saves after the present update, and ends; Ctrl-C again ends it at once.\n")

    before = signal.getsignal(signal.SIGINT)
    heeded = before not in (signal.SIG_IGN, None)
    if heeded:
        signal.signal(signal.SIGINT, ended)
    try:
        yield interrupted
    finally:
        if heeded:
            signal.signal(signal.SIGINT, before)
