"""Short names of paths among settings: different places stay different, and seeds do not count."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

SEED = re.compile(r"[_-]?seed\d+")


def name_places(values: Iterable[Any]) -> dict[str, str]:
    """Name the paths among the values of one setting, each with as many of the folders above as it takes.

    Paths that differ in seeds alone, such as those of one model for each seed, have one name.

    Args:
        values: Paths and lists of them; what is neither is passed over.
    """
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    parts = {path: _without_seeds(path) for path in texts if isinstance(path, str)}
    places = sorted(set(parts.values()))
    names = dict(zip(places, shortest_names(places), strict=True))
    return {path: names[place] for path, place in parts.items()}


def bare_names(names: Iterable[str]) -> dict[str, str]:
    """Name each path by its own folder alone, which places may share."""
    return {path: _without_seeds(path)[-1] for path in names}


def shortest_names(paths: Sequence[Sequence[str]]) -> list[str]:
    """Name paths, given by their parts, uniquely by the last part, with as many of those before as it takes."""
    names = [path[-1] for path in paths]
    for depth in range(2, max(map(len, paths), default=0) + 1):
        counts = Counter(names)
        if len(counts) == len(names):
            break
        names = ["/".join(path[-depth:]) if counts[name] > 1 else name for path, name in zip(paths, names, strict=True)]
    return names


def _without_seeds(path: str) -> tuple[str, ...]:
    return tuple(rest for part in Path(path).parts if (rest := SEED.sub("", part))) or (path,)
