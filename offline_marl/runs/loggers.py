"""Loggers of your own: what they are told, the names that plugins give them, and why none of them can end a run.

`offline_marl.train(..., loggers=[MyLogger()])` takes objects; `--loggers my-logger` takes names, which are entered by
`@loggers.register("my-logger")` or, from an installed package, through the entry-point group `offline_marl.loggers`.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_marl.core.config import ConfigError
from offline_marl.core.errors import BadInputError
from offline_marl.core.registry import Registry
from offline_marl.runs.metric_rows import Row


class LoggerError(BadInputError, RuntimeError):
    """A logger could not be started for a run that has just begun; the message is one sentence."""


@dataclass(frozen=True)
class Start:
    """Description of a run for a logger, before its first row, each time a process begins or takes up the run."""

    folder: Path
    """The run folder."""
    config: Mapping[str, Any]
    """Every setting, as in config.json."""
    step: int
    """Updates made so far. Rows after it, which a process that was killed had logged, are void: they come again."""
    rows: Sequence[Mapping[str, Any]]
    """The rows that stand, each with its `kind`; none of them is written again."""


class Logger(ABC):
    """A logger: an object with `write`, and perhaps more."""

    def start(self, run: Start) -> None:  # noqa: B027 - most have nothing to do here
        """Open what is needed; called once, before the first row."""

    @abstractmethod
    def write(self, kind: str, row: Row) -> None:
        """Keep one row.

        Args:
            kind: `train` (means over `log_every` updates) or `eval` (a score).
            row: Numbers by name, `step` among them; `wall_s` in rows of training; None where there is no number.
        """

    def close(self) -> None:  # noqa: B027
        """Finish whatever is open; called at the end, also of a run that failed or was stopped."""


loggers: Registry[Callable[[], Logger]] = Registry("logger", "offline_marl.loggers")
"""Loggers by name: classes, or functions of no argument that give one. All of them are other people's."""


def named_loggers(names: Sequence[str], given: Sequence[Logger] = ()) -> list[tuple[str, Logger]]:
    """The loggers of these names, made now, and those that were given as objects.

    Raises:
        RegistryError: A name is unknown, or its plugin does not import.
        LoggerError: One cannot be made.
        ConfigError: Something else was given.
    """
    named = []
    for name in names:
        make = loggers.get(name)
        try:
            named.append((name, make()))
        except (Exception, SystemExit) as error:
            raise LoggerError(f"The logger '{name}' cannot be made ({_said(error)}).") from error
    named += [(getattr(logger, "__name__", type(logger).__name__), logger) for logger in given]
    for name, logger in named:
        if not isinstance(logger, Logger):
            raise ConfigError(
                f"{name} is no logger: it should be a subclass of offline_marl.runs.loggers.Logger, or its name."
            )
    return named


def apart(asked: str | Logger | Sequence[str | Logger]) -> tuple[tuple[str, ...], list[Logger]]:
    """Names, which can be written down, and objects; of something else it is said later what it should be."""
    if isinstance(asked, str | Logger):
        asked = [asked]
    names = tuple(item for item in asked if isinstance(item, str))
    return names, [item for item in asked if not isinstance(item, str)]


def start_guarded(name: str, open_it: Callable[[], Logger], new: bool, advice: str = "") -> list[Logger]:
    """The logger that this opens, so wrapped that it cannot end the run; none if it could not be opened.

    A run that has just begun is refused, because somebody is there to put it right; one that is taken up, maybe on a
    node that lacks something, goes on without.

    Raises:
        LoggerError: It could not be opened, and the run is new.
    """
    try:
        return [Guarded(name, open_it())]
    except (Exception, SystemExit) as error:
        if new:
            raise LoggerError(f"The logger {name} could not be started ({_said(error)}){advice}.") from error
        _warn(f"the logger {name} could not be started ({_said(error)}): the run goes on without it.")
        return []


class Guarded(Logger):
    """Another's logger. Its first failure is told and ends its part, not the run: CSV and JSON lines hold every row.

    Args:
        name: What warnings call it.
        logger: It.
    """

    def __init__(self, name: str, logger: Logger) -> None:
        self.name, self.logger = name, logger
        self.failed = False

    def write(self, kind: str, row: Row) -> None:
        if not self.failed:
            # A copy: what it does to its row is nobody else's.
            self._try("failed at this row and gets no more", lambda: self.logger.write(kind, dict(row)))

    def close(self) -> None:
        self._try("could not be closed", self.logger.close)

    def _try(self, what: str, do: Callable[[], None]) -> None:
        try:
            do()
        except (Exception, SystemExit) as error:  # some clients end the process of whoever uses them
            if not self.failed:
                _warn(f"the logger {self.name} {what} ({_said(error)}); metrics.csv and eval.csv have every row.")
            self.failed = True


def _warn(line: str) -> None:
    print(f"\nwarning: {line}", file=sys.stderr)


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__).rstrip(".")
