"""Rows of metrics, to CSV and JSONL always, to TensorBoard, W&B and other people's loggers if asked."""

from __future__ import annotations

import csv
import functools
import io
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from offline_marl.core.errors import BadInputError
from offline_marl.core.files import write_atomically
from offline_marl.core.locks import open_own
from offline_marl.runs.config import LearnFlags
from offline_marl.runs.loggers import Logger, LoggerError, Start, named_loggers, start_guarded
from offline_marl.runs.metric_rows import Pace, Row, read_rows

LINES = "metrics.jsonl"
WANDB_ID = "wandb-id"
SILENT: Mapping[str, Any] = {"tensorboard": False, "wandb": "off", "loggers": ()}
"""Settings of a run that logs to its folder alone."""


class MissingLoggerError(BadInputError, ImportError):
    """A logger was asked for whose package is not installed; the message says what to install."""


def loggers_of(
    config: LearnFlags, folder: Path, start: int, last: int, given: Sequence[tuple[str, Logger]] = ()
) -> list[Logger]:
    """Every logger of a run, started; rows after step `start` are dropped from what is there.

    Args:
        config: The run's settings.
        folder: Its folder.
        start: Updates made so far.
        last: The run's last step.
        given: Other people's, by name.

    Raises:
        LoggerError: One of them cannot be started, and the run is new.
    """
    new = not (folder / LINES).exists()
    started: list[Logger] = [FileLogger(folder, start, last)]
    try:
        for name, opened, advice in _openings(config, folder, start, given):
            started += start_guarded(name, opened, new, advice)
    except LoggerError:
        for logger in started:
            logger.close()
        raise
    return started


def _openings(
    config: LearnFlags, folder: Path, start: int, given: Sequence[tuple[str, Logger]]
) -> Iterator[tuple[str, Callable[[], Logger], str]]:
    """Each logger besides the files: its name, what opens it, and advice where that fails."""
    settings = config.model_dump(mode="json")
    if config.tensorboard:
        yield "TensorBoard", lambda: TensorBoardLogger(folder, start), ""
    if config.wandb != "off":
        project, mode = config.wandb_project, config.wandb
        advice = ": see `wandb login`, or use --wandb offline"
        yield "W&B", lambda: WandbLogger(folder, project, mode, settings, wandb_id(folder)), advice
    run = Start(folder, settings, start, read_rows(folder / LINES) if given else [])
    for name, logger in given:
        yield name, functools.partial(_started, logger, run), ""


def _started(logger: Logger, run: Start) -> Logger:
    logger.start(run)
    return logger


def wandb_id(folder: Path) -> str:
    """The run's id at W&B: drawn once and kept in the folder, so that it is the same wherever the folder is mounted."""
    file = folder / WANDB_ID
    identifier = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    if not re.fullmatch(r"[0-9a-z]{8,64}", identifier):
        identifier = uuid.uuid4().hex[:16]
        write_atomically(file, f"{identifier}\n".encode())
    return identifier


class FileLogger(Logger):
    """`metrics.csv`, `eval.csv` and both as JSON lines in `metrics.jsonl`, in the run folder.

    The columns of a CSV are the names of its first row; what later rows have beside them is in the JSON lines alone.

    Args:
        folder: The run folder.
        step: Rows after this step, left by a process that was killed, are dropped.
        last: The run's last step; its score is made again whenever the run is taken up.
    """

    FILES = {"train": "metrics.csv", "eval": "eval.csv"}  # noqa: RUF012 - a constant

    def __init__(self, folder: Path, step: int, last: int) -> None:
        self.folder = folder
        lines = folder / LINES
        kept = [row for row in read_rows(lines) if row["step"] <= step and (row["kind"], row["step"]) != ("eval", last)]
        write_atomically(lines, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._columns: dict[str, list[str]] = {}
        for kind, name in self.FILES.items():
            rows = [{key: value for key, value in row.items() if key != "kind"} for row in kept if row["kind"] == kind]
            write_atomically(folder / name, self._csv(kind, rows).encode())

    def write(self, kind: str, row: Row) -> None:
        """Append one row to its CSV and to the JSON lines."""
        text = self._csv(kind, [row])
        with open_own(self.folder / self.FILES[kind], "a") as stream:
            stream.write(text)
        with open_own(self.folder / LINES, "a") as stream:
            stream.write(json.dumps({"kind": kind, **row}) + "\n")

    def close(self) -> None:
        """Nothing is open between rows."""

    def _csv(self, kind: str, rows: Sequence[Row]) -> str:
        """Format rows as CSV, under a line of names where they are the first of their file."""
        if not rows:
            return ""
        first = kind not in self._columns
        names = self._columns.setdefault(kind, list(rows[0]))
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=names, lineterminator="\n", extrasaction="ignore")
        if first:
            table.writeheader()
        table.writerows(rows)
        return text.getvalue()


class TensorBoardLogger(Logger):
    """TensorBoard events in the run folder; those after `step` are purged when a run is taken up."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._pace = Pace()

    def write(self, kind: str, row: Row) -> None:
        """One scalar for each number of the row, and the rate."""
        for name, value in {**row, "updates_per_s": self._pace.of(kind, row)}.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(f"{kind}/{name}", value, row["step"])

    def close(self) -> None:
        """Flush the events."""
        self._writer.close()


class WandbLogger(Logger):
    """A W&B run, one for all processes of the run.

    A row's step at W&B is its line in `metrics.jsonl`; charts have the update (`step`) below them. Online, rows that a
    killed process had sent are there already and not sent again; offline, every process writes a folder of its own, and
    W&B lets the last one that is uploaded replace the others, so each begins with the rows so far and is whole.

    Args:
        folder: The run folder, whose `metrics.jsonl` holds the rows that stand.
        project: Of W&B.
        mode: Whether to send rows or to write them into the run folder.
        config: Settings to show.
        run_id: See `wandb_id`.
    """

    def __init__(
        self, folder: Path, project: str, mode: Literal["offline", "online"], config: Mapping[str, Any], run_id: str
    ) -> None:
        import wandb

        self._run = wandb.init(
            project=project,
            mode=mode,
            dir=str(folder),
            config=dict(config),
            id=run_id,
            resume="allow",
            name=folder.name,
        )
        self._run.define_metric("*", step_metric="step")
        self._pace, self._rows = Pace(), 0
        self._known: int = self._run.step
        for row in read_rows(folder / LINES):
            self.write(row["kind"], {name: value for name, value in row.items() if name != "kind"})

    def write(self, kind: str, row: Row) -> None:
        """Log the row's numbers under their kind."""
        named = {f"{kind}/{name}": value for name, value in row.items() if name != "step" and value is not None}
        pace = self._pace.of(kind, row)
        if pace is not None:
            named["train/updates_per_s"] = pace
        if self._rows >= self._known:
            self._run.log({**named, "step": row["step"]}, step=self._rows, commit=True)
        self._rows += 1

    def close(self) -> None:
        """Finish the W&B run."""
        self._run.finish()


def asked_loggers(config: LearnFlags, given: Sequence[Logger] = ()) -> list[tuple[str, Logger]]:
    """Other people's loggers that a run asks for by name or was given, made but not started.

    Raises:
        MissingLoggerError: The package of one of ours is not installed.
        BadInputError: Of a kind that says which logger cannot be used.
    """
    refuse_missing(config.tensorboard, config.wandb != "off")
    return named_loggers(config.loggers, given)


def refuse_missing(tensorboard: bool, wandb: bool) -> None:
    """Make sure, before a run begins, that the loggers asked for can be used.

    Raises:
        MissingLoggerError: A package is not installed.
    """
    for asked, package, name in ((tensorboard, "tensorboard", "TensorBoard"), (wandb, "wandb", "W&B")):
        if asked and find_spec(package) is None:
            raise MissingLoggerError(f"{name} is not installed: pip install 'offline-marl[log]'.")
