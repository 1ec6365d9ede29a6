"""Arrays out of .npy files that may come from anybody: plain numbers, mapped from the disk, of believable size."""

from __future__ import annotations

import math
import tokenize
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as numpy_format

from offline_marl.core.types import DataError

_HEADERS = {(1, 0): numpy_format.read_array_header_1_0, (2, 0): numpy_format.read_array_header_2_0}
_DAMAGED = (
    *(ValueError, OSError, EOFError, SyntaxError, LookupError, TypeError, RecursionError, MemoryError),
    tokenize.TokenError,
)
"""What numpy raises of headers, which are Python's literals."""


def mapped(file: Path) -> npt.NDArray[Any]:
    """One array, mapped from its file; what is pickled in it is refused, not loaded.

    Raises:
        DataError: The file is missing, holds no array of numbers, or claims more than is stored.
    """
    if not file.is_file():
        raise DataError(f"{file.name} is missing.")
    try:
        with file.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            shape, fortran, dtype = _HEADERS[numpy_format.read_magic(stream)](stream)
            start = stream.tell()
    except _DAMAGED as error:
        raise DataError(f"{file.name} is no array of numbers, or a damaged one: {_line(error)}.") from None
    size = file.stat().st_size
    if dtype.kind not in "biuf" or dtype.shape or any(type(n) is not int or n < 0 for n in shape):
        raise DataError(f"{file.name} is not an array of numbers.")
    if math.prod(shape) * dtype.itemsize > size - start or not math.prod(shape):
        raise DataError(f"{file.name} claims the shape {str(shape)[:80]}, but only {size:,} bytes are stored.")
    return np.memmap(file, dtype, "r", start, shape, "F" if fortran else "C")


def _line(error: object) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(error)[:300]).split()).rstrip(".")
