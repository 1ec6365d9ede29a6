"""Several processes record what one would have recorded; none of them is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import laggards
import pytest
from runs import small_run

from offline_marl.collection import chunks, processes
from offline_marl.collection.collect import collect
from offline_marl.collection.config import CollectConfig
from offline_marl.collection.processes import WorkerError, record_side_by_side
from offline_marl.core.config import build
from offline_marl.runs import checkpoint

CHUNKS = [range(0, 64), range(64, 128), range(128, 150)]


@pytest.fixture(autouse=True)
def nobody_left_behind():
    yield
    assert not multiprocessing.active_children()


class Thread:
    """Stands in for a process, which would import torch for seconds; all it is told goes through a pipe."""

    def __init__(self):
        self.channel, there = multiprocessing.Pipe()
        self.thread = threading.Thread(target=processes._serve, args=(there,), daemon=True)
        self.thread.start()
        self.pid = id(self)

    def join(self, timeout=None):
        self.thread.join(timeout)

    def terminate(self):
        pass

    def is_alive(self):
        return self.thread.is_alive()


@pytest.fixture
def threads(monkeypatch):
    every = []

    def start(started):
        every.append(Thread())
        started.append((every[-1], every[-1].channel))

    monkeypatch.setattr(processes, "_start", start)
    return every


def collected(out, **fields):
    return collect(build(CollectConfig, {"environment": "rendezvous", "episodes": 150, "out": out, **fields}))


def compare_workers(tmp_path):
    run = str(small_run(tmp_path / "clone", "rendezvous-left-v0", steps=3).folder)
    fields = {"who": ("left", run, "random"), "noise": (0.1, 0.3), "deviate": "right"}
    one = collected(tmp_path / "one" / "a.safetensors", **fields)
    two = collected(tmp_path / "two" / "a.safetensors", workers=2, copies=5, **fields)
    assert one.read_bytes() == two.read_bytes()
    assert [path.name for path in two.parent.iterdir()] == ["a.safetensors"]


def test_several_workers_record_what_one_records(tmp_path, threads):
    compare_workers(tmp_path)
    assert len(threads) == 2
    collected(tmp_path / "small.safetensors", episodes=64, workers=8)
    assert len(threads) == 2, "one chunk needs no worker"


@pytest.mark.parametrize("forked", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_processes_record_what_one_records(tmp_path, monkeypatch, forked):
    monkeypatch.setattr(processes, "forks", lambda: forked)
    compare_workers(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_a_forked_worker_notices_that_its_parent_has_gone_though_its_sibling_lives(monkeypatch):
    monkeypatch.setattr(processes, "_serve", laggards.wait_for_the_end)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which a fork brings along
    try:
        with processes._started("plan", 3) as started:
            (first, channel), *others = started
            channel.close()
            first.join(60)
            assert first.exitcode == 0 and all(process.is_alive() for process, _ in others)
            others[0][0].terminate()
            others[0][0].join(60)
            assert others[0][0].exitcode == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


def test_no_worker_is_forked_beside_a_gpu_in_use(monkeypatch):
    monkeypatch.setattr(processes.torch.cuda, "is_initialized", lambda: True)
    assert not processes.forks()


@pytest.mark.long
def test_a_run_that_changes_meanwhile_is_noticed(tmp_path, threads, monkeypatch):
    collecting = processes.record_side_by_side
    run = str(small_run(tmp_path / "clone", "rendezvous-left-v0", steps=3, checkpoint_every=1).folder)

    def meanwhile(*args):
        checkpoint.path_of(tmp_path / "clone" / "checkpoints", 3).unlink()
        collecting(*args)

    monkeypatch.setattr(chunks, "record_side_by_side", meanwhile)
    with pytest.raises(WorkerError, match=r"could not record episodes \d+ to \d+: a run has changed"):
        collected(tmp_path / "a.safetensors", who=(run,), workers=2)


@pytest.mark.parametrize(
    ("what", "sentence", "kept"),
    [
        (laggards.record_first_then_die, r"was killed \(SIGKILL\) while it recorded episodes 64 to 127: .* go", 64),
        (laggards.leave, r"died \(code 3\) while it recorded episodes 0 to 63", 0),
        (laggards.refuse, r"could not record episodes 0 to 63: No space left on device: x\.", 0),
    ],
)
def test_a_worker_that_cannot_go_on_is_reported_in_a_sentence(monkeypatch, what, sentence, kept):
    monkeypatch.setattr(processes, "_serve", what)
    told = []
    with pytest.raises(WorkerError, match=sentence):
        record_side_by_side(None, CHUNKS, 1, told.append)
    assert sum(told) == kept


def test_a_bug_in_a_worker_shows_its_traceback(monkeypatch):
    monkeypatch.setattr(processes, "_serve", laggards.fail)
    with pytest.raises(RuntimeError, match="Traceback: a bug"):
        record_side_by_side(None, CHUNKS, 1, print)


def test_an_interruption_ends_workers_that_do_not_listen(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "_serve", laggards.hang)
    monkeypatch.setattr(processes, "PATIENCE", 0.1)

    def interrupt():
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        for path in tmp_path.iterdir():  # as a terminal does: it tells all
            os.kill(int(path.name), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell's background jobs, and so these tests, may ignore the signal; a user's terminal never does.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            record_side_by_side(str(tmp_path), CHUNKS, 2, print)
    finally:
        signal.signal(signal.SIGINT, before)
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_killed_with_its_workers_and_resumed_equals_undisturbed(tmp_path, how):
    flags = ["collect", "rendezvous", "--episodes", "4000", "--who", "left,random", "--noise", "0.2"]

    started = []

    def start(out, *more):
        command = [sys.executable, "-m", "offline_marl", *flags, "--out", str(tmp_path / out / "a.safetensors"), *more]
        with (tmp_path / f"{out}.log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    command,
                    stderr=log,
                    stdout=log,
                    start_new_session=True,
                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                )
            )
        return started[-1]

    try:
        whole, process = start("whole"), start("again", "--workers", "2", "--copies", "1")
        parts = tmp_path / "again" / "a.safetensors.parts"
        while len(list(parts.glob("*.safetensors"))) < 5:
            assert process.poll() is None, (tmp_path / "again.log").read_text()
            time.sleep(0.01)
        if how == signal.SIGINT:
            os.killpg(process.pid, how)  # as a terminal does
        else:
            process.send_signal(how)
        assert process.wait(20) == (130 if how == signal.SIGINT else -how)
        said = (tmp_path / "again.log").read_text()
        assert "Traceback" not in said and ("goes on where it stood" in said) == (how == signal.SIGINT)
        deadline = time.monotonic() + 20
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(process.pid, 0)
                time.sleep(0.05)
        assert 5 <= len(list(parts.glob("*.safetensors"))) < 63
        assert start("again", "--workers", "2").wait(100) == 0, (tmp_path / "again.log").read_text()
        assert whole.wait(100) == 0, (tmp_path / "whole.log").read_text()
    finally:
        for each in started:
            each.kill()
            each.wait()
    one, other = ((tmp_path / out / "a.safetensors").read_bytes() for out in ("whole", "again"))
    assert one == other
