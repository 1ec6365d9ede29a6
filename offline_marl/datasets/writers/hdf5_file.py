"""HDF5 files on disks that may be full: HDF5 itself, told that a write failed, ends the process as it closes."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class GuardedFile(io.RawIOBase):
    """A file whose failed writes are kept in memory and told by `refuse_failure`, never to who writes.

    Who writes should ask after each piece of bounded size, close, and give up: what was kept by then is little.

    Args:
        path: The file; made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.failure: OSError | None = None
        self._kept: list[tuple[int, bytes]] = []
        self._at = 0
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        self._end = os.fstat(self._handle).st_size

    def refuse_failure(self) -> None:
        """Tell of a write that failed.

        Raises:
            OSError: The first one's.
        """
        if self.failure is not None:
            raise OSError(self.failure.errno or errno.EIO, self.failure.strerror, str(self.path))

    def write(self, content: Any) -> int:
        """Write, or keep what could not be written."""
        view = memoryview(content).cast("B")
        done = 0
        try:
            while done < len(view) and self.failure is None:
                done += os.pwrite(self._handle, view[done:], self._at + done)
        except OSError as error:
            self.failure = error
        if done < len(view):
            self._kept.append((self._at + done, bytes(view[done:])))
        self._at += len(view)
        self._end = max(self._end, self._at)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        """Read what was written, whether it is on the disk or kept; zeros where nothing was."""
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        done = 0
        while done < len(view) and (piece := os.pread(self._handle, len(view) - done, self._at + done)):
            view[done : done + len(piece)] = piece
            done += len(piece)
        for start, kept in self._kept:
            first, last = max(start, self._at), min(start + len(kept), self._at + len(view))
            if first < last:
                view[first - self._at : last - self._at] = kept[first - start : last - start]
        count = max(0, min(len(view), self._end - self._at))
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        """The place."""
        return self._at

    def truncate(self, size: int | None = None) -> int:
        """Set the size."""
        self._end = self._at if size is None else size
        try:
            os.ftruncate(self._handle, self._end)
        except OSError as error:
            self.failure = self.failure or error
        return self._end

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._handle)
        super().close()


@contextlib.contextmanager
def writing_hdf5(path: Path, mode: str = "w", **settings: Any) -> Iterator[tuple[Any, GuardedFile]]:
    """An HDF5 file to write into, and the guard to ask between pieces.

    Args:
        path: The file.
        mode: `w`, or `a` to add to what is there.
        settings: Of `h5py.File`.

    Raises:
        OSError: Something could not be written; told when the file is closed, and by the guard before.
    """
    import h5py

    with contextlib.closing(GuardedFile(path)) as guard:
        if mode == "w":
            guard.truncate(0)
        with h5py.File(
            guard, "r+" if mode == "a" and guard.seek(0, os.SEEK_END) else "w", driver="fileobj", **settings
        ) as file:
            yield file, guard
        guard.refuse_failure()
