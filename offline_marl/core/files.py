"""Files that are whole or absent: written beside their place, flushed to the disk, renamed.

Tensors and plain values travel as safetensors with a JSON header and a checksum: nothing that is read
can execute code, and a damaged file is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from offline_marl.core.errors import BadInputError

TENSOR = "__tensor__"
HEADER = "offline_marl"


class DamagedFileError(BadInputError, ValueError):
    """A file that is truncated, changed or of another kind; the message is one sentence."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, flush, rename; on any failure the old file stays and nothing is left over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_tree(path: Path, tree: Mapping[str, Any], kind: str) -> str:
    """Save nested dicts and lists of tensors and plain JSON values.

    Dict keys may be strings or ints; they come back as they were.

    Returns:
        The checksum that is kept in the file.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_detach(tree, tensors))
    checksum = _checksum(tensors, skeleton)
    # One entry, because safetensors does not keep the order of several: equal content makes equal files.
    header = json.dumps({"kind": kind, "tree": skeleton, "sha256": checksum})
    write_atomically(path, save(tensors, metadata={HEADER: header}))
    return checksum


def load_tree(path: Path, kind: str) -> tuple[dict[str, Any], str]:
    """What `save_tree` saved, and its checksum.

    Raises:
        DamagedFileError: The file is truncated, changed, or not of this kind.
        FileNotFoundError: There is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as opened:
            header = json.loads((opened.metadata() or {}).get(HEADER, "{}"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedFileError(f"{path} cannot be read as a {kind}: {error}.") from None
    if header.get("kind") != kind:
        raise DamagedFileError(f"{path} is not a {kind} of this library.")
    if _checksum(tensors, header.get("tree", "")) != header.get("sha256"):
        raise DamagedFileError(f"{path} is damaged: its content does not match its checksum.")
    return _attach(json.loads(header["tree"]), tensors), header["sha256"]


def _detach(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        name = f"{len(tensors):05d}"
        tensors[name] = node.detach().cpu().contiguous().clone()
        return {TENSOR: name}
    if isinstance(node, Mapping):
        odd = next((key for key in node if not isinstance(key, str | int)), None)
        if odd is not None:
            raise TypeError(f"Only strings and ints can be keys, not {type(odd).__name__}.")
        return {"__dict__": [[key, _detach(value, tensors)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return [_detach(value, tensors) for value in node]
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"Only tensors and plain values can be saved, not {type(node).__name__}.")


def _attach(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_attach(value, tensors) for value in node]
    if isinstance(node, dict):
        if TENSOR in node:
            return tensors[node[TENSOR]]
        return {key: _attach(value, tensors) for key, value in node["__dict__"]}
    return node


def _checksum(tensors: Mapping[str, Tensor], skeleton: str) -> str:
    digest = hashlib.sha256(skeleton.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
