"""Progress bars that are lively on a terminal and brief in a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(
    total: int, what: str, unit: str, initial: int = 0, leave: bool = True, silent: float = 0.0
) -> tqdm[Any]:
    """A bar on standard error with its rate; where that is no terminal, a line at most every 30 s.

    Args:
        total: Units of the whole work.
        what: Says at the left what is going on.
        unit: Name of one unit.
        initial: Units done before.
        leave: Whether the finished bar stays.
        silent: Seconds before it shows at all.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=initial,
        desc=what,
        unit=unit,
        leave=leave,
        delay=silent,
        mininterval=0.5 if terminal else 30.0,
        dynamic_ncols=terminal,
        # In a log a bar within another one moves no cursor.
        position=None if terminal else 0,
    )


def say(text: str) -> None:
    """Print a line on standard error, above a bar where there is one."""
    tqdm.write(text, file=sys.stderr)
