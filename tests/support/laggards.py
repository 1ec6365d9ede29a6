"""Workers that do not work, in a module that is imported in no time: for tests of who waits for them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def record_first_then_die(channel, plugins=()):
    """Say that the first chunk is kept, then go."""
    channel.recv()
    channel.recv()
    channel.send(None)
    channel.recv()
    os.kill(os.getpid(), signal.SIGKILL)


def leave(channel, plugins=()):
    """End without a word."""
    os._exit(3)


def wait_for_the_end(channel, plugins=()):
    """Listen until nobody asks any more."""
    with contextlib.suppress(EOFError):
        while channel.recv() is not None:
            pass


def refuse(channel, plugins=()):
    """Tell an expected failure."""
    channel.send((True, "No space left on device: x."))
    channel.recv()


def fail(channel, plugins=()):
    """Tell a bug."""
    channel.send((False, "Traceback: a bug"))
    channel.recv()


def hang(channel, plugins=()):
    """Say who it is, then neither work nor listen."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(channel.recv(), str(os.getpid())).touch()
    time.sleep(60)
