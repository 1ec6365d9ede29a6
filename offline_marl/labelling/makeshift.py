"""Makeshift clips: drawn without the pictures that there should be, or failed; a server keeps none of an earlier one.

Since then the disk may have room again, or an extra be installed. They lie beside the others under names of their own.
"""

from __future__ import annotations

from pathlib import Path

AGAIN = 60.0
"""Seconds after which one is asked for again, and one that failed is drawn again."""
ENDING = ".makeshift.json"


def makeshift(clips: Path, name: str) -> Path:
    """Where it lies."""
    return clips / f"{name}{ENDING}"


def forget_makeshift(clips: Path) -> None:
    """Delete all of them, so that each is drawn anew."""
    for file in clips.glob(f"*{ENDING}"):
        file.unlink(missing_ok=True)
