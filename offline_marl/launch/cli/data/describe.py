"""Description of a data set or task for `data info`: sizes, widths, returns and origin. Loads the data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from offline_marl.core.progress import progress_bar
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.description import PARTS, description, shown
from offline_marl.launch.cli.data.loading import load_named

LARGE = 1_000_000
"""Transitions."""


def describe(name: str) -> dict[str, Any]:
    """Describe a data set, a task or a file, as plain values.

    Raises:
        UnknownDatasetError: The catalogue has no such name.
        PartitionError: The conf or the view is unknown.
        DataError: The file is missing, damaged or unusable.
    """
    data, path = load_named(name)
    return {"id": name, "file": path, **describe_data(data)}


def describe_data(data: Recording | Dataset) -> dict[str, Any]:
    """Describe loaded data; with a bar if it is large, as that takes seconds."""
    if len(data.rewards) < LARGE:
        return description(data)
    with progress_bar(len(PARTS), "looking through", "part", leave=False) as bar:
        return description(data, bar.update)


def as_json(description_: Mapping[str, Any]) -> str:
    """Format a description for machines."""
    return json.dumps(description_, indent=2)


def as_lines(description_: Mapping[str, Any]) -> list[str]:
    """Format a description for people: one line a property, unknown ones left out."""
    lines = []
    for name, value in description_.items():
        if value is None:
            continue
        if name == "reference":
            lines.append(("reference", f"random {value['random']}, expert {value['expert']}"))
            value, name = value.get("note"), "reference_note"
        lines.append((name, shown(value)))
    width = max(len(name) for name, _ in lines) + 2
    return [f"{name.replace('_', ' '):{width}}{text}" for name, text in lines if text]
