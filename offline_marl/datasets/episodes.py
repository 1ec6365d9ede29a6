"""Episodes chosen and joined together with what the metadata say of each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from torch import Tensor

from offline_marl.datasets.base import Flat, join, select

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


def stale(metadata: Mapping[str, Any], episodes: int) -> list[str]:
    """Names of the per-episode lists that are not of so many episodes."""
    return [name for name in PER_EPISODE if metadata.get(name) is not None and _size(metadata[name]) != episodes]


def select_episodes(data: Flat, episodes: Annotated[Tensor, "chosen"]) -> Flat:
    """The chosen episodes in the order given, and the metadata of just these.

    Per-episode lists follow, actors are counted again; checksums of the whole are left out.
    """
    metadata = {key: value for key, value in data.metadata.items() if key not in {"sha256", "source_sha256"}}
    for name in PER_EPISODE:
        if name in metadata and _size(metadata[name]) == len(data.lengths):
            metadata[name] = [metadata[name][episode] for episode in episodes.tolist()]
    return replace(select(data, episodes), metadata=_counted(metadata))


def join_episodes(parts: Sequence[Flat], names: Sequence[str], metadata: Mapping[str, Any]) -> Flat:
    """Recordings or data sets one after another, with the per-episode lists that any of them has.

    Args:
        parts: What is joined; all of one kind and one team.
        names: What to call each part where it does not say who acted in it.
        metadata: Of the whole; the per-episode lists and `actors` are added.

    Raises:
        DataError: They hold different fields, or one field in different widths.
    """
    joined = dict(metadata)
    for name, unknown in PER_EPISODE.items():
        if name != "who" and any(_holds(part, name) for part in parts):
            joined[name] = [
                entry
                for part in parts
                for entry in (part.metadata[name] if _holds(part, name) else [unknown] * len(part.lengths))
            ]
    if any(_holds(part, "who") for part in parts):
        joined |= _joined_actors(parts, names)
    return join(parts, _counted(joined))


def _joined_actors(parts: Sequence[Flat], names: Sequence[str]) -> dict[str, Any]:
    """`actors` and `who` of all parts; an actor of several parts is one."""
    actors: list[dict[str, Any]] = []
    who: list[int] = []
    for part, name in zip(parts, names, strict=True):
        if _holds(part, "who"):
            part_actors, acted = part.metadata["actors"], part.metadata["who"]
        else:
            part_actors, acted = [{"kind": "data", "name": name}], [0] * len(part.lengths)
        plain = [{key: value for key, value in actor.items() if key != "episodes"} for actor in part_actors]
        actors += [actor for actor in plain if actor not in actors]
        who += [actors.index(plain[actor]) for actor in acted]
    return {"actors": actors, "who": who}


def _counted(metadata: dict[str, Any]) -> dict[str, Any]:
    """Actors that acted in some episode, each with how many; `who` points to their new places."""
    if not _names_actors(metadata):
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


def _holds(part: Any, name: str) -> bool:
    per_episode = _size(part.metadata.get(name)) == len(part.lengths)
    return per_episode and (name != "who" or _names_actors(part.metadata))


def _names_actors(metadata: Mapping[str, Any]) -> bool:
    """Whether `who` holds places in `actors`; metadata may be anybody's."""
    who, actors = metadata.get("who"), metadata.get("actors")
    if _size(who) < 0 or _size(actors) < 0 or not all(isinstance(actor, Mapping) for actor in actors or ()):
        return False
    return all(isinstance(place, int) and 0 <= place < _size(actors) for place in who or ())


def _size(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple) else -1
