"""Kills placed by progress: a process ends itself by SIGKILL at the nth call of one of a run's functions.

Work is what a forked process does: it begins, or goes on with, what an earlier one left. The places of kills come from
a seed, so that a campaign repeats itself, whatever the machine's speed.
"""

from __future__ import annotations

import functools
import importlib
import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_marl.core.errors import sentence
from offline_marl.launch.cli.failures import exit_code

CRASHED = 70
"""Exit code of work that ends with an error which is not expected."""
LIMIT_S = 300
"""Seconds after which work that hangs is ended, which no test expects."""


@dataclass(frozen=True)
class Place:
    """Where in the work a process dies."""

    function: str
    """`module:Class.method` or `module:function`."""
    call: int
    """Which of its calls in that process, from 1."""
    after: bool
    """Whether the call is over."""


def count_calls(function: str, tell: Callable[[int, bool], object]) -> None:
    """Call `tell` with the number of each call of a function, before it and after it; for the rest of the process."""
    module, _, name = function.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, last = name.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    whole, calls = getattr(owner, last), 0

    @functools.wraps(whole)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        number = calls
        tell(number, False)
        result = whole(*args, **kwargs)
        tell(number, True)
        return result

    setattr(owner, last, counted)


def fork(work: Callable[[], object], log: Path, place: Place | None = None) -> int:
    """Do the work in a forked process, dying at a place; its exit code, `CRASHED` where an error was not expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: torch's sleep
        pid = os.fork()
    if pid:
        return _wait(pid)
    code = CRASHED
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115 - until the process ends
        if place is not None:
            _die_at(place)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException as error:
        known = exit_code(error) if isinstance(error, Exception) else None
        code = CRASHED if known is None else known
        print(sentence(error) if known is not None and isinstance(error, Exception) else traceback.format_exc())
    finally:
        os._exit(code)


def _wait(pid: int) -> int:
    until = time.monotonic() + LIMIT_S
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise TimeoutError(f"it hangs for {LIMIT_S} s")
        time.sleep(0.002)


def _die_at(place: Place) -> None:
    def tell(number: int, after: bool) -> None:
        if number == place.call and after == place.after:
            os.kill(os.getpid(), signal.SIGKILL)

    count_calls(place.function, tell)


def count_in(work: Callable[[], object], functions: Mapping[str, int], log: Path, notes: Path) -> dict[str, int]:
    """Do the work undisturbed in a forked process, and count how often it calls each function."""

    def counted() -> None:
        for function in functions:
            mark = notes / function.replace(":", "_")
            mark.touch()
            stream = mark.open("ab", buffering=0)
            count_calls(function, lambda _, after, stream=stream: stream.write(b"." if after else b""))
        work()

    assert fork(counted, log) == 0, log.read_text()
    return {function: (notes / function.replace(":", "_")).stat().st_size for function in functions}


def kill_again_and_again(
    work: Callable[[int], object], spans: Mapping[str, int], kills: int, seed: int, log: Path
) -> tuple[list[Place], int]:
    """Kill work so many times, then let it come to its end; where it ended before, kill it anew.

    Args:
        work: Begins or goes on; given how often it has come to its end, so that it begins anew elsewhere.
        spans: Functions, and up to which of their calls in a process it dies: about twice as many as lie between two
            checkpoints, so that every other attempt gets on.
        kills: How many.
        seed: Of the places.
        log: What the processes say.

    Returns:
        Where it died, and how often it came to its end.
    """
    chance, died = random.Random(seed), list[Place]()
    functions, attempts, ends = list(spans), 0, 0
    while len(died) < kills:
        attempts += 1
        assert attempts <= 5 * kills, f"it seldom comes to a place: {spans}"
        function = functions[(attempts - 1) % len(functions)]
        place = Place(function, chance.randint(1, spans[function]), chance.random() < 0.5)
        code = fork(functools.partial(work, ends), log, place)
        if code == 0:
            ends += 1
            continue
        assert code == -signal.SIGKILL, f"{place} ended by {code}:\n{log.read_text()}"
        died.append(place)
    assert fork(functools.partial(work, ends), log) == 0, log.read_text()
    return died, ends + 1
