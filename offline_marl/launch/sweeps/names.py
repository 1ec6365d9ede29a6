"""Names of job folders from the varied fields; a hash only where a value is unreadable or two names would collide."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LONGEST_VALUE = 32
LONGEST = 160
"""Letters of a folder's name; file systems end at 255 bytes."""
DIGITS = 8


def digest(value: Any) -> str:
    """Hash plain values to a few hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:DIGITS]


def spell(value: Any) -> str:
    """Spell a value as part of a file's name; a hash tells values apart whose spellings would be the same."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple) and value and all(isinstance(item, int | float | str) for item in value):
        return _short("x".join(spell(item) for item in value), value)
    if isinstance(value, str) and value:
        clean = re.sub(r"[^A-Za-z0-9.+-]+", "-", value)
        return _short(clean, value) if clean == value else f"{clean[:LONGEST_VALUE]}-{digest(value)}"
    return digest(value)


def task_word(task: str) -> str:
    """Shorten a data set's or an environment's name to its last part."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", Path(task).name).strip(".") or digest(task)


def folder_name(words: list[str], varied: Mapping[str, Any], seed: int | None) -> str:
    """Compose the name of a job's folder.

    Args:
        words: Algorithm, task, preset, world model and trial.
        varied: Fields that are varied, and their values in this job.
        seed: The job's; None if all seeds share it.
    """
    pieces = [*words, *(f"{field}={spell(value)}" for field, value in varied.items())]
    name = "_".join([*pieces, *([] if seed is None else [f"seed{seed}"])])
    if len(name) <= LONGEST:
        return name
    # The seed stays in sight.
    end = "" if seed is None else f"_seed{seed}"
    return f"{name[: LONGEST - len(end) - DIGITS - 1]}-{digest([words, dict(varied)])}{end}"


def _short(text: str, value: Any) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}-{digest(value)}"
