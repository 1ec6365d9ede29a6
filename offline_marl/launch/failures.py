"""Expected failures: which they are, the sentence each is told in, and the exit code."""

from __future__ import annotations

import contextlib
import shlex
import traceback
from collections.abc import Iterator
from pathlib import Path

BAD_INPUT, FAILED, INTERRUPTED, PIPE_CLOSED = 2, 1, 130, 141

# By name, because importing their modules would import torch; the tests hold the names to the classes.
EXIT_CODES = {
    "offline_marl.core.axes.AxisError": BAD_INPUT,
    "offline_marl.core.config.ConfigError": BAD_INPUT,
    "offline_marl.core.files.DamagedFileError": BAD_INPUT,
    "offline_marl.core.registry.RegistryError": BAD_INPUT,
    "offline_marl.core.types.DataError": BAD_INPUT,
    "offline_marl.datasets.catalog.UnknownDatasetError": BAD_INPUT,
    "offline_marl.environments.base.MissingSimulatorError": BAD_INPUT,
    "offline_marl.training.folder.RunFolderError": BAD_INPUT,
    "offline_marl.training.metrics.MissingLoggerError": BAD_INPUT,
    "offline_marl.training.trainer.DivergedError": FAILED,
    "builtins.OSError": FAILED,
}


class Stopped(Exception):
    """A run that ended early, for a reason that is no fault of the program."""

    def __init__(self, code: int, line: str) -> None:
        super().__init__(line)
        self.code = code


def exit_code(error: Exception) -> int | None:
    """The code of an expected failure; None for a bug, which should show its traceback."""
    for kind in type(error).__mro__:
        code = EXIT_CODES.get(f"{kind.__module__}.{kind.__qualname__}")
        if code is not None:
            return code
    # The partition's sentences come as bare ValueErrors; any other ValueError is a bug.
    frames = list(traceback.walk_tb(error.__traceback__))
    told = frames[-1][0].f_globals.get("__name__") == "offline_marl.core.partition"
    return BAD_INPUT if type(error) is ValueError and told else None


def sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    text = str(error) or type(error).__name__
    return text if text.endswith((".", "!", "?", "`")) else f"{text}."


@contextlib.contextmanager
def going(folder: Path) -> Iterator[None]:
    """While a run is going: an interruption or a failing disk says what is kept and how to go on."""
    resume = f"go on with `offline-marl resume {shlex.quote(str(folder))}`"
    try:
        yield
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        begun = (folder / "config.json").exists()
        raise Stopped(INTERRUPTED, f"interrupted: {resume}" if begun else "interrupted before the run began.") from None
    except OSError as error:
        place = error.filename or f"a file of {folder}"
        kept = f"; the last good checkpoint is kept, {resume}" if any((folder / "checkpoints").glob("step_*")) else ""
        raise Stopped(FAILED, f"error: {error.strerror or error}: {place}{kept}.") from None
