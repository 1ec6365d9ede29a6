"""Observation of runs from other processes, as they go: rows, marks and locks of their folders. Imports no torch.

Whatever is missing, half written or cut off is taken as not there yet.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from offline_marl.core.errors import BadInputError
from offline_marl.core.locks import BusyError, locked
from offline_marl.core.small_files import parse, read_table
from offline_marl.runs.metric_rows import MOST_STEPS, is_sound, newest_rate

QUESTIONS = "preferences"
"""Name, inside a run folder, of the comparisons of a run that asks about what it plays."""
State = Literal["waiting", "running", "done", "failed", "stopped"]
STATE_ORDER: tuple[State, ...] = ("running", "waiting", "stopped", "failed", "done")
"""States in the order in which lists of runs show them."""
FRESH_S = 120.0
"""A run that nobody on this machine holds may be another's, as long as it has written within so many seconds."""
ABANDONED_S = 900.0
"""A job of another machine is at work for so long after its last word, also where locks do not reach it."""


@dataclass(frozen=True)
class RunStatus:
    """Status of a run: state, progress, score and metrics."""

    folder: Path
    title: str
    state: State = "waiting"
    why: str = ""
    step: int = 0
    steps: int | None = None
    """None before the run has begun."""
    rate: float | None = None
    """Updates per second over the newest rows."""
    elapsed_s: float | None = None
    left_s: float | None = None
    score: tuple[str, tuple[float, ...]] | None = None
    """What the score is called, and the scores so far."""
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Other metrics so far, losses first."""
    questions: tuple[int, int] | None = None
    """Pairs that wait for somebody's answer, and all that were asked about; None of a run that asks nobody."""

    @property
    def going(self) -> bool:
        """Whether something may still come of it without anybody's doing."""
        return self.state in {"running", "waiting"}


class Tail:
    """The whole lines of a growing `metrics.jsonl`; only what is new is read.

    Args:
        path: The file, which may come later, and is replaced when its run is taken up.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, list[dict[str, Any]]] = {"train": [], "eval": []}
        self.when = 0.0
        """Time of the last change, in seconds since the epoch."""
        self._place, self._file = 0, -1

    def read(self) -> None:
        """Take in what has been added."""
        try:
            with self.path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_ino != self._file or status.st_size < self._place:
                    self.rows, self._place, self._file = {"train": [], "eval": []}, 0, status.st_ino
                self.when = status.st_mtime
                stream.seek(self._place)
                text = stream.read()
        except OSError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._place += len(whole)
        for row in plain_lines(whole):
            kind = row.get("kind")
            if is_sound(row) and isinstance(kind, str) and kind in self.rows:
                self.rows[kind].append(row)


def plain_lines(text: bytes) -> Iterator[dict[str, Any]]:
    """The lines that are JSON objects."""
    for line in text.splitlines():
        try:
            row = parse(line, finite=False)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


class RunWatcher:
    """Watcher of a run folder, which reads only what is new each time.

    Args:
        folder: It may come later.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tail = Tail(folder / "metrics.jsonl")
        self._config: dict[str, Any] = {}
        self._was_held = False

    def look(self, locked: frozenset[int], whole: bool = True) -> RunStatus:
        """Read the run's status.

        Args:
            locked: Files that are locked on this machine, see `held_files`.
            whole: Whether metrics besides the score are wanted.
        """
        self._tail.read()
        self._config = self._config or _object(self.folder / "config.json")
        steps, rows = _count(self._config.get("steps")), self._tail.rows["train"]
        status = RunStatus(self.folder, _title(self._config, self.folder), steps=steps)
        last = rows[-1] if rows else {}
        step, rate = last.get("step", 0), newest_rate(rows)
        status = replace(status, step=step, rate=rate, elapsed_s=last.get("wall_s"))
        state, why = self._state(locked)
        if state == "done":
            end = _count(_object(self.folder / "DONE").get("steps"))
            status = replace(status, step=step if end is None else end, left_s=0.0)
        elif state == "running" and rate and status.steps is not None:
            since = max(0.0, time.time() - self._tail.when)
            status = replace(status, left_s=max(0.0, (status.steps - step) / rate - since))
        return replace(
            status,
            state=state,
            why=why,
            score=scores(self._tail.rows["eval"]),
            series=_series(rows) if whole else {},
            questions=open_questions(self.folder) if self._config.get("teacher") == "human" else None,
        )

    def _state(self, locked: frozenset[int]) -> tuple[State, str]:
        if (self.folder / "DONE").exists():
            return "done", ""
        lock = _inode(self.folder / "lock")
        if lock in locked:
            self._was_held = True
            return "running", ""
        why = _last_words(self.folder / "starts.jsonl")
        if why:
            return "failed", why
        if not self._config and not self._tail.when:
            return "waiting", "it has not begun"
        quiet = _quiet(self.folder, ("metrics.jsonl", "checkpoints", "config.json"))
        if abs(quiet) < FRESH_S and not self._was_held:
            return "running", f"held by nobody on this machine, last written {max(0.0, quiet):.0f} s ago"
        return "stopped", f"go on with `offline-marl resume {self.folder}`"


def open_questions(folder: Path) -> tuple[int, int] | None:
    """How many pairs of a run's comparisons nobody has answered, and how many there are; None where none are kept."""
    path = folder / QUESTIONS / "labels.sqlite"
    if not path.is_file():
        return None
    answered = "SELECT 1 FROM labels AS one WHERE one.pair_id = pairs.pair_id AND one.answer != 'withdrawn'"
    answered += (
        " AND one.revision = (SELECT max(revision) FROM labels AS every WHERE every.pair_id = one.pair_id AND "
        "every.target = one.target AND every.annotator = one.annotator AND every.repeat = one.repeat)"
    )
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as store:
            row = store.execute(f"SELECT coalesce(sum(NOT EXISTS ({answered})), 0), count(*) FROM pairs").fetchone()
    except sqlite3.Error:
        return None
    return int(row[0]), int(row[1])


def run_folders(folder: Path) -> list[Path]:
    """Every folder of a run or a fit below this one, itself included; what lies inside a run is its own."""
    folders = []
    for place, inside, files in os.walk(folder):
        inside.sort()
        if "config.json" in files:
            folders.append(Path(place))
            inside.clear()
    return folders


def held_files() -> frozenset[int]:
    """Inodes of the files that processes of this machine hold; none where the system does not tell."""
    try:
        lines = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    words = (line.split() for line in lines)
    return frozenset(int(fields[5].rpartition(":")[2]) for fields in words if len(fields) > 5 and fields[1] == "FLOCK")


def is_held_elsewhere(folder: Path) -> bool:
    """Whether a process that is not of this machine may be at work in a run folder: it holds it, or wrote of late."""
    if abs(_quiet(folder, ("metrics.jsonl", "checkpoints", "config.json", "starts.jsonl"))) < ABANDONED_S:
        return True
    if not (folder / "lock").exists():
        return False
    try:
        with locked(folder / "lock"):
            return False
    except (BusyError, BadInputError, OSError):  # held, or nobody can tell
        return True


def _quiet(folder: Path, names: Sequence[str]) -> float:
    """Seconds since the newest of these files was written.

    A little less than 0 where another machine's clock is ahead; far less says nothing of now.
    """
    return time.time() - max(_when(folder / name) for name in names)


def scores(rows: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[float, ...]] | None:
    """What the newest score is called, and the scores of that name: normalised where they are."""
    for name in ("normalized_return", "return"):
        values = tuple(_numbers(row.get(name) for row in rows))
        if values:
            return ("score" if name == "normalized_return" else name), values
    return None


def _series(rows: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[float]]:
    names = [name for name in (rows[-1] if rows else {}) if name not in {"kind", "step", "wall_s"}]
    names.sort(key=lambda name: not name.startswith("loss/"))
    series = {name: list(_numbers(row.get(name) for row in rows)) for name in names}
    return {name: values for name, values in series.items() if values}


def _numbers(values: Any) -> Iterator[float]:
    """Those that are numbers; NaN and infinity stay, because they are what one looks for."""
    for value in values:
        if isinstance(value, float) or (isinstance(value, int) and abs(value) < MOST_STEPS):
            yield float(value)


def _title(config: Mapping[str, Any], folder: Path) -> str:
    what = config.get("algorithm") or config.get("model")
    task = config.get("dataset") or config.get("environment")
    if not what:
        return str(folder)
    return f"{what} on {Path(str(task)).name}, seed {config.get('seed')}"


def _last_words(path: Path) -> str:
    """What the job said of its failure, if nothing was started after it."""
    try:
        rows = list(plain_lines(path.read_bytes()))
    except OSError:
        return ""
    last = rows[-1] if rows else {}
    return str(last.get("why") or "its process failed") if last.get("how") == "failed" else ""


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_table(path, finite=False)
    except (OSError, ValueError):
        return {}


def _count(value: Any) -> int | None:
    """A number of updates; None of what is none."""
    return value if type(value) is int and 0 <= value < MOST_STEPS else None


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return -1


def _when(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
