"""Metadata of single episodes: lists with one entry an episode, which follow the episodes that are chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

PER_EPISODE: Mapping[str, Any] = {
    "who": None,
    "noise_levels": None,
    "deviators": -1,
    "seeds": None,
    "origin_parts": None,
    "origin_episodes": None,
}
"""Metadata that are lists with one entry an episode, and the entry where nothing is known of one.

`who` holds places in the list `actors`, `deviators` numbers of agents.
"""


def of_chosen(metadata: Mapping[str, Any], count: int, chosen: Sequence[int]) -> dict[str, Any]:
    """Metadata of the chosen episodes, of those of `count`.

    Per-episode lists follow, actors are counted again; checksums of the whole are left out.
    """
    kept = {key: value for key, value in metadata.items() if key not in {"sha256", "source_sha256"}}
    for name in PER_EPISODE:
        if name in kept and size_of(kept[name]) == count:
            kept[name] = [kept[name][episode] for episode in chosen]
    return counted(kept)


def counted(metadata: dict[str, Any]) -> dict[str, Any]:
    """Actors that acted in some episode, each with how many; `who` points to their new places."""
    if not names_actors(metadata):
        return metadata
    who, actors = metadata["who"], metadata["actors"]
    acted = sorted(set(who))
    places = {place: number for number, place in enumerate(acted)}
    counts = Counter(who)
    return {
        **metadata,
        "actors": [{**actors[place], "episodes": counts[place]} for place in acted],
        "who": [places[place] for place in who],
    }


def names_actors(metadata: Mapping[str, Any]) -> bool:
    """Whether `who` holds places in `actors`; metadata may be anybody's."""
    who, actors = metadata.get("who"), metadata.get("actors")
    if size_of(who) < 0 or size_of(actors) < 0 or not all(isinstance(actor, Mapping) for actor in actors or ()):
        return False
    return all(isinstance(place, int) and 0 <= place < size_of(actors) for place in who or ())


def size_of(value: Any) -> int:
    """Entries of a list; -1 of anything else."""
    return len(value) if isinstance(value, list | tuple) else -1
