"""Published sets of the catalogue: looked for at each of their places, converted once, kept under their name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from offline_marl.core.types import DataError
from offline_marl.datasets.catalog import SUFFIX, Entry
from offline_marl.datasets.files import load_data, save_data
from offline_marl.datasets.places import HUB
from offline_marl.datasets.readers import vault, zipped
from offline_marl.datasets.readers.convert import fingerprint, open_steps
from offline_marl.datasets.readers.minari import reader as minari
from offline_marl.datasets.readers.steps import save_steps

MIRRORS = "OFFLINE_MARL_MIRRORS"
"""Environment variable: folders or `hf://owner/repo` that hold copies, separated by blanks, asked first."""


def fetch_entry(entry: Entry, path: Path) -> None:
    """Write the published set to `path`, in our layout, whole or not at all.

    Raises:
        DataError: No place has it; the sentence says where was looked and what each answered.
    """
    answers = []
    for place in places(entry):
        try:
            _convert(entry, place, path)
            return
        except DataError as error:
            answers.append(str(error).rstrip("."))
    raise DataError(
        f"{entry.name} was found at none of its places ({'; '.join(answers)}): name a copy in {MIRRORS}, or a mirror "
        "of the hub in HF_ENDPOINT."
    )


def places(entry: Entry) -> list[str]:
    """Where the set may be: copies under its name in the mirrors, then where it was published."""
    mirrors = os.environ.get(MIRRORS, "").split()
    endings = (SUFFIX, *dict.fromkeys(Path(place).suffix for place in entry.places))
    copies = [f"{mirror.rstrip('/')}/{entry.name}{ending}" for mirror in mirrors for ending in endings]
    return [*copies, *entry.places]


def local(place: str) -> Path:
    """The place on this disk; what is on the hub is fetched.

    Raises:
        DataError: It is not there, or cannot be fetched.
    """
    place, inner = zipped.split(place)
    if inner is not None:
        return zipped.inside(local(place), inner)
    if place.startswith(minari.SCHEME):
        return minari.folder_of(place)
    if not place.startswith(HUB):
        if "://" in place:
            raise DataError(f"{place} is no place: there are files, folders, {HUB}owner/repo/path, {minari.SCHEME}ID.")
        vault.refuse_absent(Path(place))
        return Path(place)
    from offline_marl.datasets.readers.storage import huggingface

    return huggingface.fetch(place)


def _convert(entry: Entry, place: str, path: Path) -> None:
    file = local(place)
    if not file.exists():
        raise DataError(f"There is no file {file}.")
    entry_metadata: dict[str, Any] = {
        "name": entry.name,
        "scenario": entry.scenario,
        "reference": asdict(entry.reference),
        "how": entry.summary,
        "licence": entry.licence,
        "source": place,
        "source_sha256": fingerprint(file),
    }
    if place.startswith(HUB):
        from offline_marl.datasets.readers.storage import huggingface

        entry_metadata["revision"] = huggingface.commit_of(file)
    if file.suffix == SUFFIX:
        data = load_data(file)
        _refuse_other(entry, place, data.metadata)
        stored = {key: value for key, value in data.metadata.items() if key != "sha256"}
        save_data(path, replace(data, metadata={**stored, **entry_metadata}))
        return
    with open_steps(file) as (steps, metadata):
        _refuse_other(entry, place, metadata)
        save_steps(path, steps, {**metadata, **entry_metadata})


def _refuse_other(entry: Entry, place: str, metadata: Mapping[str, Any]) -> None:
    scenario = metadata.get("scenario", entry.scenario)
    if scenario != entry.scenario:
        raise DataError(f"{place} holds {scenario}, {entry.name} is {entry.scenario}.")
