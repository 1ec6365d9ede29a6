"""Report on a data file, also on one that `load_data` refuses: layout, checksums, all problems."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offline_marl.core.files import HEADER, MOST_NESTED, attached, checksum_of
from offline_marl.core.small_files import parse, shown
from offline_marl.core.types import DataError
from offline_marl.datasets.assemble import UnknownLayoutError, assemble
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.catalog import SUFFIX, home
from offline_marl.datasets.episodes import stale
from offline_marl.datasets.layout import KIND
from offline_marl.datasets.metadata import mistake
from offline_marl.datasets.validate import Problem, problems

TYPES: Mapping[str, tuple[Any, torch.dtype]] = {
    "F32": (np.float32, torch.float32),
    "F64": (np.float64, torch.float64),
    "F16": (np.float16, torch.float16),
    "I64": (np.int64, torch.int64),
    "I32": (np.int32, torch.int32),
    "I16": (np.int16, torch.int16),
    "I8": (np.int8, torch.int8),
    "U8": (np.uint8, torch.uint8),
    "BOOL": (np.bool_, torch.bool),
}
LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Report:
    """Layout, checksums and problems of a file or folder."""

    problems: list[Problem]
    layout: str | None = None
    """What it is, such as `ours, layout 1, Recording`."""
    stored: str | None = None
    """The checksum that the file says it has."""
    computed: str | None = None
    """The checksum of what it holds."""
    episodes: int | None = None
    transitions: int | None = None


class Unreadable(Exception):
    """A file of which nothing further can be read; the message is one sentence."""


def examine(path: Path) -> Report:
    """The report of a file of our layout, or of a file or folder of another format."""
    if not path.exists():
        return Report([_whole(f"There is no file {path}.")])
    return _examine_ours(path) if path.suffix == SUFFIX else _examine_other(path)


def examine_data(data: Recording | Dataset, layout: str | None = None) -> Report:
    """The report of data that could be read."""
    found = problems(data)
    if mistake(data.metadata) is None:
        found = [*found, *_stale(data)]
    return Report(found, layout, **_sizes(data))


def _examine_other(path: Path) -> Report:
    """Converted first, into a folder of its own: nothing in it was looked at before."""
    from offline_marl.datasets.readers.convert import convert

    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verifying-", dir=home()) as folder:
        kept = Path(folder) / f"converted{SUFFIX}"
        try:
            convert(path, kept)
        except DataError as error:
            return Report([_whole(str(error))])
        report = _examine_ours(kept)
    layout = f"{path.suffix.removeprefix('.') or 'folder'}, read as {(report.layout or '').rpartition(' ')[2]}"
    return Report(report.problems, layout, None, None, report.episodes, report.transitions)


def _examine_ours(path: Path) -> Report:
    problems: list[Problem] = []
    try:
        tensors, metadata, bad = _tensors(path)
        problems += bad
        header = _header(metadata)
    except Unreadable as error:
        return Report([*problems, _whole(f"{path} {error}.")])
    computed = None
    if not bad:
        computed = checksum_of(tensors, header["tree"])
        if computed != header.get("sha256"):
            problems.append(_whole(f"{path} is damaged: its content does not match its checksum."))
    known: dict[str, Any] = {"stored": header.get("sha256"), "computed": computed}
    try:
        tree = attached(parse(header["tree"], MOST_NESTED, finite=False), tensors)
        layout, data, wrong = assemble(tree)
    except UnknownLayoutError as error:
        return Report([*problems, _whole(f"{path} {error}.")], **known)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        missing = f"field of {error}" if isinstance(error, KeyError) else shown(str(error))
        return Report([*problems, _whole(f"{path} holds no readable tree of fields: {missing}.")], **known)
    problems += wrong
    if data is None:
        return Report(problems, layout, **known)
    try:
        rest = examine_data(data)
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        return Report(
            [*problems, _whole(f"{path} has fields that cannot be looked through: {reason}.")], layout, **known
        )
    return Report([*problems, *rest.problems], layout, **known, **_sizes(data))


def _tensors(path: Path) -> tuple[dict[str, Tensor], Any, list[Problem]]:
    """The tensors, mapped and not read, those that cannot be as problems, and the metadata of the header."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise Unreadable(f"has {size} bytes, too few for its header")
        try:
            header = parse(stream.read(length))
        except ValueError:
            raise Unreadable("has a header that is no JSON") from None
    if not isinstance(header, dict):
        raise Unreadable("has a header without names")
    metadata, begin = header.pop("__metadata__", None), 8 + length
    tensors: dict[str, Tensor] = {}
    bad, end = [], begin
    for name, entry in header.items():
        try:
            tensors[name], last = _mapped(path, entry, begin, size)
            end = max(end, last)
        except (KeyError, TypeError, ValueError) as error:
            bad.append(_whole(f"Array {name} of {path} cannot be read: {error}."))
    if size > end and not bad:
        bad.append(_whole(f"{path} has {size - end:,} bytes more than its header tells of."))
    return tensors, metadata, bad


def _mapped(path: Path, entry: Any, begin: int, size: int) -> tuple[Tensor, int]:
    kind, dtype = TYPES[entry["dtype"]]
    shape, (first, last) = [int(axis) for axis in entry["shape"]], entry["data_offsets"]
    if last - first != math.prod(shape) * np.dtype(kind).itemsize or first < 0 or min(shape, default=0) < 0:
        raise ValueError(f"{last - first} bytes for a shape of {tuple(shape)}")
    if begin + last > size:
        raise ValueError(f"the file ends {begin + last - size:,} bytes before it")
    if first == last:
        return torch.zeros(shape, dtype=dtype), begin + last
    # Copy on write: torch wants to write, the file stays as it is.
    mapped = np.memmap(path, kind, "c", begin + first, tuple(shape))
    return torch.from_numpy(np.asarray(mapped)), begin + last


def _header(metadata: Any) -> dict[str, Any]:
    try:
        header = parse((metadata or {}).get(HEADER, "{}"))
    except (ValueError, TypeError, AttributeError):
        raise Unreadable("has metadata that are no JSON") from None
    if not isinstance(header, dict) or header.get("kind") != KIND or not isinstance(header.get("tree"), str):
        raise Unreadable(f"is not a {KIND} of this library")
    return header


def _stale(data: Recording | Dataset) -> list[Problem]:
    episodes = len(data.lengths)
    return [
        Problem("metadata", "", len(data.metadata[name]), f"The metadata's '{name}' is of other episodes: {mismatch}.")
        for name in stale(data.metadata, episodes)
        for mismatch in [f"it has {len(data.metadata[name])} entries, there are {episodes} episodes"]
    ]


def _sizes(data: Recording | Dataset) -> dict[str, Any]:
    return {"episodes": len(data.lengths), "transitions": int(data.lengths.sum())}


def _whole(sentence: str) -> Problem:
    return Problem("file", "", 0, sentence)
