"""Locks between processes, and files of a folder that is ours, opened without following a link out of it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from offline_marl.core.errors import BadInputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


SPECIAL = {"a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
"""Kinds of what is neither file nor folder."""


_HELD: set[BinaryIO] = set()
"""Lock files that this process holds."""


class LinkError(BadInputError, RuntimeError):
    """A name inside a folder of ours that leads out of it, or is no ordinary file; the message is one sentence."""


class NoLocksError(BadInputError, RuntimeError):
    """The system cannot lock files between processes."""


class BusyError(Exception):
    """Another process holds the lock."""


def open_own(path: Path, mode: str) -> Any:
    """A stream into an ordinary file of a folder that we own, which is made if it is missing and never emptied.

    Args:
        path: The file.
        mode: `a`, `ab`, `ab+` or `r+b`; text is UTF-8.

    Raises:
        LinkError: It is a link, a pipe or a device: whoever laid it there would have us write elsewhere.
    """
    flags = os.O_RDWR | (0 if mode.startswith("r") else os.O_CREAT) | (os.O_APPEND if "a" in mode else 0)
    # Without waiting, so that a pipe that nobody reads is refused and not waited for.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK, errno.ENXIO}:
            raise LinkError(f"{path} is a link or no ordinary file: nothing is written through it.") from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise LinkError(f"{path} is no ordinary file: nothing is written into it.")
    return os.fdopen(handle, mode) if "b" in mode else os.fdopen(handle, mode, encoding="utf-8")


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[BinaryIO]:
    """Hold a lock file, and write into it if you like; the lock goes with the process, however it ends.

    Args:
        path: The file; made if it is missing.
        wait: Wait for the process that holds it, however long.

    Raises:
        BusyError: Another process holds it.
        LinkError: It is a link or no ordinary file.
        NoLocksError: This system has no such locks.
    """
    if fcntl is None:
        raise NoLocksError(f"{path} cannot be locked: this needs a system with POSIX file locks (Linux or macOS).")
    with open_own(path, "ab+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(str(path)) from None
        _HELD.add(stream)
        try:
            yield stream
        finally:
            _HELD.discard(stream)


def lock_open(handle: int, wait: bool = False) -> int | None:
    """Lock an open file: a handle that keeps the lock, also when the first one is closed.

    Args:
        handle: Of the file.
        wait: Wait for whoever has it locked.

    Returns:
        None where it is locked already and nobody waits, or where the system or the file system knows no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return None
    return os.dup(handle)


def _let_go() -> None:
    """Close the locks of the process that forked us: while we lived they would be held, though it had been killed."""
    while _HELD:
        _HELD.pop().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Make sure that folders we write into lie where they seem to lie.

    Args:
        folder: A folder of ours; it may itself be reached by a link.
        names: Of folders in it.

    Raises:
        LinkError: One of them is a link.
    """
    for name in names:
        if (folder / name).is_symlink():
            raise LinkError(f"{folder / name} is a link: put the folder itself there, or link {folder} as a whole.")


def refuse_special(path: Path) -> None:
    """Refuse what is there but neither a file nor a folder: a pipe would be waited for, a device never ends.

    Raises:
        LinkError: It is a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # not there, not to be looked at, or no name at all: opening it says so
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = next((name for name, is_kind in SPECIAL.items() if is_kind(mode)), "a device")
        raise LinkError(f"{path} is {kind}: only ordinary files are read and written.")
