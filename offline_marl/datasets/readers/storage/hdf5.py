"""Arrays out of HDF5 files that may come from anybody: plain numbers stored in the file itself, of believable size."""

from __future__ import annotations

import traceback
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.types import DataError
from offline_marl.datasets.readers.storage.claims import LEAST_ROW, Ledger

MOST_COMPRESSED = 1100
"""Deflate cannot shrink anything more than 1,032 times: what claims to be larger is not there."""


@contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """Open a file for reading.

    Raises:
        DataError: h5py is missing, or the file is missing, truncated or no HDF5.
    """
    try:
        import h5py
    except ImportError:
        raise DataError(f"Reading {path.name} needs h5py: pip install 'offline-marl[data]'.") from None
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        file = h5py.File(path, "r")
        key = _key(file)  # which reads the root of the file
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read as HDF5: {_line(error)}.") from None
    _LEDGERS[key] = Ledger(str(path), path.stat().st_size)
    try:
        with file:
            yield file
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, OverflowError, MemoryError) as error:
        if isinstance(error, DataError) or not (isinstance(error, MemoryError) or _is_h5pys(error)):
            raise
        raise DataError(f"{path} is damaged: {_line(error) or 'it asks for more memory than there is'}.") from None
    finally:
        _LEDGERS.pop(key, None)


_LEDGERS: dict[Hashable, Ledger] = {}
"""What is claimed by each file that is open."""


def _key(file: Any) -> Hashable:
    number: Hashable = file.id.fileno
    return number


def _charge(file: Any, name: str, dataset: Any, claimed: int) -> None:
    """Count an array of an open file; one that was opened elsewhere has no account."""
    ledger = _LEDGERS.get(_key(file))
    if ledger is not None:
        ledger.charge(name, max(claimed, LEAST_ROW * int(dataset.shape[0])))


def names(group: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays that lie in a group itself."""
    import h5py

    shapes = {}
    for name in group:  # bytes where a damaged one is no text
        if (
            isinstance(name, str)
            and isinstance(group.get(name, getlink=True), h5py.HardLink)
            and isinstance(group[name], h5py.Dataset)
        ):
            shapes[name] = tuple(group[name].shape or ())
    return shapes


def array(group: Any, name: str, dtype: npt.DTypeLike | None = np.float32) -> npt.NDArray[Any]:
    """One array of numbers, of their own dtype if `dtype` is None.

    Raises:
        DataError: See `table`.
    """
    return np.asarray(table(group, name)[...], dtype=dtype)


def table(group: Any, name: str) -> Any:
    """One array of numbers, left in the file: rows are read when they are asked for.

    Raises:
        DataError: It is missing, no array of numbers, stored elsewhere, or larger than what is stored.
    """
    import h5py

    where = f"{Path(group.file.filename).name}: '{name}'"
    link = group.get(name, getlink=True)
    if link is None:
        raise DataError(f"{where} is missing; there are: {', '.join(sorted(map(str, group))[:20])}.")
    if not isinstance(link, h5py.HardLink):
        raise DataError(f"{where} points to another file or place, which is not followed.")
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "biuf" or not dataset.shape:
        raise DataError(f"{where} is not an array of numbers.")
    if dataset.is_virtual or dataset.external:
        raise DataError(f"{where} is kept in another file, which is not read.")
    claimed, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if claimed > MOST_COMPRESSED * stored:
        raise DataError(f"{where} claims {claimed:,} bytes, but only {stored:,} are stored.")
    _charge(group.file, dataset.name, dataset, claimed)
    return dataset


def quick(file: Any, path: str) -> npt.NDArray[Any] | None:
    """What `array` gives, many times faster for small arrays; None leaves it to `array` to say what is wrong."""
    from h5py import h5d, h5l, h5s

    pieces = path.encode().split(b"/")
    try:
        for end in range(1, len(pieces) + 1):
            if file.id.links.get_info(b"/".join(pieces[:end])).type != h5l.TYPE_HARD:
                return None
        dataset = h5d.open(file.id, path.encode())
        plain, dtype = dataset.get_create_plist(), dataset.get_type().dtype
        if dtype.kind not in "biuf" or not dataset.shape or plain.get_external_count():
            return None
        size = int(np.prod(dataset.shape, dtype=np.float64)) * dtype.itemsize
        if plain.get_layout() == h5d.VIRTUAL or size > MOST_COMPRESSED * dataset.get_storage_size():
            return None
        _charge(file, f"/{path}", dataset, size)
        values = np.empty(dataset.shape, dtype)
        if values.size:
            dataset.read(h5s.ALL, h5s.ALL, values)
        return values
    except DataError:
        raise
    except (KeyError, ValueError, TypeError, OSError, RuntimeError, OverflowError):
        return None


def text(group: Any, name: str) -> str | None:
    """A single word of any length that is kept as an array without axes; None if there is none."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        return None
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape != () or dataset.is_virtual or dataset.external:
        return None
    value = dataset[()] if h5py.check_string_dtype(dataset.dtype) is not None else None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else None


def attributes(group: Any) -> dict[str, str]:
    """Attributes that are words."""
    words = {}
    for name in group.attrs:
        try:
            value = group.attrs[name]
        except (OSError, TypeError, RuntimeError):  # of a kind that h5py cannot show
            continue
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str):
            words[str(name)] = value[:1000]
    return words


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _is_h5pys(error: BaseException) -> bool:
    """Whether h5py raised it: of a damaged file it raises many kinds, others of which are no word on the file."""
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and "h5py" in Path(frames[-1]).parts
