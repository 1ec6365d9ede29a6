"""What `data info` says of a data set or task: sizes, widths, returns, and where it came from. Loads the data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from offline_marl.core.progress import progress_bar
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.description import PARTS, description, shown
from offline_marl.launch.cli.data.opened import opened

LARGE = 1_000_000
"""Transitions."""


def describe(name: str) -> dict[str, Any]:
    """All there is to say of a data set, a task or a file, as plain values.

    Raises:
        UnknownDatasetError: The catalogue has no such name.
        PartitionError: The conf or the view is unknown.
        DataError: The file is missing, damaged or unusable.
    """
    data, path = opened(name)
    return {"id": name, "file": path, **described(data)}


def described(data: Recording | Dataset) -> dict[str, Any]:
    """The description of data; of large data with a bar, because it takes some seconds."""
    if len(data.rewards) < LARGE:
        return description(data)
    with progress_bar(len(PARTS), "looking through", "part", leave=False) as bar:
        return description(data, bar.update)


def as_json(said: Mapping[str, Any]) -> str:
    """The description for machines."""
    return json.dumps(said, indent=2)


def as_lines(said: Mapping[str, Any]) -> list[str]:
    """The description for people: one line a property, those that are unknown left out."""
    lines = []
    for name, value in said.items():
        if value is None:
            continue
        if name == "reference":
            lines.append(("reference", f"random {value['random']}, expert {value['expert']}"))
            value, name = value.get("note"), "reference_note"
        lines.append((name, shown(value)))
    width = max(len(name) for name, _ in lines) + 2
    return [f"{name.replace('_', ' '):{width}}{text}" for name, text in lines if text]
