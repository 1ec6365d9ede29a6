"""PyMARL's episode batches, padded to one length: folders of .npy (AlberDICE's), .npz, HDF5 (CFCQL's, offpymarl's)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from offline_marl.core.types import DataError
from offline_marl.datasets.arrays.episode_batches import EpisodeBatch, FlatEpisodes, unpad
from offline_marl.datasets.readers.base import Content, Reader, readers
from offline_marl.datasets.readers.steps import Steps
from offline_marl.datasets.readers.storage import archives, hdf5, npy

NAMES = {
    "obs": "obs",
    "state": "state",
    "avail_actions": "avail_actions",
    "actions": "actions",
    "rewards": "reward",
    "terminations": "terminated",
    "truncations": "truncated",
    "filled": "filled",
}
"""Our names of its arrays."""
ONE_HOT = "actions_onehot"
NPY, NPZ, HDF5 = ".npy", ".npz", (".hdf5", ".h5")


@readers.register("pymarl")
class PyMARL(Reader):
    """PyMARL's episode batches: padded episodes of a team, as .npy, .npz or HDF5."""

    endings = (NPZ, *HDF5)
    options: ClassVar[frozenset[str]] = frozenset({"clock"})

    def recognises(self, path: Path) -> bool:
        """Whether the arrays of a file, or the files of a folder or of the folders in it, have PyMARL's names."""
        if path.is_dir():
            return bool(_sets(path))
        return path.suffix in self.endings and _is_batch(_arrays_in(path))

    @contextmanager
    def open(self, path: Path, clock: int | None = None) -> Iterator[Content]:
        """Steps and metadata of a folder or file, to be read while it is open.

        `filled` counts one row more than an episode has steps: the last one holds what was seen, its action never
        happened. Whether `terminated` was the task's or the clock's the files do not say.

        Args:
            path: The folder or file.
            clock: Steps after which the clock ends an episode; without it, `terminated` is taken as the task's. The
                metadata say which (`episodes_end`).

        Raises:
            DataError: Arrays are missing, hold something else than numbers, or do not fit together.
        """
        place = _one(path)
        with ExitStack() as stack:
            try:
                batch = _batch(_tables(place, stack))
                flat = unpad(batch, clock)
            except DataError as error:
                raise DataError(f"{place.name}: {str(error).removeprefix(f'{place.name}: ')}") from None
            yield _steps(flat), _about(place, flat, clock)


def _is_batch(names: set[str]) -> bool:
    acted = bool({"actions", ONE_HOT} & names) and "reward" in names
    return acted and bool({"obs", "state"} & names) and bool({"filled", "terminated"} & names)


def _arrays_in(path: Path) -> set[str]:
    """Names of the arrays of a file or folder; none of what is damaged, of which another reader may tell more."""
    if path.is_dir():
        return {file.stem for file in path.glob(f"*{NPY}")}
    if path.suffix in HDF5:
        with hdf5.open_file(path) as file:
            return set(hdf5.names(file))
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(NPY) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return set()


def _sets(path: Path) -> list[Path]:
    """Batches nearest to a folder: itself, its parts (offpymarl's), or the folders in it."""
    if _is_batch(_arrays_in(path)) or _parts(path):
        return [path]
    return sorted(
        folder for folder in path.iterdir() if folder.is_dir() and (_is_batch(_arrays_in(folder)) or _parts(folder))
    )


def _parts(path: Path) -> list[Path]:
    """Files `part_0.h5`, `part_1.h5` and so on of one set, in order."""
    files = [file for file in path.glob("part_*.h5") if file.stem.removeprefix("part_").isdecimal()]
    files.sort(key=_number)
    return files if files and _is_batch(_arrays_in(files[0])) else []


def _number(part: Path) -> int:
    return int(part.stem.removeprefix("part_"))


def _one(path: Path) -> Path:
    if not path.is_dir():
        return path
    sets = _sets(path)
    if len(sets) > 1:
        names = [batch.name for batch in sets]
        raise DataError(f"{path} holds {len(sets)} sets ({', '.join(names[:20])}): name one, such as {sets[0]}.")
    return sets[0]


def _tables(place: Path, stack: ExitStack) -> dict[str, Any]:
    """Arrays by PyMARL's names, left in their files."""
    if place.suffix == NPZ and not place.is_dir():
        place = archives.unpacked(place)
    wanted = (*NAMES.values(), ONE_HOT)
    if place.is_dir() and not _parts(place):
        return {name: npy.mapped(place / f"{name}{NPY}") for name in wanted if (place / f"{name}{NPY}").is_file()}
    parts = []
    files = _parts(place) if place.is_dir() else [place]
    if place.is_dir() and (lacking := sorted({*range(_number(files[-1]))} - {*map(_number, files)})):
        raise DataError(f"part_{lacking[0]}.h5 is missing, part_{_number(files[-1])}.h5 is there.")
    for path in files:
        file = stack.enter_context(hdf5.open_file(path))
        parts.append({name: hdf5.table(file, name) for name in wanted if name in hdf5.names(file)})
    return parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    for number, part in enumerate(parts):
        if set(part) != set(parts[0]):
            raise DataError(f"part_{number}.h5 holds other arrays than part_0.h5.")
        for name, table in part.items():
            if table.shape[1:] != parts[0][name].shape[1:]:
                raise DataError(
                    f"'{name}' of part_{number}.h5 has axes {table.shape[1:]}, of part_0.h5 {parts[0][name].shape[1:]}."
                )
    return {name: _Parts([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class _Parts:
    """Tables of several files as one, joined along the episodes."""

    tables: Sequence[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(len(table) for table in self.tables), *self.tables[0].shape[1:])

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        episodes, *rest = key if isinstance(key, tuple) else (key,)
        first, last, _ = episodes.indices(self.shape[0])
        pieces, begin = [], 0
        for table in self.tables:
            start, stop = max(first - begin, 0), min(last - begin, len(table))
            if start < stop:
                some = (slice(start, stop), *rest)
                pieces.append(np.asarray(table[some]))
            begin += len(table)
        return np.concatenate(pieces)


def _batch(tables: dict[str, Any]) -> EpisodeBatch:
    one_hot = tables.pop(ONE_HOT, None)
    choices = 0 if one_hot is None or len(one_hot.shape) != 4 else int(one_hot.shape[3])
    arrays = {ours: tables[theirs] for ours, theirs in NAMES.items() if theirs in tables}
    if "actions" not in arrays:
        arrays["actions"] = one_hot
    return EpisodeBatch(**arrays, choices=choices, called=NAMES)


def _steps(flat: FlatEpisodes) -> Steps:
    obs, after = flat.seen("obs"), flat.seen("obs", 1)
    assert obs is not None
    return Steps(
        obs,
        flat.actions,
        flat.rewards,
        flat.terminations,
        flat.truncations,
        next_obs=after,
        state=flat.seen("state"),
        next_state=flat.seen("state", 1),
        avail_actions=flat.seen("avail_actions"),
        next_avail_actions=flat.seen("avail_actions", 1),
        spec=flat.spec,
    )


def _about(place: Path, flat: FlatEpisodes, clock: int | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"format": "pymarl", "name": place.stem, "episodes_end": flat.rule}
    if clock is not None:
        metadata["clock"] = clock
    if flat.batch.obs is None:
        metadata["obs"] = "the state, for each agent"
    return metadata
