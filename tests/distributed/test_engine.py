"""Engines: whoever answers first is heard first, the dead come back, and nothing waits for those that hang."""

import errno
import os
import signal
import tempfile
import time

import numpy as np
import pytest

from offline_marl.distributed import local as local_engine
from offline_marl.distributed.engine import Answer, EngineError, Lost, Message, Ready, ScriptedEngine, Task
from offline_marl.distributed.local import LocalEngine
from offline_marl.distributed.payloads import map_payload, write_payload

PATIENCE = 20.0


def times_learner():
    return lambda learner, payload: Message(payload["x"].astype(np.float64) * (learner + 1))


def events_of(engine, count, timeout_s=PATIENCE):
    deadline, events = time.monotonic() + timeout_s, []
    while len(events) < count and time.monotonic() < deadline:
        event = engine.wait_any(0.1)
        if event is not None:
            events.append(event)
    return events


def ask(engine, version, learners, delays=()):
    engine.publish(version, {"x": np.arange(3.0) + version})
    for learner in learners:
        engine.submit(Task(learner, version, dict(delays).get(learner, 0.0)))


@pytest.fixture
def local():
    with LocalEngine(3, times_learner) as engine:
        assert {event.learner for event in events_of(engine, 3) if isinstance(event, Ready)} == {0, 1, 2}
        yield engine


def test_a_script_says_who_answers_in_which_order():
    engine = ScriptedEngine(3, times_learner, [[2, 0], [-2, 1, 2]])
    engine.start()
    assert events_of(engine, 3, 1) == [Ready(0), Ready(1), Ready(2)]

    ask(engine, 1, [0, 1, 2])
    first, second = engine.wait_any(0), engine.wait_any(0)
    assert (first.learner, second.learner) == (2, 0)
    assert first.message.numbers.tolist() == [3, 6, 9]
    assert engine.wait_any(0) is None

    engine.publish(2, {"x": np.zeros(1)})
    assert engine.wait_any(0) == Answer(1, 1, None, 0.0)
    for learner in range(3):
        engine.submit(Task(learner, 2))
    assert engine.wait_any(0) == Lost(1, "as the script says")
    engine.restart(1)
    assert engine.wait_any(0) == Ready(1)
    with pytest.raises(EngineError, match="has a task already"):
        engine.submit(Task(2, 2))


def test_processes_answer_what_their_program_says(local):
    ask(local, 7, range(3))

    answers = events_of(local, 3)
    assert {answer.learner: answer.message.numbers.tolist() for answer in answers} == {
        n: [7.0 * (n + 1), 8.0 * (n + 1), 9.0 * (n + 1)] for n in range(3)
    }
    assert {answer.version for answer in answers} == {7}


def test_a_late_one_is_passed_by_and_gives_up_when_its_version_does(local):
    ask(local, 1, range(3), {1: 30.0})
    assert {answer.learner for answer in events_of(local, 2)} == {0, 2}

    begun = time.monotonic()
    ask(local, 2, [0, 2])
    answers = events_of(local, 3)
    assert {(answer.learner, answer.version, answer.message is None) for answer in answers} == {
        (0, 2, False), (2, 2, False), (1, 1, True),
    }  # fmt: skip
    assert time.monotonic() - begun < 10


def test_a_delay_lasts_as_long_as_it_says(local):
    begun = time.monotonic()
    ask(local, 1, [0], {0: 0.4})
    (answer,) = events_of(local, 1)

    assert time.monotonic() - begun >= 0.4
    assert answer.seconds < 0.4


def test_a_killed_learner_is_lost_and_comes_back(local):
    gone = local.process_of(1)
    os.kill(gone, signal.SIGKILL)
    assert events_of(local, 1) == [Lost(1, "its process ended")]

    local.restart(1)
    assert events_of(local, 1) == [Ready(1)]
    assert local.process_of(1) != gone
    ask(local, 3, [1])
    assert events_of(local, 1)[0].message.numbers.tolist() == [6, 8, 10]


def test_a_hanging_learner_holds_up_nobody_and_can_be_replaced(local):
    os.kill(local.process_of(2), signal.SIGSTOP)
    local.publish(1, {"x": np.zeros(1_000_000)})
    for learner in range(3):
        local.submit(Task(learner, 1))
    assert {answer.learner for answer in events_of(local, 2)} == {0, 1}
    assert local.wait_any(0.1) is None

    local.restart(2)
    assert events_of(local, 1) == [Ready(2)]
    local.submit(Task(2, 1))
    assert events_of(local, 1)[0].learner == 2


def test_what_a_program_raises_is_the_reason_of_a_loss():
    def broken():
        def program(learner, payload):
            raise ValueError(f"no good: {payload['x'].sum()}")

        return program

    with LocalEngine(1, broken) as engine:
        events_of(engine, 1)
        ask(engine, 1, [0])
        assert events_of(engine, 1) == [Lost(0, "ValueError: no good: 6.0.")]


def test_no_process_outlives_its_engine():
    engine = LocalEngine(2, times_learner)
    engine.start()
    events_of(engine, 2)
    pids = [engine.process_of(0), engine.process_of(1), engine._nursery]
    os.kill(pids[0], signal.SIGSTOP)
    engine.stop()
    engine.stop()

    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not engine._folder.exists()


def test_learners_end_with_a_controller_that_is_killed():
    read, write = os.pipe()
    controller = os.fork()
    if not controller:
        engine = LocalEngine(2, times_learner)
        engine.start()
        events_of(engine, 2)
        os.write(write, " ".join(str(pid) for pid in [*engine._pids.values(), engine._nursery]).encode())
        time.sleep(60)
        os._exit(0)
    pids = [int(pid) for pid in os.read(read, 100).split()]
    os.kill(controller, signal.SIGKILL)
    os.waitpid(controller, 0)

    deadline = time.monotonic() + PATIENCE
    while pids and time.monotonic() < deadline:
        pids = [pid for pid in pids if _lives(pid)]
        time.sleep(0.02)
    assert not pids


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:  # a zombie that nobody reaps is dead
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_payload_is_mapped_as_it_was_written_even_after_its_file_is_gone(tmp_path):
    arrays = {
        "obs": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "flag": np.array(True),
        "none": np.zeros((0, 4)),
        "index": np.array([3, 1], np.int64),
    }
    write_payload(tmp_path / "1", arrays)
    mapped, again = map_payload(tmp_path / "1"), map_payload(tmp_path / "1")
    (tmp_path / "1").unlink()
    assert mapped.keys() == arrays.keys()
    for name, array in arrays.items():
        assert mapped[name].dtype == array.dtype and np.array_equal(mapped[name], array)
        assert mapped[name].ctypes.data % 64 == 0
    mapped["index"][0] = 9
    assert again["index"].tolist() == [3, 1], "what one writes nobody else reads"


def test_where_no_process_can_be_forked_the_learner_is_lost_and_says_so(monkeypatch):
    fork, left = os.fork, [1]

    def fork_once():
        if not left:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        left.pop()
        return fork()

    monkeypatch.setattr(os, "fork", fork_once)
    with LocalEngine(2, times_learner) as engine:
        assert {(event.learner, event.reason) for event in events_of(engine, 2)} == {
            (n, "its process cannot be started: Resource temporarily unavailable.") for n in range(2)
        }


def test_what_learners_read_goes_with_a_killed_owner(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    owner = os.fork()
    if not owner:
        engine = LocalEngine(1, times_learner)
        engine.start()
        events_of(engine, 1)
        engine.publish(1, {"x": np.zeros(3)})
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(owner, 0)
    deadline = time.monotonic() + PATIENCE
    while any(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(tmp_path.iterdir())


def test_a_learner_that_dies_before_it_says_anything_is_lost_and_comes_back(tmp_path, monkeypatch):
    connect, died = local_engine.Client, tmp_path / "died"

    def die_once(*place):
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return connect(*place)

    monkeypatch.setattr(local_engine, "Client", die_once)
    with LocalEngine(1, times_learner) as engine:
        assert events_of(engine, 1) == [Lost(0, "its process ended")]
        engine.restart(0)
        assert events_of(engine, 1) == [Ready(0)]
        os.kill(engine.process_of(0), signal.SIGKILL)
        assert events_of(engine, 2, 0.5) == [Lost(0, "its process ended")], "one death is told once"


def test_without_the_process_that_starts_learners_the_living_go_on_and_end_with_their_engine(capsys):
    engine = LocalEngine(3, times_learner)
    engine.start()
    events_of(engine, 3)
    pids = [engine.process_of(learner) for learner in range(3)]
    os.kill(engine._nursery, signal.SIGKILL)
    while os.waitid(os.P_PID, engine._nursery, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.01)
    for learner in (0, 1):
        os.kill(pids[learner], signal.SIGKILL)
    assert {event.learner for event in events_of(engine, 2)} == {0, 1}
    engine.restart(0)
    engine.restart(1)
    assert capsys.readouterr().err.count("The process that starts learners is gone") == 1
    ask(engine, 1, [2])
    assert [event.learner for event in events_of(engine, 1)] == [2]

    os.kill(pids[2], signal.SIGSTOP)
    engine.stop()
    deadline = time.monotonic() + PATIENCE
    while any(_lives(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_lives(pid) for pid in pids)


def test_processes_that_are_forked_meanwhile_keep_no_learner_alive():
    engine = LocalEngine(2, times_learner)
    engine.start()
    events_of(engine, 2)
    pids = [engine.process_of(0), engine.process_of(1)]
    forked = os.fork()
    if not forked:
        time.sleep(60)
        os._exit(0)
    begun = time.monotonic()
    engine.stop()
    try:
        assert time.monotonic() - begun < local_engine.END_S
        assert not any(_lives(pid) for pid in pids)
    finally:
        os.kill(forked, signal.SIGKILL)
        os.waitpid(forked, 0)


def test_a_place_whose_path_is_too_long_for_a_socket_is_passed_by(tmp_path, monkeypatch):
    place = tmp_path / ("x" * 100)
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with LocalEngine(1, times_learner) as engine:
        assert events_of(engine, 1) == [Ready(0)]
        assert not any(place.iterdir())
    monkeypatch.setattr(local_engine, "SHORT_PLACE", str(tmp_path / "nowhere"))
    with pytest.raises(EngineError, match="too long for the name of a socket"):
        LocalEngine(1, times_learner).start()
    assert not any(place.iterdir())
