"""Permissions of folders to have code imported: what the user named for them, never what their own files name.

Remembered outside the folder, in `allowed.json` of OFFLINE_MARL_HOME: whoever sends a folder cannot write there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from offline_marl.core.config import ConfigError
from offline_marl.core.files import write_atomically
from offline_marl.core.locks import locked
from offline_marl.core.permissions import ImportPath, Permit, names_code
from offline_marl.core.small_files import read
from offline_marl.datasets.catalog import home


class ForbiddenImportError(ConfigError):
    """A file asks for code that nobody named."""


def remember(folder: Path, named: Iterable[str]) -> None:
    """Note that the user named these import paths for a folder; other names need no permission."""
    paths = {name for name in named if names_code(name)}
    if not paths:
        return
    place, key = home() / "allowed.json", str(folder.resolve())
    place.parent.mkdir(parents=True, exist_ok=True)
    with locked(place.with_name(".allowed.lock"), wait=True):
        every = _read(place)
        every[key] = sorted({*every.get(key, ()), *paths})
        write_atomically(place, (json.dumps(every, indent=2, sort_keys=True) + "\n").encode())


def permit_of(folder: Path, named: Iterable[str] = (), advice: str = "say --environment {path}") -> Permit:
    """Permission for what files of a folder ask to import.

    Args:
        folder: The folder.
        named: What the user names now.
        advice: How it can be named, for the message.

    Returns:
        A function that raises ForbiddenImportError for a path which was neither named now nor before.
    """
    known = {*named, *_read(home() / "allowed.json").get(str(folder.resolve()), ())}

    def permit(path: str) -> ImportPath:
        if path not in known:
            raise ForbiddenImportError(
                f"{folder} asks to import {path}, which nobody has named for it on this machine: "
                f"if you trust that code, {advice.format(path=path)}."
            )
        return ImportPath(path)

    return permit


def _read(place: Path) -> dict[str, list[str]]:
    try:
        content = read(place)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{place} cannot be read ({error}): mend it, or delete it and name again.") from None
    if not isinstance(content, dict) or not all(
        isinstance(paths, list) and all(isinstance(path, str) for path in paths) for paths in content.values()
    ):
        raise ConfigError(f"{place} was damaged: delete it, and name again what may be imported.")
    return content
