"""Retries for shared disks, which may be full for a while or late to show what another machine wrote."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from pathlib import Path

from offline_marl.core.errors import BadInputError
from offline_marl.runs.stopping import asked

TRANSIENT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.ESTALE}
"""Error numbers that may pass: no space, no quota, a handle that the server has forgotten."""
FULL_DISK_LIMIT_S = 600.0
"""How long a job waits in all for room."""
LATE_S = 120.0
"""How long it waits for a file that another machine has written."""
LONGEST_PAUSE_S = 60.0
POLL_S = 0.1


class LateFileError(BadInputError):
    """A file of another machine that did not appear in time; the message is one sentence."""


class Backoff:
    """Exponential backoff: doubles its pause after each failure, up to a limit of all pauses together.

    Args:
        limit_s: Seconds in all.
        first_s: Seconds after the first failure.
    """

    def __init__(self, limit_s: float = FULL_DISK_LIMIT_S, first_s: float = 2.0) -> None:
        self.left_s, self.next_s = limit_s, first_s

    def wait(self, error: OSError, what: str) -> None:
        """Return when it is worth another try; at once where the process is asked to stop.

        Raises:
            OSError: The error: it will not pass, or it has lasted too long.
        """
        if error.errno not in TRANSIENT_ERRORS or self.left_s <= 0:
            raise error
        pause = min(self.next_s, self.left_s, LONGEST_PAUSE_S)
        self.left_s, self.next_s = self.left_s - pause, 2 * self.next_s
        with contextlib.suppress(OSError):  # where the log lies on the same disk
            print(f"{what}: {error.strerror}; trying again in {pause:.0f} s", file=sys.stderr, flush=True)
        asked.wait(pause)


def wait_for(file: Path, limit_s: float = LATE_S) -> None:
    """Wait until a file is there. Its folder is listed each time, as NFS caches whether a single file exists.

    Raises:
        LateFileError: It did not come.
    """
    until = time.monotonic() + limit_s
    while not _listed(file):
        if time.monotonic() > until or asked.is_set():
            raise LateFileError(f"{file} is not there after {limit_s:.0f} s: what writes it failed, or it was removed.")
        time.sleep(POLL_S)


def _listed(file: Path) -> bool:
    try:
        return file.name in os.listdir(file.parent)
    except OSError:
        return False
