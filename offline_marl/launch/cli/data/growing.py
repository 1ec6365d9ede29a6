"""A bar for work that says nothing while it writes: it watches what it has written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offline_marl.core.progress import progress_bar

EVERY = 0.3
"""Seconds between two looks."""
MEGA = 1_000_000


@contextmanager
def growing(folder: Path, total: int, what: str) -> Iterator[None]:
    """Shows how many bytes lie in a folder, until the block ends.

    Args:
        folder: Where the block writes.
        total: Bytes expected; the bar ends full whatever they were.
        what: Says at the left what is going on.
    """
    over, before = threading.Event(), _size(folder)
    with progress_bar(total // MEGA, what, "MB", leave=False) as bar:

        def watch() -> None:
            while not over.wait(EVERY):
                bar.update(max(min(_size(folder) - before, total) // MEGA - bar.n, 0))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
        bar.update(total // MEGA - bar.n)


def _size(folder: Path) -> int:
    size = 0
    for each in folder.rglob("*"):
        try:
            size += each.stat().st_size if each.is_file() else 0
        except OSError:
            continue  # renamed meanwhile
    return size
