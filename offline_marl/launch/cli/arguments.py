"""Words of a command line that no command could work with, refused before any begins."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from offline_marl.core.config import ConfigError
from offline_marl.core.locks import refuse_special

DEEP, MOST_LOOKED_AT = 4, 20_000
"""Folders within one another, and entries, that are looked at for pipes and devices."""
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
                _refuse_waiting(Path(part))
    for name in VARIABLES:
        _refuse_undecodable(os.environ.get(name, ""), f"The folder in {name},")
    try:
        _refuse_undecodable(os.getcwd(), "The current folder")
    except FileNotFoundError:
        raise ConfigError("The current folder was deleted: change into another one.") from None


def _refuse_waiting(folder: Path) -> None:
    """Refuse a folder that holds, not far down, a pipe or a device under some file's name: reading it would not end."""
    seen, level = 0, [folder]
    for _ in range(DEEP):
        below = list[Path]()
        for place in level:
            with contextlib.suppress(OSError, ValueError), os.scandir(place) as entries:
                for entry in entries:
                    seen += 1
                    if seen > MOST_LOOKED_AT:
                        return
                    if entry.is_dir(follow_symlinks=False):
                        below.append(Path(entry.path))
                    elif not entry.is_file() and _waits(entry):
                        refuse_special(Path(entry.path))
        level = below


def _waits(entry: os.DirEntry[str]) -> bool:
    """Whether it is a pipe or a device; whoever opens a socket is told so at once."""
    try:
        mode = entry.stat().st_mode
    except OSError:  # a link that leads nowhere
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _refuse_undecodable(name: str, what: str) -> None:
    try:
        typed = os.fsencode(name)  # where the locale knows no letters, these stand for bytes
        typed.decode()
    except UnicodeEncodeError:
        return  # letters that this locale has no bytes for
    except UnicodeDecodeError:
        shown = typed.decode("utf-8", "backslashreplace")
        raise ConfigError(f"{what} {shown} is not UTF-8: rename it, or name another.") from None
