"""Episodes of a Minari folder, whichever of its three storages they lie in; read one by one, as arrays by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from offline_marl.core.types import DataError
from offline_marl.datasets.readers.storage import arrow_claims, hdf5, parquet_claims
from offline_marl.datasets.readers.storage.claims import MOST_SHRUNK, UNSUSPECTED, Ledger
from offline_marl.datasets.readers.storage.tables import Recent

Values = npt.NDArray[Any]
STORAGES = ("hdf5", "arrow", "parquet")
KEPT = 1 << 27
"""Bytes of episodes that are kept, because what an episode holds is asked for piece by piece."""


class Episodes(Protocol):
    """Episodes by number; each is a set of arrays such as `rewards`, `observations/agent_0` and `infos/state`."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def names(self, number: int) -> list[str]:
        """Names of an episode's arrays."""
        ...

    def read(self, number: int, name: str) -> Values:
        """One array, rows first.

        Raises:
            DataError: It is missing, damaged, or holds something else than numbers.
        """
        ...


@contextmanager
def open_storage(folder: Path, storage: str) -> Iterator[Episodes]:
    """The episodes in a folder, to be read while it is open.

    Raises:
        DataError: The storage is unknown, its package missing, or there is no episode.
    """
    if storage == "hdf5":
        with hdf5.open_file(folder / "data" / "main_data.hdf5") as file:
            yield _refuse_none(folder, _HDF5(file))
    elif storage in STORAGES:
        yield _refuse_none(folder, _Arrow(folder / "data", storage))
    else:
        raise DataError(f"{folder} is stored as {_word(storage)}; Minari's {', '.join(STORAGES)} are read.")


def natural(name: str) -> tuple[Any, ...]:
    """A key that sorts agent_10 behind agent_9."""
    pieces = [part for part in re.split(r"(\d+)", name) if part]
    return tuple((not part.isdigit(), int(part) if part.isdigit() else part) for part in pieces)


class _HDF5:
    """Groups `episode_N` of one file."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._names = sorted((n for n in map(str, file) if re.fullmatch(r"episode_\d{1,9}", n)), key=natural)
        self._recent = Recent[Values](KEPT, lambda values: values.nbytes)

    def __len__(self) -> int:
        return len(self._names)

    def names(self, number: int) -> list[str]:
        group = self._group(number)
        names = list(hdf5.names(group))
        for name in ("observations", "actions", "infos"):
            names += [f"{name}/{part}" for part in _nested(group, name)]
        return names

    def read(self, number: int, name: str) -> Values:
        return self._recent.get((number, name), lambda: self._array(number, name))

    def _array(self, number: int, name: str) -> Values:
        values = hdf5.quick(self._file, f"{self._names[number]}/{name}")
        if values is not None:
            return values
        group, (*parents, last) = self._group(number), name.split("/")
        for parent in parents:
            group = _child(group, parent)
            if group is None:
                raise DataError(f"{self._names[number]}: '{name}' is missing.")
        return hdf5.array(group, last, None)

    def _group(self, number: int) -> Any:
        group = _child(self._file, self._names[number])
        if group is None:
            raise DataError(f"'{self._names[number]}' is no group of arrays.")
        return group


def _child(group: Any, name: str) -> Any:
    """The group of this name that lies in the file itself; None for anything else."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(group[name], h5py.Group):
        return None
    return group[name]


def _nested(group: Any, name: str, deep: int = 2) -> list[str]:
    """Names of the arrays in a group, with those of the groups in it."""
    child = _child(group, name)
    if child is None or not deep:
        return []
    inner = [f"{key}/{part}" for key in child if isinstance(key, str) for part in _nested(child, key, deep - 1)]
    return sorted([*hdf5.names(child), *inner], key=natural)


class _Arrow:
    """A folder for each episode, with one file or several."""

    def __init__(self, folder: Path, ending: str) -> None:
        try:
            import pyarrow  # noqa: F401 - whether it is there
        except ImportError:
            raise DataError(f"Reading {folder.parent} needs pyarrow: pip install 'offline-marl[arrow]'.") from None
        self._ending, self._ledger = ending, Ledger(str(folder.parent))
        episodes = (path for path in folder.iterdir() if re.fullmatch(r"\d{1,9}", path.name) and path.is_dir())
        self._folders = sorted(episodes, key=lambda path: int(path.name))
        self._recent = Recent[dict[str, Any]](KEPT, lambda columns: sum(column.nbytes for column in columns.values()))

    def __len__(self) -> int:
        return len(self._folders)

    def names(self, number: int) -> list[str]:
        return sorted(self._columns(number), key=natural)

    def read(self, number: int, name: str) -> Values:
        columns, where = self._columns(number), f"episode {self._folders[number].name}"
        if name not in columns:
            raise DataError(f"{where}: '{name}' is missing; there are: {', '.join(sorted(columns)[:20])}.")
        values = _numbers(columns[name])
        if values is None:
            raise DataError(f"{where}: '{name}' is not an array of numbers.")
        # The last row of what is done is made up: it goes with the last observation.
        return (
            values[:-1] if name.partition("/")[0] in {"actions", "rewards", "terminations", "truncations"} else values
        )

    def _columns(self, number: int) -> dict[str, Any]:
        return self._recent.get(number, lambda: self._opened(self._folders[number]))

    def _opened(self, folder: Path) -> dict[str, Any]:
        import pyarrow

        files = sorted(folder.glob(f"*.{self._ending}"), key=lambda file: natural(file.name))
        if not files:
            raise DataError(f"episode {folder.name} holds no .{self._ending} file.")
        try:
            self._charge(folder.name, files)
            table = pyarrow.concat_tables([_table(file, self._ending) for file in files]).combine_chunks()
            table.validate(full=True)
            return {
                name: leaf
                for column in table.column_names
                for name, leaf in _leaves(column, table[column].combine_chunks())
            }
        except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"episode {folder.name} is damaged: {_word(error)}.") from None

    def _charge(self, episode: str, files: list[Path]) -> None:
        """Compare what an episode claims with what is stored, before pyarrow makes room for it."""
        if episode not in self._ledger:
            claimed = sum((arrow_claims if self._ending == "arrow" else parquet_claims).claimed_by(f) for f in files)
            self._ledger.charge(episode, claimed, sum(file.stat().st_size for file in files))


def _table(file: Path, ending: str) -> Any:
    if ending == "arrow":
        import pyarrow

        return pyarrow.ipc.open_file(pyarrow.memory_map(str(file))).read_all()
    from pyarrow import parquet

    parquet_file, size = parquet.ParquetFile(file), file.stat().st_size
    # Rows of lists of no length have no pages that would tell of them.
    claimed = parquet_file.metadata.num_rows * sum(_width(field.type) for field in parquet_file.schema_arrow)
    if claimed > MOST_SHRUNK * size + UNSUSPECTED or claimed < 0:
        raise DataError(f"{file.name} claims {claimed:,} bytes, but only {size:,} are stored.")
    return parquet_file.read(use_threads=False)


def _width(kind: Any) -> int:
    """Bytes of a row, if each number takes eight."""
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return sum(_width(field.type) for field in kind)
    return kind.list_size * _width(kind.value_type) if pyarrow.types.is_fixed_size_list(kind) else 8


def _leaves(name: str, column: Any) -> Iterator[tuple[str, Any]]:
    """Arrays of a column that may be a struct of others."""
    import pyarrow

    if not pyarrow.types.is_struct(column.type):
        yield name, column
        return
    for field in column.type:
        yield from _leaves(f"{name}/{field.name}", column.field(field.name))


def _numbers(column: Any) -> Values | None:
    """Rows of a column of numbers or of lists of one length; None if it is neither."""
    import pyarrow

    kinds, rows = pyarrow.types, len(column)
    if column.null_count:
        return None
    if kinds.is_fixed_size_list(column.type) or kinds.is_list(column.type) or kinds.is_large_list(column.type):
        elements = column.flatten()
        if rows and len(elements) % rows == 0 and len(set(column.value_lengths().unique().to_pylist())) == 1:
            inner = _numbers(elements)
            return None if inner is None else inner.reshape(rows, -1)
        return None
    if not (kinds.is_integer(column.type) or kinds.is_floating(column.type) or kinds.is_boolean(column.type)):
        return None
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _refuse_none(folder: Path, episodes: Episodes) -> Episodes:
    if not len(episodes):
        raise DataError(f"{folder} holds no episode.")
    return episodes


def _word(what: object) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(what)[:200]).split()).rstrip(".")
