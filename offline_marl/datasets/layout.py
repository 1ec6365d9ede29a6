"""Writing of our file layout: fields in one order, whoever calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from offline_marl.core.files import save_tree

LAYOUT = 1
LATER = frozenset({"mask", "ends_seen"})
KIND = "data set"


def save_flat(path: Path, kind: type[Any], held: Mapping[str, Any], tick: Callable[[int], object] | None = None) -> str:
    """Write the fields of a flat type, whole or not at all.

    Args:
        path: The file.
        kind: `Recording` or `Dataset`.
        held: Its fields by name, those that are missing None.
        tick: Told of each piece that was written.

    Returns:
        The checksum.
    """
    # In one order, so that equal content makes equal files.
    # Fields that came later are left out where they say nothing: a set that needs none is what it always was.
    names = [item.name for item in fields(kind)]
    ordered = {name: held.get(name) for name in names if name not in LATER or held.get(name) is not None}
    return save_tree(path, {"layout": LAYOUT, "type": kind.__name__, **ordered}, KIND, tick)
