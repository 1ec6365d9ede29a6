"""Payloads as files: written once by their owner, mapped by every process of the machine that reads them.

A file is the length of its table, the table (JSON: name, type, shape and place of every array), and the arrays, each
at a place where vectors may be read at once. Pages are shared until somebody writes, and then copied for that one.
"""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import numpy as np
import numpy.typing as npt

from offline_marl.distributed.engine import Payload

ALIGNED = 64
"""Bytes of whose multiples each array begins at one: a line of a processor's cache."""
HEAD = 8
"""Bytes of the table's length."""


def write_payload(path: Path, payload: Payload) -> None:
    """Write the arrays of a payload to a new file."""
    arrays = {name: np.asarray(value, order="C") for name, value in payload.items()}
    table, places = [], [0]
    for name, array in arrays.items():
        table.append((name, array.dtype.str, array.shape, places[-1]))
        places.append(_aligned(places[-1] + array.nbytes))
    head = json.dumps(table).encode()
    begin = _aligned(HEAD + len(head))
    with path.open("wb") as file:
        file.write(len(head).to_bytes(HEAD, "little") + head)
        for place, array in zip(places, arrays.values(), strict=False):
            file.seek(begin + place)
            file.write(array.data)
        file.truncate(begin + places[-1])


def map_payload(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a payload's file, which may be deleted meanwhile; writing to them changes nobody else's."""
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    length = int.from_bytes(pages[:HEAD], "little")
    begin = _aligned(HEAD + length)
    return {
        name: np.ndarray(shape, kind, pages, begin + place)
        for name, kind, shape, place in json.loads(pages[HEAD : HEAD + length])
    }


def _aligned(place: int) -> int:
    return -(-place // ALIGNED) * ALIGNED
