"""Parsing of task ids: a place (file, folder, `hf://...`) or a name of the catalogue, and its conf and view."""

from __future__ import annotations

import re
from pathlib import Path

from offline_marl.core.partition import SCENARIOS, confs, split_task, views
from offline_marl.datasets.catalog import CATALOG, SUFFIX

FOREIGN = (".hdf5", ".h5", ".pkl", ".pickle", ".pt", ".npz", ".vlt", ".zip")
"""Endings of files and folders in published formats."""
HUB = "hf://"

_ENDINGS = "|".join(re.escape(ending) for ending in (SUFFIX, *FOREIGN))
_INSIDE = re.compile(r".+?\.(?:zip|vlt)/.+")
"""One set of a Vault, or another part of an archive: what a team did, so that it takes no share."""
_FILE = re.compile(rf"(?P<place>.+?(?:{_ENDINGS})(?:@[^@]+?)?)(?:_(?P<conf>[^_/.]+)_(?P<view>[^_/.]+))?")


def place_of(task: str) -> tuple[str, tuple[str, str] | None] | None:
    """The place that a task id names and its conf and view, if it has any; None where it names no place.

    `mine.hdf5_4x2_0` is a file and a share of it, also after `@revision`. Of folders and ids without an ending the
    last two words are a conf and a view only where some body has such.
    """
    if task in CATALOG or task.rsplit("_", 2)[0] in CATALOG:
        return None
    if _INSIDE.fullmatch(task):
        return task, None
    file = _FILE.fullmatch(task)
    if file:
        return file["place"], ((file["conf"], file["view"]) if file["conf"] else None)
    if Path(task).exists():
        return task, None
    shared = is_shared(task)
    whole, *share = split_task(task) if shared else (task,)
    if "://" in task or (shared and Path(whole).exists()):
        return whole, ((share[0], share[1]) if shared else None)
    return None


def absolute(task: str) -> str:
    """The task's id, of a file with its whole path, so that a run finds it again from any folder."""
    return task if place_of(task) is None or "://" in task else str(Path(task).absolute())


def is_shared(task: str) -> bool:
    """Whether a name ends in a conf and a view that some body has."""
    pieces = task.rsplit("_", 2)
    return len(pieces) == 3 and any(
        pieces[1] in confs(body) and pieces[2] in views(body, pieces[1]) for body in SCENARIOS
    )
