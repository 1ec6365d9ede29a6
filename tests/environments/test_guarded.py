"""Environments that fail are called by their names, and no call takes longer than it may."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from offline_marl.core.errors import WorkError
from offline_marl.core.types import DataError, Spec
from offline_marl.environments import guarded
from offline_marl.environments.guarded import (
    EnvironmentFailedError,
    Guarded,
    GuardedBody,
    TimeLimitError,
    Watch,
    build_in_time,
    let_go,
)


class Stub:
    spec, copies, max_steps = Spec((1,), (1,)), 1, 5

    def __init__(self, does: Any) -> None:
        self.does = does

    def reset(self, seeds: Any) -> Any:
        return self.does()

    step = reset


class Closing:
    def close(self) -> None:
        raise KeyboardInterrupt


def fail(error: BaseException) -> Any:
    def does() -> None:
        raise error

    return does


@pytest.fixture(autouse=True)
def timer_as_it_was() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)


@pytest.mark.parametrize("call", ["reset", "step"])
def test_what_an_environment_raises_is_told_with_its_name(call: str) -> None:
    given = np.zeros(1) if call == "step" else [0]
    for error, told in ((KeyError("door"), "KeyError: 'door'"), (WorkError("It has ended."), "It has ended.")):
        with pytest.raises(EnvironmentFailedError, match=f"environment maze failed in a {call}: {told}") as caught:
            getattr(Guarded(Stub(fail(error)), "maze"), call)(given)
        assert caught.value.__cause__ is error
    with pytest.raises(DataError, match=r"^A sentence\.$"):
        getattr(Guarded(Stub(fail(DataError("A sentence."))), "maze"), call)(given)
    with pytest.raises(KeyboardInterrupt):
        getattr(Guarded(Stub(fail(KeyboardInterrupt())), "maze"), call)(given)


class Body(Stub):
    state_dim, action_dim = 3, 2


@pytest.mark.parametrize("call", ["reset", "step"])
def test_a_body_that_fails_is_named_as_a_team_is(call: str) -> None:
    with pytest.raises(EnvironmentFailedError, match=f"maze failed in a {call}: ValueError: high - low < 0."):
        getattr(GuardedBody(Body(fail(ValueError("high - low < 0"))), "maze"), call)([0])
    body = GuardedBody(Body(lambda: 7), "maze")
    assert (body.reset([0]), body.copies, body.max_steps, body.state_dim, body.action_dim) == (7, 1, 5, 3, 2)
    assert body.versions() == {}


def test_an_environment_without_a_close_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guarded, "_LEFT_OPEN", set())
    for _ in range(2):
        Guarded(Stub(None), "maze").close()
    why = "AttributeError: 'Stub' object has no attribute 'close'"
    assert capsys.readouterr().err == f"warning: the environment maze could not be closed ({why}).\n"
    with pytest.raises(KeyboardInterrupt):
        let_go(Closing(), "maze")


@pytest.mark.long
def test_time_in_which_the_process_is_suspended_is_no_time_of_a_call() -> None:
    code = """
import time
from offline_marl.environments.guarded import Watch
def work(_):
    print("begun", flush=True)
    end = time.process_time() + 0.1
    while time.process_time() < end: pass
    return "done"
print(Watch(1.0)(work, None))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.2)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == "done\n"


@pytest.mark.parametrize("hang", [lambda: time.sleep(9), lambda: threading.Event().wait(9)])
def test_a_call_that_takes_too_long_is_ended(hang: Any) -> None:
    began = time.monotonic()
    with pytest.raises(EnvironmentFailedError, match="environment maze hangs: a step has taken more than 0.05 seconds"):
        Guarded(Stub(hang), "maze", 0.05).step(np.zeros(1))
    assert time.monotonic() - began < 5


def test_time_between_calls_does_not_count_and_one_that_is_over_leaves_nothing_behind() -> None:
    watch = Watch(0.1)
    for _ in range(3):
        assert watch(lambda value: value + 1, 1) == 2
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
        time.sleep(0.11)


def test_a_timer_of_somebody_else_goes_on_behind_a_call() -> None:
    rung: list[int] = []
    signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    watch = Watch(5.0)
    for _ in range(2):
        watch(time.sleep, 0.02)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] < 0.19 and not rung
    time.sleep(0.25)
    assert rung == [1]
    with pytest.raises(TimeLimitError):
        Watch(0.02)(time.sleep, 1)


def test_other_threads_have_no_limit() -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(Watch(0.01)(lambda _: (time.sleep(0.05), "done")[1], 0)))
    thread.start()
    thread.join()
    assert found == ["done"]


# --- building -----------------------------------------------------------------------------------------------------
def test_what_is_not_built_in_time_is_given_up() -> None:
    began = time.monotonic()
    with pytest.raises(EnvironmentFailedError, match=r"huge was not built in 0\.2 seconds.*too large a world"):
        build_in_time(fail_slowly, "huge", 0.2)
    assert time.monotonic() - began < 5


def test_what_has_no_room_is_a_sentence_too() -> None:
    with pytest.raises(EnvironmentFailedError, match="environment huge needs more memory than there is"):
        build_in_time(fail(MemoryError()), "huge")


def test_what_fails_when_it_is_made_is_named() -> None:
    with pytest.raises(EnvironmentFailedError, match=r"own:make failed when it was made: OSError: no map\.$"):
        build_in_time(fail(OSError("no map")), "own:make")
    with pytest.raises(DataError, match="an answer of ours"):
        build_in_time(fail(DataError("an answer of ours")), "own:make")


def test_what_is_built_in_time_is_what_was_made() -> None:
    made: Any = object()
    assert build_in_time(lambda: made, "small") is made


def fail_slowly() -> Any:
    time.sleep(30)
