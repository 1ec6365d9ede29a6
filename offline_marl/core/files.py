"""Files that are whole or absent: written beside their place, flushed to the disk, renamed.

Tensors and plain values travel as safetensors with a JSON header and a checksum: nothing that is read
can execute code, and a damaged file is noticed.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import mmap
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from offline_marl.core.config import ConfigError
from offline_marl.core.errors import BadInputError
from offline_marl.core.locks import refuse_special
from offline_marl.core.parts import part_of
from offline_marl.core.small_files import parse, shown

PIECE = 1 << 24
"""Bytes written at once."""
MOST_NESTED = 300
"""Containers within one another in the text of a tree, in which each dict takes three."""
TENSOR = "__tensor__"
HEADER = "offline_marl"
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of what is stored, as safetensors spells them."""


class DamagedFileError(BadInputError, ValueError):
    """A file that is truncated, changed or of another kind; the message is one sentence."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, flush, rename; on any failure the old file stays and nothing is left over."""
    with writing(path) as stream:
        stream.write(content)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A stream into a file beside `path`, which takes that place when all went well, and else is gone.

    Who may read it is what the process's umask says.

    Raises:
        LinkError: There is a pipe, a socket or a device at that place, which a rename would do away with.
    """
    refuse_special(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part_of(path) as (handle, part):
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, path)
    except OSError as error:
        if error.errno and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    _flush(path.parent)


def put_in_place(part: Path, path: Path) -> None:
    """Rename a file that is whole on the disk to its place beside it, where it is after a power cut, too."""
    part.replace(path)
    _flush(path.parent)


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Streamed:
    """A tensor that is written piece by piece, because it may be larger than memory."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Tensor]]
    """Its rows in order, in pieces of any length."""


Leaf = Tensor | Streamed


def save_tree(path: Path, tree: Mapping[str, Any], kind: str, tick: Callable[[int], object] | None = None) -> str:
    """Save nested dicts and lists of tensors and plain JSON values.

    Dict keys may be strings or ints; they come back as they were. A `Streamed` comes back as a tensor.

    Args:
        path: The file.
        tree: What is saved.
        kind: What `load_tree` will be asked for.
        tick: Told the bytes of each piece that was written.

    Returns:
        The checksum that is kept in the file.
    """
    leaves: dict[str, Leaf] = {}
    skeleton = json.dumps(_detach(tree, leaves))
    digest = hashlib.sha256(skeleton.encode())
    # The checksum is known last and has always the same length, so that its place can be kept free.
    places, head = _header(leaves, skeleton, kind, "0" * 64)
    with writing(path) as stream:
        stream.write(head)
        for name in sorted(leaves):
            leaf, (start, stop) = leaves[name], places[name]
            digest.update(f"{name} {leaf.dtype} {tuple(leaf.shape)}".encode())
            stream.seek(len(head) + start)
            for piece in _pieces(leaf):
                digest.update(piece)
                stream.write(piece)
                if tick is not None:
                    tick(len(piece))
            if stream.tell() != len(head) + stop:
                raise ValueError(f"Tensor {name} is not of the size it was said to have.")
        stream.seek(0)
        stream.write(_header(leaves, skeleton, kind, digest.hexdigest())[1])
    return digest.hexdigest()


def load_tree(path: Path, kind: str) -> tuple[dict[str, Any], str]:
    """What `save_tree` saved, and its checksum.

    Raises:
        DamagedFileError: The file is truncated, changed, or not of this kind.
        FileNotFoundError: There is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    header, tensors = _opened(path, kind, with_tensors=True)
    if checksum_of(tensors, header["tree"]) != header.get("sha256"):
        raise DamagedFileError(f"{path} is damaged: its content does not match its checksum.")
    try:
        tree = attached(parse(header["tree"], MOST_NESTED, finite=False), tensors)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{path} holds no readable tree of fields: {shown(str(error))}.") from None
    if not isinstance(tree, dict):
        raise DamagedFileError(f"{path} holds no readable tree of fields: it has no names.")
    return tree, header["sha256"]


def stated_checksum(path: Path, kind: str) -> str:
    """What the header of a file says its checksum is; its content is not read.

    Raises:
        DamagedFileError: The file is truncated, or not of this kind.
    """
    return str(_opened(path, kind, with_tensors=False)[0].get("sha256"))


def _opened(path: Path, kind: str, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header of a file, which is of this kind and holds the text of a tree, and the tensors."""
    try:
        with safe_open(path, framework="pt") as opened:
            header = parse((opened.metadata() or {}).get(HEADER, "{}"))
            names = opened.keys() if with_tensors else ()
            tensors = {name: opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise DamagedFileError(f"{path} cannot be read as a {kind}: {' '.join(str(error).split())}.") from None
    if not isinstance(header, dict) or header.get("kind") != kind or not isinstance(header.get("tree"), str):
        raise DamagedFileError(f"{path} is not a {kind} of this library.")
    return header, tensors


def expect_random_reads(tensor: Tensor) -> None:
    """Tell the system that rows of a mapped file will be read here and there, so that it reads no others ahead.

    Without this every row that is drawn costs 128 kB of disk. Where the system takes no such advice nothing happens.
    """
    advise = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
    storage = tensor.untyped_storage()
    if advise is not None and storage.nbytes():
        start = storage.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
        length = storage.data_ptr() + storage.nbytes() - start
        advise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_RANDOM)


def _header(
    leaves: Mapping[str, Leaf], skeleton: str, kind: str, checksum: str
) -> tuple[dict[str, tuple[int, int]], bytes]:
    """Where each tensor lies behind the header, and the header: safetensors' layout."""
    places, end = dict[str, tuple[int, int]](), 0
    # Wide numbers first keeps all of them aligned.
    for name in sorted(leaves, key=lambda name: (-leaves[name].dtype.itemsize, name)):
        size = math.prod(leaves[name].shape) * leaves[name].dtype.itemsize
        places[name], end = (end, end + size), end + size
    # One entry, because safetensors does not keep the order of several: equal content makes equal files.
    metadata = {HEADER: json.dumps({"kind": kind, "tree": skeleton, "sha256": checksum})}
    entries = {
        name: {"dtype": DTYPES[leaves[name].dtype], "shape": list(leaves[name].shape), "data_offsets": list(place)}
        for name, place in places.items()
    }
    head = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return places, len(head).to_bytes(8, "little") + head


def _pieces(leaf: Leaf) -> Iterator[memoryview]:
    for piece in _slices(leaf) if isinstance(leaf, Tensor) else leaf.pieces():
        if piece.dtype != leaf.dtype:
            raise TypeError(f"A piece holds {piece.dtype}, it should hold {leaf.dtype}.")
        if piece.numel():
            yield piece.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _slices(tensor: Tensor) -> Iterable[Tensor]:
    """The tensor in slices, because an expanded one takes more room as it is written than it has."""
    row = math.prod(tensor.shape[1:]) * tensor.dtype.itemsize
    return torch.split(tensor, max(1, PIECE // max(row, 1))) if tensor.dim() else (tensor,)


def _detach(node: Any, leaves: dict[str, Leaf]) -> Any:
    if isinstance(node, Tensor | Streamed):
        if node.dtype not in DTYPES:
            raise TypeError(f"Tensors of {node.dtype} cannot be saved.")
        name = f"{len(leaves):05d}"
        leaves[name] = node if isinstance(node, Streamed) else node.detach().cpu()
        return {TENSOR: name}
    if isinstance(node, Mapping):
        odd = next((key for key in node if not isinstance(key, str | int)), None)
        if odd is not None:
            raise TypeError(f"Only strings and ints can be keys, not {type(odd).__name__}.")
        return {"__dict__": [[key, _detach(value, leaves)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return [_detach(value, leaves) for value in node]
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"Only tensors and plain values can be saved, not {type(node).__name__}.")


def attached(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that a header describes, its tensors put in their places."""
    if isinstance(node, list):
        return [attached(value, tensors) for value in node]
    if isinstance(node, dict):
        if TENSOR in node:
            return tensors[node[TENSOR]]
        return {key: attached(value, tensors) for key, value in node["__dict__"]}
    return node


def checksum_of(tensors: Mapping[str, Tensor], skeleton: str) -> str:
    """Sha256 over the description of a tree and the bytes of its tensors, in the order of their names."""
    digest = hashlib.sha256(skeleton.encode("utf-8", "surrogatepass"))  # a header may hold half a pair
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def refuse_unwritable(folder: Path, what: str) -> None:
    """Make sure that files can be written into a folder, which need not be there yet and is not made.

    Args:
        folder: The folder.
        what: What named it, for the message: `--out`.

    Raises:
        ConfigError: It is a file, or neither it nor the nearest folder above it can be written to.
    """
    here = folder.absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    if not here.is_dir():
        raise ConfigError(f"{what} {folder} cannot be written to: {here} is a file.")
    try:
        with tempfile.TemporaryFile(dir=here):
            pass
    except OSError as error:
        raise ConfigError(f"{what} {folder} cannot be written to: {error.strerror or error}.") from None
