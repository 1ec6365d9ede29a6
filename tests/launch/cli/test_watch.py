"""`offline-marl watch`: once, and live on a pseudo-terminal; no run here is a real one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline_marl.launch.cli import main
from offline_marl.launch.cli import watch as watching
from offline_marl.launch.cli.terminal import Canvas, draw_jobs, draw_run
from offline_marl.runs import live
from offline_marl.runs.live import RunStatus, RunWatcher, Tail, held_files


def begin(folder: Path, steps: int = 100, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"algorithm": "bc", "dataset": "/data/toy", "environment": None, "seed": seed, "steps": steps}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def log(folder: Path, *steps: int, kind: str = "train", **more: float) -> None:
    with (folder / "metrics.jsonl").open("a") as stream:
        for step in steps:
            figures = {"wall_s": step / 10, "q/mean": 1.0, "loss/actor": 1 / step} if kind == "train" else {}
            stream.write(json.dumps({"kind": kind, "step": step, **figures, **more}) + "\n")


def finish(folder: Path, steps: int = 100) -> None:
    (folder / "DONE").write_text(json.dumps({"steps": steps}))


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def watch(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["watch", *map(str, words)])
    assert isinstance(end.value.code, int)
    return end.value.code


class Terminal:
    """A pseudo-terminal of 80 columns in place of standard output."""

    def __init__(self, patch: pytest.MonkeyPatch, columns: int = 80, lines: int = 24) -> None:
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        os.set_blocking(self.ours, False)
        self.text = ""
        self.out = open(self.theirs, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        self._patch = patch
        patch.setattr(watching.shutil, "get_terminal_size", lambda: os.get_terminal_size(self.theirs))
        patch.setenv("TERM", "xterm")

    def watch(self, *words: object) -> int:
        with self._patch.context() as patch:  # not before: pytest sets it too
            patch.setattr(sys, "stdout", self.out)
            return watch(*words)

    def read(self) -> str:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.text += os.read(self.ours, 65_536).decode()
        return self.text

    def frames(self) -> list[list[str]]:
        """What was on the second screen after each look."""
        inside = self.read().partition(watching.ENTER_SCREEN)[2].partition(watching.LEAVE_SCREEN)[0]
        drawn = [each.partition("\x1b[J")[0] for each in inside.split("\x1b[H")[1:]]
        return [[re.sub(r"\x1b\[\d*[mK]", "", line) for line in each.split("\r\n")] for each in drawn]

    def after(self) -> str:
        return self.read().rpartition(watching.LEAVE_SCREEN)[2]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    made = Terminal(monkeypatch)
    yield made
    os.close(made.ours)
    os.close(made.theirs)


def meanwhile(patch: pytest.MonkeyPatch, *events: object) -> None:
    """Between two looks, one of these happens in place of waiting."""
    left = iter(events)
    patch.setattr(watching.time, "sleep", lambda _: next(left)())  # type: ignore[operator]


def test_a_run_on_data_is_named_by_it_wherever_it_is_scored(tmp_path):
    for name, dataset, named in (("data", "/data/toy", "toy"), ("live", None, "spread")):
        begin(tmp_path / name)
        config = {"algorithm": "bc", "dataset": dataset, "environment": "spread", "seed": 0, "steps": 1}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        assert RunWatcher(tmp_path / name).look(frozenset()).title == f"bc on {named}, seed 0"


def test_a_run_is_followed_from_before_it_begins_to_its_end(tmp_path, terminal, monkeypatch):
    run = tmp_path / "run"
    with contextlib.ExitStack() as stack:

        def first():
            begin(run)
            stack.enter_context(held(run))

        def rows():
            log(run, 10, 20)
            log(run, 20, kind="eval", normalized_return=31.5, **{"return": -3.0})

        def end():
            log(run, 100)
            finish(run)

        meanwhile(monkeypatch, first, rows, end)
        assert terminal.watch(run) == 0
    waiting, begun, going, done = terminal.frames()
    assert waiting[:2] == [str(run)[:79] + "…" if len(str(run)) > 80 else str(run), "waiting"]
    assert begun[0] == "bc on toy, seed 0" and "no rows of metrics yet" in begun
    assert begun[1].startswith("running") and "] 0 of 100 updates, 0%" in " ".join(begun[2].split())
    assert "20 of 100 updates, 20%" in going[2] and going[3] == "10.0 updates/s · 2 s so far · about 8 s left"
    assert [line.split()[0] for line in going[5:]] == ["score", "loss/actor", "q/mean"]
    assert done[1].startswith("done") and "100 of 100" in done[2]
    assert "bc on toy, seed 0" in terminal.after() and "\x1b" not in terminal.after()


def test_ctrl_c_gives_the_terminal_back(tmp_path, terminal, monkeypatch, capsys):
    run = begin(tmp_path / "run")
    log(run, 10)

    def stop():
        raise KeyboardInterrupt

    meanwhile(monkeypatch, stop)
    before = signal.getsignal(signal.SIGTERM)
    assert terminal.watch(run) == 130 and capsys.readouterr().err == "interrupted.\n"
    assert "10 of 100 updates" in terminal.after() and signal.getsignal(signal.SIGTERM) is before


def test_being_told_to_end_gives_it_back_too(tmp_path, terminal, monkeypatch):
    run = begin(tmp_path / "run")
    meanwhile(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert terminal.watch(run) == 143
    assert terminal.read().count(watching.LEAVE_SCREEN) == 1


def test_a_real_process_on_a_real_terminal_is_interrupted_cleanly(tmp_path):
    run = begin(tmp_path / "run")
    log(run, 10)
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    program = "from offline_marl.launch.cli import main; main()"
    command = [sys.executable, "-c", program, "watch", str(run), "--every", "0.1"]
    with subprocess.Popen(
        command,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm"},
        # As from a terminal: a shell that runs the tests in the background ignores SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as going:
        text = b""
        while text.count(b"\x1b[H") < 3:
            text += os.read(ours, 65_536)
        going.send_signal(signal.SIGINT)
        try:
            assert going.wait(10) == 130 and going.stderr.read() == b"interrupted.\n"
        finally:
            going.kill()
    os.set_blocking(ours, False)
    with contextlib.suppress(BlockingIOError):
        text += os.read(ours, 65_536)
    assert text.startswith(watching.ENTER_SCREEN.encode()) and text.count(watching.LEAVE_SCREEN.encode()) == 1
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_runs_that_appear_in_a_folder_are_taken_in_and_it_ends_when_nothing_more_comes(tmp_path, terminal, monkeypatch):
    first, second = tmp_path / "a", tmp_path / "deep" / "b"
    log(begin(first), 50)
    clock = [0.0]
    monkeypatch.setattr(watching.time, "monotonic", lambda: clock[0])

    def later():
        clock[0] += 20

    def another():
        later()
        log(begin(second, seed=1), 10)

    meanwhile(monkeypatch, lambda: finish(first), another, lambda: finish(second), later, later)
    assert terminal.watch(tmp_path) == 0
    frames = terminal.frames()
    assert [frame[1] for frame in frames[:4]] == [
        "1 run: 1 running",
        "1 run: 1 done",
        "2 runs: 1 done, 1 running",
        "2 runs: 2 done",
    ]
    assert frames[1][-1] == "everything is over: this ends soon, unless another run begins"


def test_a_run_that_dies_is_told_and_ends_the_watch(tmp_path, terminal, monkeypatch, capsys):
    run = begin(tmp_path / "run")
    log(run, 10)
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(run))
        meanwhile(monkeypatch, stack.close)
        assert terminal.watch(run) == 1
    assert capsys.readouterr().err == "1 of 1 runs not done: bc on toy, seed 0 stopped.\n"
    assert f"go on with `offline-marl resume {run}`"[:79] in terminal.after()


def test_a_look_that_fails_is_followed_by_another(tmp_path, terminal, monkeypatch):
    run = begin(tmp_path / "run")
    log(run, 10)

    def break_it():
        patch = monkeypatch.setattr
        patch(watching, "held_files", lambda: (_ for _ in ()).throw(OSError("stale file handle")))

    def mend_it():
        monkeypatch.setattr(watching, "held_files", held_files)
        finish(run)

    meanwhile(monkeypatch, break_it, mend_it)
    assert terminal.watch(run) == 0
    assert terminal.frames()[1][-1] == "this look failed, another follows: stale file handle"


def test_once_into_a_pipe_it_prints_plain_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    run = begin(tmp_path / "run")
    log(run, 10, 20)
    assert watch(run) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40 and not any("\x1b" in line for line in lines)
    assert watch(run, "--once") == 0
    (run / "starts.jsonl").write_text('{"event": "start"}\n{"event": "end", "how": "failed", "why": "no memory"}\n')
    assert watch(run) == 1
    assert "no memory" in capsys.readouterr().out


def test_what_cannot_be_watched_is_told(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert watch(tmp_path / "file") == 2 and watch(tmp_path / "gone") == 2 and watch(tmp_path, "--every", "0") == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"error: {tmp_path / 'file'} is a file") and "There is no folder" in said[1]
    assert watch(tmp_path) == 0
    assert "no rows of metrics yet" in capsys.readouterr().out


def test_a_sweep_is_shown_by_its_jobs(tmp_path, capsys, monkeypatch):
    from offline_marl.launch.sweeps.folder import Sweep
    from offline_marl.launch.sweeps.plan import Planned

    jobs = [Planned(folder=f"runs/bc-{n}", command="train", name="bc", fields={"dataset": "toy"}) for n in range(3)]
    sweep = Sweep(tmp_path / "sweep")
    sweep.write_manifest("sweep.toml", "local", None, jobs)
    for number in (0, 1):
        log(begin(sweep.path / "runs" / f"bc-{number}"), 50)
        log(sweep.path / "runs" / f"bc-{number}", 50, kind="eval", normalized_return=70.0 + number)
    finish(sweep.path / "runs" / "bc-0")
    monkeypatch.setenv("COLUMNS", "80")
    assert watch(sweep.path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "3 runs: 1 done, 2 waiting" and lines[2].endswith("50%")
    assert [line.split()[:3] for line in lines[4:]] == [
        ["bc-1", "waiting", "50%"],
        ["bc-2", "waiting", "0%"],
        ["bc-0", "done", "100%"],
    ]


def test_a_submitted_run_is_asked_for_where_it_was_given(tmp_path, capsys):
    from offline_marl.launch.jobs.job import Job, write_submitted

    run = begin(tmp_path / "run")
    write_submitted(Job(command="train", name="bc", fields={}, out=run), "local", "999999999", tmp_path / "logs")
    assert watch(run) == 1
    assert "its process is gone, and its folder holds no DONE" in capsys.readouterr().out


def test_a_run_that_fits_its_world_model_first_shows_the_fit(tmp_path, capsys):
    run = begin(tmp_path / "run")
    model = begin(run / "world_model", steps=50)
    (model / "config.json").write_text('{"model": "ensemble", "dataset": "toy", "seed": 0, "steps": 50}')
    log(model, 25)
    assert watch(run) == 0
    shown = capsys.readouterr().out
    assert "0 of 100 updates, 0%" in shown and "ensemble on toy, seed 0" in shown and "25 of 50 updates" in shown
    log(run, 10)
    assert watch(run) == 0 and "ensemble" not in capsys.readouterr().out


def test_only_new_lines_are_read_and_a_cut_one_waits(tmp_path):
    tail = Tail(tmp_path / "metrics.jsonl")
    tail.read()
    log(tmp_path, 10)
    with tail.path.open("a") as stream:
        stream.write('{"kind": "train", "st')
    tail.read()
    assert [row["step"] for row in tail.rows["train"]] == [10]
    with tail.path.open("a") as stream:
        stream.write('ep": 20}\n[1]\nnonsense\n{"kind": "train"}\n')
    tail.read()
    assert [row["step"] for row in tail.rows["train"]] == [10, 20]
    other = tmp_path / "new"
    other.write_text('{"kind": "train", "step": 5}\n')
    other.rename(tail.path)  # as a run that is taken up does
    tail.read()
    assert [row["step"] for row in tail.rows["train"]] == [5]


def test_states_of_a_folder(tmp_path, monkeypatch):
    run = begin(tmp_path / "run")
    seen = RunWatcher(run)
    assert seen.look(frozenset()).state == "running", "it was written a moment ago"
    monkeypatch.setattr(live, "FRESH_S", -1.0)
    assert seen.look(frozenset()).state == "stopped"
    with held(run):
        assert seen.look(held_files()).state == "running"
    (run / "metrics.jsonl").write_text('{"kind": "train", "step": 3, "loss/actor": null, "wall_s": 0.0}\n')
    assert seen.look(frozenset()).series == {}
    finish(run, 40)
    look = seen.look(frozenset())
    assert (look.state, look.step) == ("done", 40)
    (run / "DONE").write_text("{")
    assert seen.look(frozenset()).step == 3


@pytest.mark.parametrize("width", [20, 33, 56, 80, 200])
@pytest.mark.parametrize("plain", [False, True])
def test_frames_fit_the_paper(width, plain):
    series = {f"loss/{'x' * n}": [1.0, 2.0, 1.5] for n in range(1, 30)}
    look = RunStatus(
        Path("/r"), "a\x1b[31m title\n" * 9, "running", "", 5, 10, 3.0, 1.0, 2e4, ("score", (1.0, 1.0)), series
    )
    failed = RunStatus(Path("/f"), "failed", "failed", "because " * 30)
    paper = Canvas(width, 12, plain)
    for lines in (draw_run(look, paper), draw_jobs("many", [look, failed] * 20, paper, 1e6, 1e5)):
        fitted = paper.fit(lines)
        assert len(fitted) <= 12 and max(map(len, fitted)) <= width
        assert all(line.isprintable() and (line.isascii() or not plain) for line in fitted)


def test_what_does_not_fit_is_counted():
    looks = [RunStatus(Path(f"/{n}"), f"run {n}", "done" if n else "running") for n in range(30)]
    lines = draw_jobs("many", looks, Canvas(80, 12), None, None)
    assert len(lines) == 12 and lines[-1] == "… and 23 more done" and "run 0" in lines[4]


def test_curves_go_from_the_lowest_to_the_highest():
    paper = Canvas()
    assert paper.sparkline(list(range(8)), 8) == "▁▂▃▄▅▆▇█" and paper.sparkline([2.0, 2.0], 8) == "▅▅"
    assert (
        paper.sparkline([0.0, 0.0, 8.0, 8.0], 2) == "▁█"
        and paper.sparkline([], 5) == ""
        and paper.sparkline([1.0], 0) == ""
    )
    assert Canvas(ascii=True).sparkline([0.0, 1.0], 9) == "_#"


def test_a_run_is_watched_without_torch(tmp_path):
    run = begin(tmp_path / "run")
    program = "import sys; from offline_marl.launch.cli.watch import run; run(sys.argv[1:]); "
    program += "assert 'torch' not in sys.modules"
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", program, str(run)], check=True, capture_output=True)
    assert time.monotonic() - began < 20


def test_what_has_become_nan_is_shown_as_such(tmp_path, capsys):
    run = begin(tmp_path / "run")
    log(run, 10)
    log(run, 20, **{"loss/actor": float("nan")})
    log(run, 10, kind="eval", **{"return": 2.0})
    log(run, 20, kind="eval", **{"return": float("nan")})
    assert watch(run) == 0
    said = capsys.readouterr().out
    assert re.search(r"loss/actor +nan +\S", said) and re.search(r"return +nan +\S.* best 2\n", said)


@pytest.mark.parametrize("row", ['"step": 5, "wall_s": null', '"step": 5, "wall_s": "x"', '"kind": ["x"], "step": 5'])
def test_a_line_that_is_no_row_hides_no_run(tmp_path, capsys, row):
    run = begin(tmp_path / "run")
    (run / "metrics.jsonl").write_text('{"kind": "train", ' + row + "}\n")
    log(run, 10, 20)
    assert watch(tmp_path) == 0
    assert "20%" in capsys.readouterr().out


def test_a_clock_far_ahead_keeps_no_run_going(tmp_path):
    run = begin(tmp_path / "run")
    for ahead, state in ((60, "running"), (86_400, "stopped")):
        os.utime(run / "config.json", (time.time() + ahead,) * 2)
        look = RunWatcher(run).look(frozenset())
        assert look.state == state and "written -" not in look.why


@pytest.mark.parametrize("sweep", [False, True])
def test_a_folder_that_goes_while_it_is_watched_is_told(tmp_path, terminal, monkeypatch, sweep):
    run = begin(tmp_path / "all" / "run")
    log(run, 10)
    gone = tmp_path / "elsewhere"
    path = run.parent if sweep else run

    def back():
        gone.rename(path)
        finish(run)

    monkeypatch.setattr(watching, "SETTLE_S", 0.0)
    meanwhile(monkeypatch, lambda: path.rename(gone), back)
    assert terminal.watch(path) == 0
    told = f"this look failed, another follows: {path} is gone."
    assert terminal.frames()[1][-1] == Canvas(80).cut(told)


def test_names_keep_what_tells_them_apart():
    paper = Canvas(width=60)
    looks = [RunStatus(Path("x"), f"iql on reacher-scripted-mix-v0_2x1notip_0, seed {seed}") for seed in (1, 12)]
    lines = draw_jobs("all", looks, paper, None, None)[-2:]
    assert lines[0].split("  ")[0].endswith("seed 1") and lines[1].split("  ")[0].endswith("seed 12")
    assert all(len(line.split("  waiting")[0]) == 24 for line in lines)


def test_suspended_it_lends_the_screen_back(terminal, monkeypatch):
    """The signal itself is not sent: it would suspend whoever runs this."""
    stops = []
    monkeypatch.setattr(watching.os, "kill", lambda *sent: stops.append((sent, terminal.read())))
    before = signal.getsignal(signal.SIGTSTP)
    with watching.Screen(terminal.out) as screen:
        screen.draw(["one", "two"])
        signal.raise_signal(signal.SIGTSTP)
        assert signal.getsignal(signal.SIGTSTP) == screen._suspend
    (sent, shown) = stops[0]
    assert sent == (os.getpid(), signal.SIGTSTP) and shown.endswith(watching.LEAVE_SCREEN)
    again = terminal.read()[len(shown) :]
    assert again.startswith(watching.ENTER_SCREEN) and "two" in again and again.endswith(watching.LEAVE_SCREEN)
    assert signal.getsignal(signal.SIGTSTP) == before
