"""Our file layout: flat arrays in safetensors, the metadata as JSON in its header, a checksum over both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from offline_marl.core import files
from offline_marl.core.files import DamagedFileError, load_tree
from offline_marl.core.small_files import shown
from offline_marl.core.types import DataError, Spec
from offline_marl.datasets.assemble import UnknownLayoutError, assemble
from offline_marl.datasets.base import Dataset, Flat, Recording, clipped, rescaled
from offline_marl.datasets.layout import KIND, LAYOUT, save_flat
from offline_marl.datasets.validate import check_outside


def save_data(path: Path, data: Recording | Dataset) -> str:
    """Write a recording or a data set, whole or not at all.

    Returns:
        Its checksum.
    """
    values = {item.name: getattr(data, item.name) for item in fields(data) if item.name != "spec"}
    return save_fields(path, {**values, "metadata": dict(data.metadata)}, getattr(data, "spec", None))


def save_fields(
    path: Path, values: Mapping[str, Any], spec: Spec | None, tick: Callable[[int], object] | None = None
) -> str:
    """Write the fields of a data set, or without a spec those of a recording; they may be `Streamed`.

    Returns:
        Its checksum.
    """
    kind: type = Recording if spec is None else Dataset
    given = {**values, "spec": None if spec is None else asdict(spec)}
    return save_flat(path, kind, given, tick)


def load_data(path: Path, clip_actions: bool = False, action_scale: float = 1.0) -> Recording | Dataset:
    """Read what `save_data` wrote, its checksum verified and noted as `sha256` in the metadata.

    Args:
        path: The file.
        clip_actions: Clip actions that lie outside [-1, 1] instead of refusing them.
        action_scale: What recorded actions are divided by, before that.

    Raises:
        DataError: The file is missing, damaged, of another layout, or its content does not pass `check`.
    """
    try:
        tree, checksum = load_tree(path, KIND)
    except (DamagedFileError, FileNotFoundError) as error:
        raise DataError(str(error)) from None
    try:
        _, data, problems = assemble(tree)
    except UnknownLayoutError as error:
        number = tree.get("layout")
        newer = type(number) is int and number > LAYOUT
        advice = ": it was written by a newer version of this library, update it" if newer else ""
        told = str(error) if number == LAYOUT else f"has layout {shown(number)}; this version reads layout {LAYOUT}"
        raise DataError(f"{path} {told}{advice}.") from None
    if data is None:
        raise DataError(f"{path} cannot be used: {problems[0].sentence}")
    check_outside(data)
    if isinstance(data, Recording):
        return _accept(rescaled(data, action_scale), checksum, clip_actions)
    return _accept(rescaled(data, action_scale), checksum, clip_actions)


def stated_checksum(path: Path) -> str:
    """What a file says its checksum is; its content is not read.

    Raises:
        DamagedFileError: It is no data set of ours.
    """
    return files.stated_checksum(path, KIND)


def _accept(data: Flat, checksum: str, clip_actions: bool) -> Flat:
    data = clipped(data) if clip_actions else data
    data.check()
    return replace(data, metadata={**data.metadata, "sha256": checksum})
