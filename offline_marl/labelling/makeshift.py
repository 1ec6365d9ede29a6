"""Where clips lie, and which are not kept: what earlier versions drew, and makeshift clips of an earlier server.

Makeshift ones were drawn without the pictures that there should be, or failed. Since then the disk may have room again,
or an extra be installed. They lie beside the others under names of their own.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from offline_marl.labelling.clips import NAME

VERSION = "2"
"""Of what clips show, to be counted up whenever one of the same segment would be drawn otherwise."""
AGAIN = 60.0
"""Seconds after which one is asked for again, and one that failed is drawn again."""
ENDING = ".makeshift.json"


def clips_of(folder: Path) -> Path:
    """Where the clips of a folder of comparisons lie, apart from those of other versions."""
    return folder / "clips" / VERSION


def makeshift(clips: Path, name: str) -> Path:
    """Where it lies."""
    return clips / f"{name}{ENDING}"


def forget_old(clips: Path) -> None:
    """Delete makeshift clips and those of other versions, so that each is drawn anew."""
    for file in clips.glob(f"*{ENDING}"):
        file.unlink(missing_ok=True)
    # Versions before the second had no folder of their own.
    others = [path for path in clips.parent.glob("*") if path.name.isdecimal() and not path.is_symlink()]
    for folder in {clips.parent, *others} - {clips}:
        for file in folder.glob("*.json"):
            if NAME.fullmatch(file.name.removesuffix(".json").removesuffix(".makeshift")):
                file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else lies there
            folder.rmdir()
