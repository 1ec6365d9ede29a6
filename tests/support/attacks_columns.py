"""Small files of columns that would be gigabytes: runs, zeros and fills of every storage; and such with bent bytes."""

from __future__ import annotations

import atexit
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from arena import Attack
from foreign import Team, vault_arrays, write_vault
from hostile_sets import copied, edited, sound

MANY = 200_000_000
"""Numbers of a column that is not there."""
Change = Callable[[Path], None]


@cache
def good() -> dict[str, Path]:
    folder = Path(tempfile.mkdtemp(prefix="sound-"))
    atexit.register(shutil.rmtree, folder, True)
    return sound(folder)


# --- HDF5 ---------------------------------------------------------------------------------------------------------
def zeros(file: Any, names: tuple[str, ...], rows: int, stored: bool, wide: int = 1) -> None:
    """Columns of so many rows, compressed as far as it goes; or never written, but for one chunk."""
    for name in names:
        old = file[name]
        shape = (rows, *old.shape[1:-1], *((wide,) if old.ndim > 1 else ()))
        del file[name]
        chunk = (min(rows, 1 << 20), *shape[1:])
        made = file.create_dataset(name, shape, "u1", chunks=chunk, compression="gzip", compression_opts=9)
        first = np.zeros(chunk, np.uint8)
        for begin in range(0, rows if stored else chunk[0], chunk[0]):
            made[begin : begin + chunk[0]] = first[: min(chunk[0], rows - begin)]


def filled(file: Any, name: str, rows: int) -> None:
    old = file[name]
    shape = (rows, *old.shape[1:])
    del file[name]
    file.create_dataset(name, shape, "f8", chunks=(1024, *shape[1:]), fillvalue=1.0)[:1] = 0


D4RL = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")


def hdf5(kind: str) -> Iterator[tuple[str, Change]]:
    names = D4RL if kind == "d4rl" else ("o", "a", "r", "d", "s")
    change = partial(edited)
    yield f"{kind}: zeros in all columns", lambda p: change(lambda f: zeros(f, _there(f, names), 6_000_000, True), p)
    yield f"{kind}: 50 million zeros", lambda p: change(lambda f: zeros(f, _there(f, names), 50_000_000, True), p)
    yield (
        f"{kind}: zeros that were never written",
        lambda p: change(lambda f: zeros(f, _there(f, names), MANY, False), p),
    )
    for name in names:
        yield f"{kind}: zeros of {name}", lambda p, n=name: change(lambda f: zeros(f, _there(f, (n,)), MANY, True), p)
        yield (
            f"{kind}: fill of {name}",
            lambda p, n=name: change(lambda f: [filled(f, m, MANY) for m in _there(f, (n,))], p),
        )
    yield f"{kind}: a wide row", lambda p: change(lambda f: zeros(f, _there(f, names[:1]), 18, True, 10_000_000), p)


def _there(file: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name in file)


def minari_hdf5() -> Iterator[tuple[str, Change]]:
    for name in ("rewards", "terminations", "truncations"):
        for what, stored in (("zeros", True), ("zeros never written", False)):

            def change(place: Path, name: str = name, stored: bool = stored) -> None:
                edited(lambda f: zeros(f["episode_1"], (name,), MANY, stored), place / "data" / "main_data.hdf5")

            yield f"minari-hdf5: {what} of {name}", change

    def all_of_all(place: Path) -> None:
        def change(file: Any) -> None:
            for episode in file:
                zeros(file[episode], ("rewards", "terminations", "truncations"), 20_000_000, True)

        edited(change, place / "data" / "main_data.hdf5")

    yield "minari-hdf5: zeros of all episodes", all_of_all


# --- Arrow and Parquet --------------------------------------------------------------------------------------------
def columns(storage: str) -> Iterator[tuple[str, Change]]:
    import pyarrow as pa

    def flat(rows: int) -> Any:
        return pa.table({name: np.zeros(rows) for name in ("rewards", "terminations", "truncations")})

    def lists(rows: int, each: int) -> Any:
        offsets = np.arange(rows + 1, dtype=np.int32) * each
        column = pa.ListArray.from_arrays(offsets, np.zeros(rows * each))
        return pa.table({"observations": column, "actions": column, **{n: np.zeros(rows) for n in FLAGS}})

    def fixed(rows: int, each: int) -> Any:
        column = pa.FixedSizeListArray.from_arrays(np.zeros(rows * each), each)
        return pa.table({"observations": column, "actions": column, **{n: np.zeros(rows) for n in FLAGS}})

    def words(rows: int) -> Any:
        column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array(["x" * 1_000_000]))
        return pa.table({"observations": column, **{n: np.zeros(rows) for n in FLAGS}})

    tables: dict[str, Callable[[], Any]] = {
        "30 million zeros": lambda: flat(30_000_000),
        "lists of many zeros": lambda: lists(10, 5_000_000),
        "lists of one length": lambda: fixed(10, 5_000_000),
        "a row of everything": lambda: lists(1, 60_000_000),
        "the same word often": lambda: words(100_000),
    }
    for what, make in tables.items():
        for packing in ("zstd", "lz4"):

            def change(place: Path, make: Callable[[], Any] = make, packing: str = packing, only: bool = True) -> None:
                for episode in sorted((place / "data").iterdir())[:1]:
                    if episode.is_dir():
                        put(episode, make(), storage, packing)

            yield f"minari-{storage}: {what}, {packing}", change

    def each(place: Path) -> None:
        for episode in (place / "data").iterdir():
            if episode.is_dir():
                put(episode, flat(4_000_000), storage, "zstd")
        for number in range(3, 30):
            shutil.copytree(place / "data" / "0", place / "data" / str(number), dirs_exist_ok=True)

    yield f"minari-{storage}: each episode a little", each


FLAGS = ("rewards", "terminations", "truncations")


def put(episode: Path, table: Any, storage: str, packing: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    for file in episode.iterdir():
        file.unlink()
    if storage == "parquet":
        parquet.write_table(table, episode / "0.parquet", compression=packing)
        return
    options = pa.ipc.IpcWriteOptions(compression=packing)
    with pa.OSFile(str(episode / "0.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema, options=options) as out:
        out.write_table(table)


# --- Vaults, npz, bent bytes --------------------------------------------------------------------------------------
def vaults() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    def zeros_of(steps: int, folder: Path) -> Path:
        arrays = vault_arrays(Team())
        repeated = {name: np.zeros((steps, *value.shape[1:]), value.dtype) for name, value in arrays.items()}
        return write_vault(folder / "x.vlt" / "a", repeated, None, steps)

    for steps in (300_000, 1_000_000):
        yield f"vault: {steps:,} steps of zeros", partial(zeros_of, steps)


def npz(folder: Path) -> Path:
    episodes, time = 100, 20_000
    arrays = {
        "obs": np.zeros((episodes, time, 2, 1), np.int8),
        "actions": np.zeros((episodes, time, 2, 1), np.int8),
        "reward": np.zeros((episodes, time, 1), np.int8),
        "terminated": np.zeros((episodes, time, 1), np.int8),
        "filled": np.ones((episodes, time, 1), np.int8),
    }
    np.savez_compressed(folder / "x.npz", **arrays)
    return folder / "x.npz"


def bent(place: Path, draw: random.Random) -> None:
    """Change some bytes of one file, of headers more often than of what lies between."""
    files = [file for file in sorted(place.rglob("*")) if file.is_file()] if place.is_dir() else [place]
    file = draw.choice(files)
    content = bytearray(file.read_bytes())
    for _ in range(draw.randrange(1, 9)):
        if not content:
            break
        near = draw.choice([0, max(0, len(content) - 400), draw.randrange(len(content))])
        at = min(len(content) - 1, near + draw.randrange(400))
        content[at] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
    file.write_bytes(content[: draw.randrange(len(content) + 1)] if draw.random() < 0.1 else content)


def attacks(count: int, seed: int = 22) -> Iterator[Attack]:
    """Every bomb, and so many bent files in all storages."""
    changes = {
        "d4rl": hdf5("d4rl"),
        "omiga": hdf5("omiga"),
        "minari-hdf5": minari_hdf5(),
        "minari-arrow": columns("arrow"),
        "minari-parquet": columns("parquet"),
    }
    for kind, made in changes.items():
        for name, change in made:
            yield _attack("columns that are not there", name, partial(_changed, kind, change))
    for name, make in vaults():
        yield _attack("columns that are not there", name, make)
    yield _attack("columns that are not there", "pymarl: zeros", npz)
    draw = random.Random(seed)
    kinds = [kind for kind in good() if kind != "zip"]
    for number in range(count):
        kind, lot = kinds[number % len(kinds)], random.Random(draw.random())
        yield _attack(f"bent bytes of {kind}", f"{seed}.{number}", partial(_changed, kind, partial(bent, draw=lot)))


def _changed(kind: str, change: Change, folder: Path) -> Path:
    place = copied(good()[kind], folder)
    change(place)
    return place


def _attack(kind: str, name: str, make: Callable[[Path], Path]) -> Attack:
    def words(folder: Path) -> list[str]:
        return ["data", "info", make(folder).relative_to(folder).as_posix().removesuffix("/a")]

    return Attack(kind, name, words, may_pass=True, seconds=60.0)
