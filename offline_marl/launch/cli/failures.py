"""Expected failures of commands: their sentences and exit codes."""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from offline_marl.core.errors import BAD_INPUT, FAILED, INTERRUPTED, TERMINATED, BadInputError, WorkError


class Stopped(Exception):
    """Early end of a run that is no fault of the program, with its exit code."""

    def __init__(self, code: int, line: str) -> None:
        super().__init__(line)
        self.code = code


def exit_code(error: Exception) -> int | None:
    """Choose the exit code of an expected failure; None for a bug, which should show its traceback."""
    if isinstance(error, BadInputError):
        return BAD_INPUT
    return FAILED if isinstance(error, WorkError | OSError | sqlite3.DatabaseError) or is_out_of_memory(error) else None


def is_out_of_memory(error: Exception) -> bool:
    """Whether numpy, torch or the GPU had no room for something."""
    told = isinstance(error, RuntimeError) and "not enough memory" in str(error)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or told


@contextlib.contextmanager
def resumable(folder: Path, runs: Sequence[Path] = ()) -> Iterator[None]:
    """Turn interruptions and disk errors of a run into a sentence on what is kept and how to resume.

    SIGTERM, by which schedulers announce the end, SIGHUP, when the terminal has gone, and Ctrl-C let the run save after
    the update that it is in; a second Ctrl-C ends it at once.

    Args:
        folder: The run folder, or what holds the folders of several runs.
        runs: These, if there are several.
    """
    from offline_marl.runs.stopping import StoppedEarly, asked, heeding_the_end, saving_when_interrupted

    def has_begun() -> bool:
        return any((run / "config.json").exists() for run in runs or [folder])

    resume = f"go on with `offline-marl resume {shlex.quote(str(folder))}`"
    if runs:
        resume = "go on with all runs by the same command, with one by `offline-marl resume RUN`"
    try:
        with heeding_the_end(asked.set), saving_when_interrupted(has_begun) as interrupted:
            yield
    except StoppedEarly as stop:
        raise Stopped(INTERRUPTED if interrupted.is_set() else TERMINATED, f"{stop}: {resume}") from None
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        said = f"interrupted: {resume}" if has_begun() else "interrupted before the run began."
        raise Stopped(INTERRUPTED, said) from None
    except OSError as error:
        place = error.filename or f"a file of {folder}"
        saved = any(path for run in runs or [folder] for path in run.glob("**/checkpoints/step_*"))
        kept = f"; the last good checkpoint is kept, {resume}" if saved else ""
        raise Stopped(FAILED, f"error: {error.strerror or error}: {place}{kept}.") from None
