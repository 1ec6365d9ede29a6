"""Rows of metrics, to CSV and JSONL always, to TensorBoard and W&B if asked."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from offline_marl.core.errors import BadInputError
from offline_marl.core.files import write_atomically
from offline_marl.core.seeding import derive
from offline_marl.training.config import LearnFlags

Row = Mapping[str, float | int | None]


class MissingLoggerError(BadInputError, ImportError):
    """A logger was asked for whose package is not installed; the message says what to install."""


def loggers_of(config: LearnFlags, folder: Path, start: int, last: int) -> list[Logger]:
    """Every logger that a run asks for; rows after step `start` are dropped from what is there."""
    loggers: list[Logger] = [FileLogger(folder, start, last)]
    if config.tensorboard:
        loggers.append(TensorBoardLogger(folder, start))
    if config.wandb != "off":
        run_id = f"{derive(config.seed, str(folder.resolve())):x}"
        settings = config.model_dump(mode="json")
        loggers.append(WandbLogger(folder, config.wandb_project, config.wandb, settings, run_id))
    return loggers


class Logger(Protocol):
    """Whoever keeps rows."""

    def write(self, kind: str, row: Row) -> None:
        """Keep one row; `kind` is train or eval, and the row has a step."""
        ...

    def close(self) -> None:
        """Finish whatever is open."""
        ...


class FileLogger:
    """`metrics.csv`, `eval.csv` and both as JSON lines in `metrics.jsonl`, in the run folder.

    Args:
        folder: The run folder.
        step: Rows after this step, left by a process that was killed, are dropped.
        last: The run's last step; its score is made again whenever the run is taken up.
    """

    FILES = {"train": "metrics.csv", "eval": "eval.csv"}  # noqa: RUF012 - a constant

    def __init__(self, folder: Path, step: int, last: int) -> None:
        self.folder = folder
        lines = folder / "metrics.jsonl"
        kept = [row for row in read_rows(lines) if row["step"] <= step and (row["kind"], row["step"]) != ("eval", last)]
        write_atomically(lines, "".join(json.dumps(row) + "\n" for row in kept).encode())
        for kind, name in self.FILES.items():
            rows = [{key: value for key, value in row.items() if key != "kind"} for row in kept if row["kind"] == kind]
            write_atomically(folder / name, _csv(rows).encode())

    def write(self, kind: str, row: Row) -> None:
        """Append one row to its CSV and to the JSON lines."""
        table = self.folder / self.FILES[kind]
        text = _csv([row])
        if table.stat().st_size:
            text = text.partition("\n")[2]
        with table.open("a", encoding="utf-8") as stream:
            stream.write(text)
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"kind": kind, **row}) + "\n")

    def close(self) -> None:
        """Nothing is open between rows."""


class TensorBoardLogger:
    """TensorBoard events in the run folder; those after `step` are purged when a run is taken up."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, row: Row) -> None:
        """One scalar for each number of the row."""
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(f"{kind}/{name}", value, row["step"])

    def close(self) -> None:
        """Flush the events."""
        self._writer.close()


class WandbLogger:
    """A W&B run; a resumed run goes on under the same id, which is the run folder's name and seed."""

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

    def write(self, kind: str, row: Row) -> None:
        """Log the row's numbers under their kind."""
        named = {f"{kind}/{name}": value for name, value in row.items() if name != "step" and value is not None}
        self._run.log({**named, "step": row["step"]})

    def close(self) -> None:
        """Finish the W&B run."""
        self._run.finish()


def refuse_missing(tensorboard: bool, wandb: bool) -> None:
    """Make sure, before a run begins, that the loggers asked for can be used.

    Raises:
        MissingLoggerError: A package is not installed.
    """
    for asked, package, name in ((tensorboard, "tensorboard", "TensorBoard"), (wandb, "wandb", "W&B")):
        if asked and find_spec(package) is None:
            raise MissingLoggerError(f"{name} is not installed: pip install 'offline-marl[log]'.")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that was cut off is left out."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


def _csv(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n", extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
