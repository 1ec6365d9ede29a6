"""Writing of our file layout: fields in one order, whoever calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from offline_marl.core.files import Streamed, save_tree
from offline_marl.datasets.columns import Columns
from offline_marl.datasets.validate import chunks

LAYOUT = 1
LATER = frozenset({"mask", "ends_seen"})
KIND = "data set"


def save_flat(path: Path, kind: type[Any], held: Mapping[str, Any], tick: Callable[[int], object] | None = None) -> str:
    """Write the fields of a flat type, whole or not at all.

    Args:
        path: The file.
        kind: `Recording` or `Dataset`.
        held: Its fields by name, those that are missing None; they may be `Columns` or `Streamed`.
        tick: Told of each piece that was written.

    Returns:
        The checksum.
    """
    # In one order, so that equal content makes equal files.
    # Fields that came later are left out where they say nothing: a set that needs none is what it always was.
    names = [item.name for item in fields(kind)]
    ordered = {name: _leaf(held.get(name)) for name in names if name not in LATER or held.get(name) is not None}
    return save_tree(path, {"layout": LAYOUT, "type": kind.__name__, **ordered}, KIND, tick)


def _leaf(value: Any) -> Any:
    """The value as `save_tree` takes it: columns of a wider table are written piece by piece."""
    if not isinstance(value, Columns):
        return value
    return Streamed(value.dtype, tuple(value.shape), lambda: (piece for _, piece in chunks(cast(Tensor, value))))
