"""Sound sets in every format, and how they are broken: arrays of HDF5 files, Vaults, Minari's metadata."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from foreign import Team, omar_arrays, omiga_arrays, vault_arrays, write_hdf5, write_omar, write_vault, zipped
from hostile_bytes import Calls
from worlds import reacher_recording, world

from offline_marl.datasets.writers import d4rl as d4rl_writer
from offline_marl.datasets.writers import minari as minari_writer

Make = Callable[[Path], Path]
"""Makes a place in an empty folder."""
TEAM = Team()


def sound(folder: Path) -> dict[str, Path]:
    """One good set in each format."""
    d4rl_writer.write(folder / "d4rl" / "x.hdf5", reacher_recording())
    for storage in ("hdf5", "arrow", "parquet"):
        minari_writer.write(folder / f"minari-{storage}" / "x-v0", replace(world("discrete", 3), metadata={}), storage)
    write_vault(folder / "vault" / "x.vlt" / "a", vault_arrays(TEAM), small=True)
    (folder / "omiga").mkdir()
    (folder / "zip").mkdir()
    return {
        "d4rl": folder / "d4rl" / "x.hdf5",
        "omiga": write_hdf5(folder / "omiga" / "x.hdf5", omiga_arrays(TEAM)),
        "omar": write_omar(folder / "omar" / "x", omar_arrays(TEAM, states=True)),
        "vault": folder / "vault" / "x.vlt",
        "zip": zipped(folder / "vault" / "x.vlt", folder / "zip" / "x.zip"),
        **{f"minari-{name}": folder / f"minari-{name}" / "x-v0" for name in ("hdf5", "arrow", "parquet")},
    }


def copied(place: Path, folder: Path) -> Path:
    """A copy of a sound set, to be changed."""
    kept = folder / place.name
    if place.is_dir():
        shutil.copytree(place, kept)
    else:
        shutil.copy(place, kept)
    return kept


# --- HDF5 ----------------------------------------------------------------------------------------------------------
def edited(change: Callable[[Any], None], place: Path) -> None:
    with h5py.File(place, "a") as file:
        change(file)


def put(name: str, value: Any, group: Any) -> None:
    if name in group:
        del group[name]
    group[name] = value


def drop(name: str, group: Any) -> None:
    del group[name]


def virtual(name: str, group: Any) -> None:
    shape = group[name].shape
    del group[name]
    layout = h5py.VirtualLayout(shape=shape, dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", shape=shape)
    group.create_virtual_dataset(name, layout)


def external(name: str, group: Any) -> None:
    shape = group[name].shape
    del group[name]
    group.create_dataset(name, shape, "u1", external=[("/etc/hostname", 0, int(np.prod(shape)))])


def bomb(name: str, group: Any) -> None:
    shape = group[name].shape
    del group[name]
    group.create_dataset(name, (1 << 44, *shape[1:]), "f4", chunks=(64, *shape[1:]), compression="gzip")


def stored_bomb(name: str, group: Any) -> None:
    """Zeros that were really compressed, as far as gzip goes, and many more that never were."""
    shape = group[name].shape
    del group[name]
    made = group.create_dataset(name, (1 << 40, *shape[1:]), "f4", chunks=(4096, *shape[1:]), compression="gzip")
    made[:4096] = np.zeros((4096, *shape[1:]), np.float32)


def odd(name: str) -> dict[str, Callable[[Any], None]]:
    """What can be wrong with one array of a file."""
    return {
        "missing": partial(drop, name),
        "soft link": partial(put, name, h5py.SoftLink("/nowhere")),
        "external link": partial(put, name, h5py.ExternalLink("/etc/passwd", "x")),
        "itself": partial(put, name, h5py.SoftLink(f"/{name}")),
        "virtual": partial(virtual, name),
        "external file": partial(external, name),
        "bomb": partial(bomb, name),
        "stored bomb": partial(stored_bomb, name),
        "a group": lambda group: (drop(name, group), group.create_group(name))[0],
        "words": partial(put, name, ["a", "b"]),
        "one number": partial(put, name, 3.0),
        "no rows": partial(put, name, np.zeros((0, 2, 2))),
        "compound": partial(put, name, np.zeros(18, [("x", "f4")])),
        "ragged": lambda group: (drop(name, group), group.create_dataset(name, 18, h5py.vlen_dtype(np.float32)))[0],
        "one row less": lambda group: put(name, group[name][:-1], group),
        "not finite": lambda group: put(name, np.full(group[name].shape, np.nan, np.float32), group),
    }


# --- Vaults --------------------------------------------------------------------------------------------------------
def vault(index: Any = None, longest: int = 10**13, **changes: Any) -> Make:
    def make(folder: Path) -> Path:
        arrays = {name: value for name, value in {**vault_arrays(TEAM), **changes}.items() if value is not None}
        return write_vault(folder / "x.vlt" / "a", arrays, index, longest, small=True)

    return make


def with_file(name: str, content: bytes | None) -> Make:
    """A Vault of which one file is another, or is gone."""

    def make(folder: Path) -> Path:
        place = vault()(folder)
        (place / name).unlink()
        if content is not None:
            (place / name).write_bytes(content)
        return place

    return make


def claiming(**changes: Any) -> Make:
    """A Vault whose observations say something else of themselves."""

    def make(folder: Path) -> Path:
        import tensorstore

        place = vault()(folder)
        store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{place}"}).result()
        told = json.loads(store.read("observations./.zarray").result().value)
        store.write("observations./.zarray", json.dumps({**told, **changes}).encode()).result()
        return place

    return make


def without_data(folder: Path) -> Path:
    place = vault()(folder)
    largest = max((place / "d").iterdir(), key=lambda each: each.stat().st_size)
    largest.unlink()
    return place


def of_shape(name: str, *shape: int, dtype: Any = np.float32, fill: float = 0) -> Make:
    return vault(**{f"{name}.": np.full((18, *shape), fill, dtype)})


VAULT: dict[str, Make] = {
    **{f"without {name}": vault(**{f"{name}.": None}) for name in ("observations", "actions", "rewards", "terminals")},
    "an index beyond the time": vault(index=19, longest=18),
    "an index far beyond": vault(index=2**31 - 1, longest=18),
    "an index of what was not written": vault(index=2**31 - 1),
    "an index of some more chunks": vault(index=2_000_000),
    "a negative index": vault(index=-1),
    "an index of 0": vault(index=0),
    "two indices": vault(index=[3, 4]),
    "no step": vault(**{name: value[:0] for name, value in vault_arrays(TEAM).items()}),
    "chunks of terabytes": claiming(chunks=[1, 1 << 40, 2, 4]),
    "chunks of gigabytes": claiming(chunks=[1, 1 << 28, 2, 4]),
    "chunks of nothing": claiming(chunks=[1, 0, 2, 4]),
    "chunks of too few axes": claiming(chunks=[1, 64]),
    "chunks that are none": claiming(chunks="many"),
    "a shape of too many axes": claiming(shape=[1, 18, 2, 4, 1], chunks=[1, 18, 2, 4, 1]),
    "a shape of quintillions": claiming(shape=[1, 18, 1 << 61, 4]),
    "a negative shape": claiming(shape=[1, -18, 2, 4]),
    "two batches": claiming(shape=[2, 18, 2, 4]),
    "objects": claiming(dtype="|O"),
    "structures": claiming(dtype=[["x", "<f4"]]),
    "filters": claiming(filters=[{"id": "pickle"}]),
    "another compression": claiming(compressor={"id": "blosc"}),
    "no known compression": claiming(compressor={"id": "../x"}),
    "observations of no agents": of_shape("observations", 4),
    "actions of another number of agents": of_shape("actions", 3, 2),
    "actions without width": of_shape("actions", 2),
    "choices with width": of_shape("actions", 2, 2, dtype=np.int32),
    "negative choices": of_shape("actions", 2, dtype=np.int32, fill=-1),
    "rewards of another number of agents": of_shape("rewards", 3),
    "rewards of many axes": of_shape("rewards", 2, 2),
    "terminals between": of_shape("terminals", 2, fill=0.5),
    "terminals that are no numbers": of_shape("terminals", 2, fill=np.nan),
    "observations that are no numbers": of_shape("observations", 2, 4, fill=np.nan),
    "rewards without end": of_shape("rewards", 2, fill=np.inf),
    "actions out of bounds": of_shape("actions", 2, 2, fill=2),
    "complex observations": of_shape("observations", 2, 4, dtype=np.complex64),
    "no manifest": with_file("manifest.ocdbt", None),
    "an empty manifest": with_file("manifest.ocdbt", b""),
    "another manifest": with_file("manifest.ocdbt", b"x" * 999),
    "no metadata": with_file("metadata.json", None),
    "metadata that are none": with_file("metadata.json", b"{"),
    "metadata of another kind": with_file("metadata.json", b"[1]"),
    "nested metadata": with_file("metadata.json", b"[" * 100_000),
    "bytes as metadata": with_file("metadata.json", b"\xff\xfe" * 9),
    "data that are gone": without_data,
    "no uid": lambda folder: (folder / "x.vlt").mkdir() or folder / "x.vlt",
}  # fmt: skip


# --- Minari --------------------------------------------------------------------------------------------------------
def told(place: Path, **changes: Any) -> Path:
    """The set with other metadata; None takes a key away."""
    about = place / "data" / "metadata.json"
    text = {**json.loads(about.read_text()), **changes}
    about.write_text(json.dumps({key: value for key, value in text.items() if value is not None}))
    return place


BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1, -1], "high": [1, 1]}
ABOUT: dict[str, dict[str, Any]] = {
    "another storage": {"data_format": "../../etc"},
    "a storage of many words": {"data_format": {"a": ["b\n"]}},
    "an action space of other agents": {"action_space": json.dumps({"type": "Dict", "subspaces": {"x": BOX}})},
    "an action space of too few": {"action_space": json.dumps({"type": "Tuple", "subspaces": [BOX]})},
    "an action space that is none": {"action_space": "{"},
    "a nested action space": {"action_space": "[" * 100_000},
    "an action space of a list": {"action_space": [1]},
    "continuous actions that are choices": {
        "action_space": json.dumps({"type": "Tuple", "subspaces": [BOX] * 3}),
    },
    "choices without end": {
        "action_space": json.dumps({"type": "Tuple", "subspaces": [{"type": "Discrete", "n": 1 << 62}] * 3}),
    },
    "no choices": {"action_space": json.dumps({"type": "Tuple", "subspaces": [{"type": "Discrete", "n": 0}] * 3})},
    "too few choices": {
        "action_space": json.dumps({"type": "Tuple", "subspaces": [{"type": "Discrete", "n": 1, "start": 0}] * 3}),
    },
    "pictures": {"observation_space": json.dumps({"type": "Box", "dtype": "uint8", "shape": [9, 9, 3]})},
    "metadata of ours that are none": {"offline_marl": "{"},
    "metadata of ours of another kind": {"offline_marl": "[]"},
    "a scenario that is no word": {"offline_marl": '{"scenario": {"a": 1}}'},
    "a reference of another kind": {"offline_marl": '{"reference": {"random": "a", "expert": 1}}'},
    "a reference with more": {"offline_marl": '{"reference": {"random": 0, "expert": 1, "x": 2}}'},
}


# --- Minari's arrow ------------------------------------------------------------------------------------------------
def rewritten(change: Callable[[Any], Any], place: Path) -> None:
    """Episode 1 of a set, as another table."""
    import pyarrow

    (file,) = (place / "data" / "1").glob("*.arrow")
    table = change(pyarrow.ipc.open_file(io.BytesIO(file.read_bytes())).read_all())
    with pyarrow.OSFile(str(file), "wb") as stream, pyarrow.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)


def column(name: str, make: Callable[[int], Any], table: Any) -> Any:
    import pyarrow

    return table.set_column(table.column_names.index(name), name, pyarrow.array(make(len(table))))


def calling(table: Any) -> Any:
    """A column of a type whose name asks for a pickle to be loaded."""
    import pyarrow

    at = table.column_names.index("rewards")
    told = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Calls())}
    return table.set_column(at, pyarrow.field("rewards", table["rewards"].type, metadata=told), table["rewards"])


ARROW: dict[str, Callable[[Any], Any]] = {
    **{f"no {name}": lambda table, name=name: table.drop([name]) for name in ("observations", "actions", "rewards")},
    "no infos": lambda table: table.drop(["infos"]),
    "no rows": lambda table: table.slice(0, 0),
    "one row": lambda table: table.slice(0, 1),
    "rewards that are missing": partial(column, "rewards", lambda rows: [None] * rows),
    "rewards that are words": partial(column, "rewards", lambda rows: ["a"] * rows),
    "rewards of several numbers": partial(column, "rewards", lambda rows: [[1.0, 2.0]] * rows),
    "ragged rewards": partial(column, "rewards", lambda rows: [[1.0] * (i % 3) for i in range(rows)]),
    "rewards that are dates": partial(column, "rewards", lambda rows: np.zeros(rows, "M8[s]")),
    "ends between": partial(column, "terminations", lambda rows: [0.5] * rows),
    "observations of no agent": partial(column, "observations", lambda rows: [1.0] * rows),
    "actions of another kind": partial(column, "actions", lambda rows: [{"agent_0": 0.5}] * rows),
    "infos of another shape": partial(column, "infos", lambda rows: [{"rewards": [1.0], "state": [2.0]}] * rows),
}
