"""Names of runs and files among shares and lists: commas and equal signs in the name of a place are part of it."""

from __future__ import annotations

from pathlib import Path


def is_place(name: str) -> bool:
    """Whether a file or folder is called so, also with `@STEP` behind it."""
    folder, _, step = name.rpartition("@")
    return _exists(name) or (step.isdecimal() and _exists(folder))


def split_share(word: str) -> tuple[str, str | None]:
    """Split `NAME=NUMBER` into name and number; the number is None where there is none, or where all is a place."""
    name, equals, share = word.rpartition("=")
    return (name, share) if equals and not is_place(word) else (word, None)


def named_places(text: str) -> list[str]:
    """Split a list at its commas, but not within the name of a place that is there, with a share or without."""
    pieces, words = text.split(","), list[str]()
    while pieces:
        count = next((n for n in range(len(pieces), 1, -1) if _is_shared_place(",".join(pieces[:n]))), 1)
        words.append(",".join(pieces[:count]))
        pieces = pieces[count:]
    return words


def _is_shared_place(word: str) -> bool:
    return is_place(word) or is_place(split_share(word)[0])


def _exists(name: str) -> bool:
    try:
        return bool(name) and Path(name).exists()
    except (OSError, ValueError):  # longer than a name can be, or with a null in it
        return False
