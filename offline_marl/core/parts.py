"""Unfinished files beside their places: locked while they are written, so that what killed processes left is known."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offline_marl.core.locks import LinkError, lock_open, open_own


@contextmanager
def part_of(path: Path) -> Iterator[tuple[int, Path]]:
    """A new hidden file beside a path, for its content: a handle to be closed, and a path to be renamed.

    It has the permissions that the umask leaves, and is gone in the end if it was not renamed. What processes that
    were killed left of the same file goes first.
    """
    _remove_abandoned(path)
    handle, lock, part = _open_part(path)
    try:
        yield handle, part
    finally:
        part.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def _open_part(path: Path) -> tuple[int, int | None, Path]:
    """A new file beside a path: its handle, a second one that keeps it locked where the system can, and its path."""
    # Not tempfile's, whose files are private whatever the umask says.
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            handle = os.open(part, flags | getattr(os, "O_BINARY", 0), 0o666)
        except FileExistsError:
            continue
        # Waited for: another writer may take it for abandoned before it is locked, and has it locked until it is gone.
        lock = lock_open(handle, wait=True)
        if os.path.lexists(part):
            return handle, lock, part
        for number in (handle, lock):
            if number is not None:
                os.close(number)


def _remove_abandoned(path: Path) -> None:
    """Remove unfinished files of a path that no process has locked: whoever wrote them was killed."""
    name = re.compile(re.escape(f".{path.name}.") + "[0-9a-f]{8}[.]part")
    with contextlib.suppress(OSError):
        for part in [each for each in os.listdir(path.parent) if name.fullmatch(each)]:
            # Ours, whoever has it: names are drawn at random, so that none comes twice.
            with contextlib.suppress(OSError, LinkError), open_own(path.with_name(part), "r+b") as stream:
                lock = lock_open(stream.fileno())
                if lock is not None:
                    path.with_name(part).unlink(missing_ok=True)
                    os.close(lock)
