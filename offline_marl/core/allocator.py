"""The C library's allocator, told to keep memory that an update will want again.

By default glibc maps every large block afresh and returns it when it is freed, so that each update's tensors cost a
page fault for every 4 kB. Held back, they cost none from the second update on.
"""

from __future__ import annotations

import ctypes
import os
import sys

MEGABYTE = 2**20
OPTIONS = {
    -3: (256 * MEGABYTE, 32 * MEGABYTE),  # M_MMAP_THRESHOLD: smaller blocks come from the heap
    -1: (512 * MEGABYTE,),  # M_TRIM_THRESHOLD: more than this, free at the heap's end, is returned
    -2: (16 * MEGABYTE,),  # M_TOP_PAD: by how much more than asked the heap grows
}
"""Values of `mallopt`'s options, those of `malloc.h`; the next one where a release of glibc refuses the first."""
OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")
"""Variables by which a user has decided already."""


def keep_memory() -> bool:
    """Let glibc reuse freed memory up to 512 MB instead of returning it; the process stays as large as it has been.

    For a process that learns; the commands that do call it as they begin, importing the package does not. Settings in
    the environment (`MALLOC_...`, `GLIBC_TUNABLES`) stand.

    Returns:
        Whether anything was changed: not on other C libraries, such as those of macOS, Windows and Alpine.
    """
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name in os.environ for name in OWN)
    if tuned or not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - musl has none, and a mallopt that means nothing
        mallopt = library.mallopt
    except (AttributeError, OSError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    changed = [any(mallopt(option, value) for value in values) for option, values in OPTIONS.items()]
    return any(changed)
