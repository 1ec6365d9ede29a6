"""Words of a command line that no command could work with, refused before any begins."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from offline_marl.core.config import ConfigError
from offline_marl.core.locks import refuse_special

VARIABLES = ("OFFLINE_MARL_HOME", "MINARI_DATASETS_PATH", "HF_HOME", "HOME", "TMPDIR")
"""Of the environment, which name folders that are written into."""


def refuse_unusable(args: Sequence[str]) -> None:
    """Refuse names that are not UTF-8, and pipes, sockets and devices where files are expected.

    Settings, tables and pages are UTF-8: a name that is not could be written to, and then not written down.

    Raises:
        ConfigError: A word, the current folder or a folder of the environment has such a name.
        LinkError: A word names a pipe, a socket or a device.
    """
    for word in args:
        _refuse_undecodable(word, "The argument")
        for part in {word, word.partition("=")[2]}:
            if part:
                refuse_special(Path(part))
    for name in VARIABLES:
        _refuse_undecodable(os.environ.get(name, ""), f"The folder in {name},")
    try:
        _refuse_undecodable(os.getcwd(), "The current folder")
    except FileNotFoundError:
        raise ConfigError("The current folder was deleted: change into another one.") from None


def _refuse_undecodable(name: str, what: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")
        raise ConfigError(f"{what} {shown} is not UTF-8: rename it, or name another.") from None
