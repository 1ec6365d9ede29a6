"""Guard of what a run can do without: pictures and films."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def attempt(draw: Callable[[], T], what: str) -> T | None:
    """Draw something, or say in a line of warning why it was not; no score waits for a picture.

    Args:
        draw: Draws it.
        what: Its name, as in "no WHAT was drawn".
    """
    try:
        return draw()
    except Exception as error:
        print(f"warning: no {what} was drawn ({said(error)}).", file=sys.stderr)
        return None


def said(error: BaseException) -> str:
    """An error of any kind in one line."""
    text = " ".join(str(error).split())
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__).rstrip(".")
