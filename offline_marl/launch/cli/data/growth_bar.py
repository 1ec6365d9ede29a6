"""Progress bar for writers without callbacks, by the size of the folder they write to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offline_marl.core.progress import progress_bar

POLL_S = 0.3
"""Seconds between two looks."""
MEGABYTE = 1_000_000


@contextmanager
def growth_bar(folder: Path, total: int, what: str) -> Iterator[None]:
    """Draw the bytes that a folder has grown by, until the block ends.

    Args:
        folder: Where the block writes.
        total: Bytes expected; the bar ends full whatever they were.
        what: Says at the left what is going on.
    """
    over, before = threading.Event(), _size(folder)
    with progress_bar(total // MEGABYTE, what, "MB", leave=False) as bar:

        def watch() -> None:
            while not over.wait(POLL_S):
                bar.update(max(min(_size(folder) - before, total) // MEGABYTE - bar.n, 0))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
        bar.update(total // MEGABYTE - bar.n)


def _size(folder: Path) -> int:
    size = 0
    for file in folder.rglob("*"):
        try:
            size += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue  # renamed meanwhile
    return size
