"""JSON from small files that anybody may have written: of bounded size and depth, numbers that are finite. No torch."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any

MOST_NESTED = 64
"""Containers within one another."""
LONGEST = 120
"""Letters of a value that are shown."""
MOST_BYTES = 1 << 28
"""Size of a file that is called small."""


def parse(text: str | bytes, most: int = MOST_NESTED, finite: bool = True) -> Any:
    """What JSON holds.

    Args:
        text: Text, or UTF-8.
        most: Containers that may lie within one another.
        finite: Whether NaN and infinity are refused, which are not JSON's.

    Raises:
        ValueError: It is no JSON, not UTF-8, nested too deeply, or holds a number that is not finite.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant if finite else None)
    except RecursionError:
        raise ValueError(f"it is nested more than {most} deep") from None
    if nests_deeper(content, most):
        raise ValueError(f"it is nested more than {most} deep")
    return content


def read(path: Path, finite: bool = True) -> Any:
    """What a JSON file holds; `finite` as in `parse`.

    Raises:
        OSError: It cannot be read.
        ValueError: See `parse`; or it is too large to be one of ours.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has {path.stat().st_size:,} bytes, too many for such a file")
    return parse(path.read_bytes(), finite=finite)


def read_table(path: Path, finite: bool = True) -> dict[str, Any]:
    """What a JSON file holds by names; `finite` as in `parse`, for files of runs that may have diverged.

    Raises:
        OSError: It cannot be read.
        ValueError: See `read`; or it holds something else.
    """
    content = read(path, finite)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, it should hold named entries")
    return content


def nests_deeper(value: Any, most: int) -> bool:
    """Whether containers lie within one another more than so often; never recurses, so that nothing is too deep."""
    level = [value]
    for _ in range(most):
        inner: list[Any] = []
        for each in level:
            entries = each.values() if isinstance(each, dict) else each if isinstance(each, list | tuple) else ()
            inner += [entry for entry in entries if isinstance(entry, dict | list | tuple)]
        if not inner:
            return False
        level = inner
    return True


def shown(value: Any) -> str:
    """A value of any size and depth, in a line that is not long."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    if isinstance(value, str):
        return repr(value if len(value) <= LONGEST else f"{value[:LONGEST]} ...")
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxlong, short.maxother = 3, LONGEST, 40, LONGEST
    short.maxdict = short.maxlist = short.maxtuple = 12
    text = " ".join(short.repr(value).split())
    return text if len(text) <= 2 * LONGEST else f"{text[: 2 * LONGEST]} ..."


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number of JSON")
