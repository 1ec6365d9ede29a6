"""Checksums of what stages make, by which later stages know their inputs.

They are of what a later stage reads. When a label was given, and how long a run took, is no part of them: a stage that
is made again and comes to the same changes nothing behind it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offline_marl.core.files import DamagedFileError
from offline_marl.preferences.label_store import NAME
from offline_marl.runs import checkpoint
from offline_marl.training.preferences.folders import ComparisonFolder

PIECE = 1 << 20


def content_of(path: Path) -> str:
    """Checksum of a file, of a run, of a folder of comparisons, or of all that is in another folder.

    Raises:
        OSError: It cannot be read.
    """
    if path.is_file():
        return _files(path.parent, [path])
    if (path / NAME).is_file():
        return _comparisons(path)
    if (path / "config.json").is_file():
        # Checkpoints are what a later stage loads; what the networks are is in the settings.
        parts = [path / "config.json", path / "reward.json"]
        kept = [_checkpoint(*known) for known in checkpoint.candidates(path / "checkpoints")]
        return _words([_files(path, [part for part in parts if part.is_file()]), *kept])
    return _files(path, sorted(file for file in path.rglob("*") if file.is_file()))


def _comparisons(path: Path) -> str:
    with ComparisonFolder(path) as folder:
        pairs = [repr(replace(pair, created="")) for pair in folder.store.pairs()]
        labels = [repr(replace(label, answered="")) for label in folder.store.labels()]
        judged = [repr(replace(one, answered="")) for one in folder.store.judgements()]
        # Where the data lay is said to people alone.
        facts = {name: value for name, value in folder.store.facts().items() if name != "task"}
    segments = _files(path, sorted(folder.segments.glob("*.safetensors")))
    return _words([*pairs, *labels, *judged, json.dumps(facts, sort_keys=True), segments])


def _checkpoint(file: Path, state: Mapping[str, Any] | DamagedFileError) -> str:
    """Checksum of a checkpoint but for its clock; of a damaged one, of the whole file."""
    if isinstance(state, DamagedFileError):
        return _files(file.parent, [file])
    return _tree({name: value for name, value in state.items() if name != "elapsed"})


def _tree(value: Any) -> str:
    if isinstance(value, Tensor):
        data = value.contiguous().reshape(-1).view(torch.uint8).numpy().data
        return _words([str(value.dtype), str(tuple(value.shape)), hashlib.sha256(data).hexdigest()])
    if isinstance(value, Mapping):
        return _words([f"{name} {_tree(part)}" for name, part in sorted(value.items())])
    return _words([_tree(part) for part in value]) if isinstance(value, list | tuple) else repr(value)


def _words(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _files(folder: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        # A single file is known by its content alone, so that it may be renamed.
        digest.update(str(file.relative_to(folder)).encode() if file.parent != folder else b"")
        with file.open("rb") as stream:
            while piece := stream.read(PIECE):
                digest.update(piece)
        digest.update(b"\0")
    return digest.hexdigest()
