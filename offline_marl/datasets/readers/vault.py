"""OG-MARL's Vaults: zarr arrays over OCDBT as flashbax writes them, read with tensorstore alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.types import DataError, Spec
from offline_marl.datasets.readers.base import Content, Reader, readers
from offline_marl.datasets.readers.steps import Steps, Table, parts
from offline_marl.datasets.readers.storage.claims import LEAST_ROW, Ledger
from offline_marl.datasets.readers.storage.hdf5 import MOST_COMPRESSED
from offline_marl.datasets.readers.storage.padding import cut_padding, cut_state_padding
from offline_marl.datasets.readers.storage.tables import Lazy

SUFFIX = ".vlt"
MANIFEST = "manifest.ocdbt"
MOST_CHUNK = 1 << 28
"""Bytes of one chunk, which is read as a whole; flashbax makes chunks of a few million."""
CACHE = 1 << 26
MOST_ABOUT = 1 << 20
"""Bytes of metadata.json."""
SEEN, STATE, LEGALS = "observations", ("infos.state", "infos.env_state"), ("infos.legals", "infos.legal_actions")


def uid_of(path: Path) -> Path:
    """The folder of the one uid that a path names.

    Raises:
        DataError: The Vault holds several, or none; the sentence lists them.
    """
    if _is_uid(path):
        return path
    uids = uids_of(path)
    if not uids:
        raise DataError(f"{path} is no Vault: no folder in it holds {MANIFEST}.")
    if len(uids) > 1:
        raise DataError(f"{path} holds {len(uids)} sets ({', '.join(uids)}): name one, such as {path}/{uids[0]}.")
    return path / uids[0]


def uids_of(path: Path) -> list[str]:
    """Names of the sets in a Vault."""
    return sorted(folder.name for folder in path.iterdir() if _is_uid(folder)) if path.is_dir() else []


def refuse_absent(path: Path) -> None:
    """A set of a Vault that is not there is told with those that are.

    Raises:
        DataError: The path names one.
    """
    if path.parent.suffix == SUFFIX and path.parent.is_dir() and not path.exists():
        raise DataError(f"{path.parent} holds no '{path.name}'; it holds {', '.join(uids_of(path.parent)) or 'none'}.")


@readers.register("vault")
class Vault(Reader):
    """OG-MARL's Vaults: a team's steps as zarr arrays over OCDBT."""

    def recognises(self, path: Path) -> bool:
        """Whether a folder is called a Vault, or is one set of a Vault."""
        return path.is_dir() and (path.suffix == SUFFIX or _is_uid(path))

    @contextmanager
    def open(self, path: Path) -> Iterator[Content]:
        """Steps and metadata of a Vault that holds one uid, or of a uid's folder.

        Raises:
            DataError: tensorstore is missing, the Vault is damaged, lacks an array, or its arrays do not fit together.
        """
        folder = uid_of(path)
        try:
            import tensorstore
        except ImportError:
            raise DataError(f"Reading {folder} needs tensorstore: pip install 'offline-marl[vault]'.") from None
        # A chunk is seldom read at once, and all arrays share what is kept of them.
        context = tensorstore.Context({"cache_pool": {"total_bytes_limit": CACHE}})
        size = _size(folder)
        leaves = _Leaves(tensorstore, context, folder, size, Ledger(str(folder), size))
        yield _steps(leaves), _about(folder)


@dataclass(frozen=True)
class _Leaves:
    """The arrays of one uid, by name, without their first axis."""

    tensorstore: Any
    context: Any
    folder: Path
    size: int
    ledger: Ledger

    def read(self, start: Callable[[], Any]) -> Any:
        """The result of what tensorstore is asked for.

        Raises:
            DataError: It cannot be had: the Vault is damaged.
        """
        try:
            return start().result()
        except (ValueError, LookupError, OSError, RuntimeError, TypeError, OverflowError, MemoryError) as error:
            raise DataError(f"{self.folder} is damaged: {_line(error)}.") from None

    def store(self) -> Any:
        """Keys and bytes of all arrays."""
        return self.read(lambda: self.tensorstore.KvStore.open({"driver": "ocdbt", "base": self._base}))

    def names(self) -> set[str]:
        """Names of all arrays, without the dots at their ends."""
        kept = {key.decode("utf-8", "replace") for key in self.read(self.store().list)}
        return {key.removesuffix("/.zarray").rstrip(".") for key in kept if key.endswith("/.zarray")}

    def array(self, name: str) -> Any:
        """One array with all its axes; nothing of it is read yet."""
        self._refuse_claims(name)
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "ocdbt", "base": self._base, "path": name},
        }
        return self.read(lambda: self.tensorstore.open(spec, open=True, read=True, context=self.context))

    @property
    def _base(self) -> dict[str, str]:
        return {"driver": "file", "path": f"{self.folder.absolute()}/"}

    def _refuse_claims(self, name: str) -> None:
        """Look at what an array says of itself before tensorstore does, which makes room for what is claimed."""
        text = self.read(lambda: self.store().read(f"{name}/.zarray")).value
        try:
            header = json.loads(text)
            kind = np.dtype(header["dtype"])
            sizes = [*header["shape"], *header["chunks"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise DataError(f"{self.folder}: '{name}' is damaged, or is missing.") from None
        if kind.kind not in "biuf" or kind.shape or header.get("filters"):
            raise DataError(f"{self.folder}: '{name}' is not a plain array of numbers.")
        if any(type(size) is not int or not 0 <= size < 1 << 62 for size in sizes) or not all(header["chunks"]):
            raise DataError(f"{self.folder}: '{name}' claims a shape that cannot be.")
        chunk = math.prod(header["chunks"]) * kind.itemsize
        if chunk > min(MOST_CHUNK, max(CACHE, MOST_COMPRESSED * self.size)):
            raise DataError(f"{self.folder}: '{name}' claims {chunk:,} bytes a chunk, of {self.size:,} stored in all.")

    def index(self) -> int:
        """Steps that were written."""
        array = self.array("vault_index")
        if array.shape != (1,):
            raise DataError(f"{self.folder}: 'vault_index' has shape {array.shape}, it should be one number.")
        return int(self.read(array.read)[0])

    def table(self, name: str, steps: int, convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Lazy:
        """The rows of the array `name.` that were written."""
        array = self.array(f"{name}.")
        shape = tuple(array.shape)
        if len(shape) < 2 or shape[0] != 1 or not 0 < steps <= shape[1]:
            raise DataError(
                f"{self.folder}: '{name}' has shape {shape}, it should be (1, time, ...) with the {steps:,} steps of "
                "'vault_index'."
            )
        width = int(np.prod([float(n) for n in shape[2:]]))
        claimed = steps * width * array.dtype.numpy_dtype.itemsize
        if claimed > MOST_COMPRESSED * self.size:
            raise DataError(
                f"{self.folder}: 'vault_index' claims {steps:,} steps and '{name}' {width:,} numbers each, but only "
                f"{self.size:,} bytes are stored."
            )
        self.ledger.charge(name, max(claimed, LEAST_ROW * steps))
        return Lazy((steps, *shape[2:]), lambda first, last: convert(self.read(array[0, first:last].read)))


def _steps(leaves: _Leaves) -> Steps:
    stored = leaves.names()
    missing = sorted({SEEN, "actions", "rewards", "terminals", "vault_index"} - stored)
    if missing:
        raise DataError(f"{leaves.folder} lacks {', '.join(missing)}; it holds {', '.join(sorted(stored)[:20])}.")
    steps = leaves.index()
    if steps < 1:
        raise DataError(f"{leaves.folder} holds no step: 'vault_index' is {steps}.")
    obs = leaves.table(SEEN, steps, _float)
    if len(obs.shape) != 3:
        raise DataError(
            f"{leaves.folder}: '{SEEN}' should be (1, time, agent, width), it is (1, time, {obs.shape[1:]})."
        )
    written = leaves.array(f"{SEEN}.")[0, :steps]
    if leaves.read(lambda: written.storage_statistics(query_fully_stored=True)).fully_stored is False:
        raise DataError(f"{leaves.folder} is damaged: parts of '{SEEN}' are missing.")
    agents = obs.shape[1]
    state, legals = (next((name for name in names if name in stored), None) for names in (STATE, LEGALS))
    allowed = None if legals is None else leaves.table(legals, steps, _bool)
    actions, act_dims = _actions(leaves, steps, agents, allowed)
    kept = None if state is None else cut_state_padding(_flat(leaves.table(state, steps, _float)))
    # OG-MARL's tag and world fill up with minus infinity what an agent does not see.
    seen, obs_dims = cut_padding(obs)
    kind: Any = "continuous" if len(actions.shape) == 3 else "discrete"
    if kind == "discrete" and allowed is not None and allowed.shape[1:] != (agents, act_dims[0]):
        raise DataError(f"{leaves.folder}: '{legals}' has axes {allowed.shape[1:]}, actions {(agents, act_dims[0])}.")
    return Steps(
        obs=seen,
        actions=actions,
        rewards=_column(leaves, "rewards", steps, agents, _float),
        terminations=_column(leaves, "terminals", steps, agents, _flags),
        truncations=_column(leaves, "truncations", steps, agents, _flags)
        if "truncations" in stored
        else np.zeros((steps, agents), np.bool_),
        state=kept,
        avail_actions=allowed if kind == "discrete" else None,
        spec=Spec(obs_dims, act_dims, 0 if kept is None else kept.shape[1], kind),
    )


def _actions(leaves: _Leaves, steps: int, agents: int, allowed: Lazy | None) -> tuple[Table, tuple[int, ...]]:
    whole = np.dtype(leaves.array("actions.").dtype.numpy_dtype).kind in "iu"
    table = leaves.table("actions", steps, _int if whole else _float)
    if whole and len(table.shape) == 3 and table.shape[2] == 1:
        read = table.read
        table = Lazy(table.shape[:2], lambda first, last: read(first, last)[..., 0])
    if len(table.shape) != (2 if whole else 3) or table.shape[1] != agents:
        wanted = f"(1, time, {agents})" if whole else f"(1, time, {agents}, width)"
        raise DataError(f"{leaves.folder}: 'actions' should be {wanted}, it is (1, time, {table.shape[1:]}).")
    if not whole:
        return cut_padding(table)
    count = allowed.shape[-1] if allowed is not None else 1 + max(int(table[rows].max()) for rows in parts(table))
    return table, (max(count, 1),) * agents


def _column(leaves: _Leaves, name: str, steps: int, agents: int, convert: Callable[..., Any]) -> npt.NDArray[Any]:
    """One number a step and agent; one for the team is repeated."""
    table = leaves.table(name, steps, convert)
    if table.shape[1:] not in {(agents,), (agents, 1), (1,), ()}:
        raise DataError(f"{leaves.folder}: '{name}' should be (1, time, {agents}), it is (1, time, {table.shape[1:]}).")
    try:
        values = np.concatenate([table[rows].reshape(rows.stop - rows.start, -1) for rows in parts(table)])
    except _NoFlagError:
        raise DataError(f"{leaves.folder}: '{name}' should hold true and false, or 1 and 0.") from None
    return np.array(np.broadcast_to(values, (steps, agents)))


class _NoFlagError(Exception):
    """A number that is neither 0 nor 1."""


def _float(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return values.astype(np.float32, copy=False)


def _int(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return values.astype(np.int64, copy=False)


def _bool(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return values.astype(np.bool_, copy=False)


def _flags(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if values.dtype.kind != "b" and not np.isin(values, (0, 1)).all():
        raise _NoFlagError
    return values.astype(np.bool_, copy=False)


def _flat(table: Lazy) -> Lazy:
    read, width = table.read, int(np.prod(table.shape[1:]))
    return Lazy((table.shape[0], width), lambda first, last: read(first, last).reshape(last - first, width))


def _about(folder: Path) -> dict[str, Any]:
    file = folder / "metadata.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.stat().st_size <= MOST_ABOUT else None
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{file} cannot be read: it should be what flashbax says of the Vault.")
    vault = folder.parent.name.removesuffix(SUFFIX)
    metadata = {
        "format": "vault",
        "name": f"{vault}/{folder.name}",
        "vault_version": str(content.get("version", ""))[:40],
        "episodes_end": "terminals, truncations",
    }
    words = {name: value for name, value in content.items() if type(value) in {str, int, float, bool}}
    return {**metadata, "vault": {str(name)[:100]: _short(value) for name, value in words.items()}}


def _is_uid(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


def _short(value: Any) -> Any:
    return value[:1000] if isinstance(value, str) else value
