"""Command `offline-marl watch`: live view of runs, in place on a terminal or once into a pipe. Needs no torch."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Any, TextIO

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.core.errors import FAILED, TERMINATED, BadInputError
from offline_marl.launch.cli.failures import Stopped
from offline_marl.launch.cli.flags import read
from offline_marl.launch.cli.terminal import Canvas, draw_jobs, draw_run
from offline_marl.runs.live import RunStatus, RunWatcher, held_files, run_folders

ABOUT = (
    "Shows how a run, a fit, a sweep or all runs of a folder are doing, until they are done: rate, time left, losses, "
    "scores. Only looks: the runs may be another process's, user's or machine's. Its exit code is 0 if all got done."
)
USAGE = "RUN|SWEEP|FOLDER [--every S] [--once]"
SETTLE_S = 30.0
"""How long all runs of a folder have to be over before nothing more is expected in it."""
ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
"""Escape codes of the alternate screen, without cursor and wrapping, and of the return to the user's."""


class WatchFlags(Config):
    """Flags of the command `watch`."""

    path: CliPositionalArg[Path]
    """Run folder, model folder, sweep, or a folder of runs at any depth; it may be made later."""
    every: Annotated[float, Field(ge=0.1)] | None = None
    """Seconds between looks; without it 1 for a run, 5 for many."""
    once: bool = False
    """Look once and end; so it is where the output is no terminal."""


def run(args: Sequence[str]) -> None:
    """Watch a run, a sweep or a folder.

    Raises:
        ConfigError: There is nothing of the kind.
        Stopped: Some run failed, or was stopped.
    """
    flags: WatchFlags = build(WatchFlags, read(WatchFlags, "watch", USAGE, ABOUT, args))
    live = not flags.once and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if flags.path.is_file():
        raise ConfigError(f"{flags.path} is a file: name the folder of a run, of a sweep, or of several runs.")
    if not live and not flags.path.is_dir():
        raise ConfigError(f"There is no folder {flags.path}: on a terminal, without --once, watch waits for it.")
    view = View(flags.path)
    if live:
        view.follow(flags.every)
    else:
        view.refresh()
        print("\n".join(view.frame(_make_canvas(sys.stdout, None))))
    if view.bad:
        raise Stopped(FAILED, view.bad)


class View:
    """View of a path, refreshed again and again: it may be missing at first, and become a run or a folder of them.

    Args:
        path: A run, a sweep, or a folder of runs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.statuses: list[RunStatus] = []
        self.many = False
        self.over = False
        """Whether nothing more is expected."""
        self.rate: float | None = None
        self.left_s: float | None = None
        self.note = ""
        """Why this look shows what the one before it did."""
        self._watched: dict[Path, RunWatcher] = {}
        self._settled: float | None = None
        self._seen_going = False

    @property
    def bad(self) -> str:
        """Sentence on the runs that failed or were stopped; empty if there are none."""
        names = [f"{status.title} {status.state}" for status in self.statuses if status.state in {"failed", "stopped"}]
        return f"{len(names)} of {len(self.statuses)} runs not done: {', '.join(names[:3])}." if names else ""

    def refresh(self) -> None:
        """Refresh the statuses of all runs.

        Raises:
            ConfigError: What was seen before is no longer there.
        """
        if self.statuses and self._watched and not self.path.exists():
            raise ConfigError(f"{self.path} is gone.")
        sweep = (self.path / "sweep.json").is_file()
        single = not sweep and ((self.path / "config.json").exists() or (self.path / "job.json").exists())
        self.many = sweep or (not single and bool(run_folders(self.path)))
        if sweep:
            self._look_at_sweep()
            return
        locked = held_files()
        folders = run_folders(self.path) if self.many else [self.path]
        self.statuses = [self._at(folder).look(locked, not self.many) for folder in folders]
        if self.many:  # of many, the folder tells which; algorithm and data may be those of all
            self.statuses = [
                replace(status, title=str(status.folder.relative_to(self.path))) for status in self.statuses
            ]
        if single and (self.path / "job.json").exists() and self.statuses[0].state != "done":
            self._ask_of_job()
        running = [status for status in self.statuses if status.state == "running"]
        self.rate = sum(status.rate or 0.0 for status in running) or None
        self.left_s = max((status.left_s or 0.0 for status in running), default=None)
        self._conclude(any(status.going for status in self.statuses))

    def _at(self, folder: Path) -> RunWatcher:
        return self._watched.setdefault(folder, RunWatcher(folder))

    def _ask_of_job(self) -> None:
        """Refresh the status from the queue: a folder does not show whether its job waits."""
        from offline_marl.launch.jobs.states import state_of

        known = state_of(self.path)
        self.statuses = [replace(self.statuses[0], state=known.state, why=known.why)]

    def _look_at_sweep(self) -> None:
        from offline_marl.launch.sweeps.folder import Sweep
        from offline_marl.launch.sweeps.status import read_status

        sweep = Sweep(self.path)
        status = read_status(sweep)
        self.statuses = []
        for job in status["each"]:
            seen = self._at(sweep.path / job["job"]).look(frozenset(), False)
            known = {name: job[name] for name in ("state", "why", "step", "steps", "left_s")}
            title = Path(job["job"]).name
            self.statuses.append(replace(seen, title=title, rate=job["steps_per_s"], **known))
        self.rate, self.left_s = status["steps_per_s"], status["left_s"]
        queued = any(job["state"] == "waiting" and job["id"] for job in status["each"])
        self._conclude(bool(status["running"]) or queued or sweep.launcher() is not None)

    def _conclude(self, going: bool) -> None:
        """Decide whether the view is over: once nothing runs; for a folder in which runs went, after a while."""
        self._seen_going = self._seen_going or going
        if going:
            self._settled = None
        elif self._settled is None:
            self._settled = time.monotonic()
        wait = SETTLE_S if self.many and self._seen_going else 0.0
        self.over = self._settled is not None and time.monotonic() - self._settled >= wait
        ends = "everything is over: this ends soon, unless another run begins"
        self.note = ends if self._settled is not None and not self.over else ""

    def frame(self, canvas: Canvas) -> list[str]:
        """Draw the lines of the view."""
        if self.many:
            lines = draw_jobs(str(self.path), self.statuses, canvas, self.rate, self.left_s)
        else:
            lines = [line for status in self._with_model() for line in [*draw_run(status, canvas), ""]][:-1]
        if not self.note:
            return canvas.fit(lines)
        kept = lines if canvas.height is None else lines[: max(0, canvas.height - 2)]
        return canvas.fit([*kept, "", self.note])

    def _with_model(self) -> list[RunStatus]:
        """Select the run, and before its first update the world model that it waits for."""
        model = self.path / "world_model"
        if self.statuses and self.statuses[0].step == 0 and (model / "config.json").exists():
            return [*self.statuses, self._at(model).look(held_files())]
        return self.statuses

    def follow(self, every: float | None) -> None:
        """Refresh and draw until all is over; the last view stays on the user's own screen."""
        frame: list[str] = []
        try:
            with Screen(sys.stdout) as screen:
                while not self.over:
                    began = time.monotonic()
                    try:
                        self.refresh()
                    except (BadInputError, OSError) as error:
                        self.note = f"this look failed, another follows: {' '.join(str(error).split())}"
                    frame = self.frame(_make_canvas(sys.stdout, shutil.get_terminal_size().lines))
                    screen.draw(frame)
                    if not self.over:
                        # Many runs on a slow disk should not keep a login node busy.
                        time.sleep(max(every or (5.0 if self.many else 1.0), 3 * (time.monotonic() - began)))
        finally:
            print("\n".join(self.frame(_make_canvas(sys.stdout, None)) if self.statuses else frame), flush=True)


class Screen:
    """Alternate screen of a terminal, left on exit, on SIGTERM, and while the process is suspended.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._before: dict[int, Any] = {}
        self._drawn = ""

    def __enter__(self) -> Screen:
        for number, heed in ((signal.SIGTERM, _terminated), (signal.SIGTSTP, self._suspend)):
            self._before[number] = signal.signal(number, heed)
        self._write(ENTER_SCREEN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(LEAVE_SCREEN)
        for number, before in self._before.items():
            signal.signal(number, before)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Leave the screen on Ctrl-Z, stop with the default action, and redraw on continuing."""
        self._write(LEAVE_SCREEN)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._suspend)
        self._write(ENTER_SCREEN + self._drawn)

    def draw(self, lines: Sequence[str]) -> None:
        """Draw lines over those before; each is cleared only behind its text, so that nothing flickers."""
        head = [f"\x1b[1m{line}\x1b[0m" for line in lines[:1]]
        self._drawn = "\x1b[H" + "\n".join(f"{line}\x1b[K" for line in [*head, *lines[1:]]) + "\x1b[J"
        self._write(self._drawn)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Stopped(TERMINATED, "terminated.")


def _make_canvas(stream: TextIO, height: int | None) -> Canvas:
    try:
        "█░▁·…".encode(stream.encoding or "ascii")
        plain = False
    except (UnicodeError, LookupError):
        plain = True
    return Canvas(max(20, shutil.get_terminal_size().columns), height, plain)
