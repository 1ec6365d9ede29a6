"""Whether results will find a place, asked before the work that makes them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from offline_marl.core.config import ConfigError


def refuse_unwritable(folder: Path, what: str) -> None:
    """Make sure that files can be written into a folder, which need not be there yet and is not made.

    Args:
        folder: The folder.
        what: What named it, for the message: `--out`.

    Raises:
        ConfigError: It is a file, or neither it nor the nearest folder above it can be written to.
    """
    here = folder.absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    if not here.is_dir():
        raise ConfigError(f"{what} {folder} cannot be written to: {here} is a file.")
    try:
        with tempfile.TemporaryFile(dir=here):
            pass
    except OSError as error:
        raise ConfigError(f"{what} {folder} cannot be written to: {error.strerror or error}.") from None
