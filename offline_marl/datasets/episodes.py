"""Episodes chosen and joined together with what the metadata say of each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from torch import Tensor

from offline_marl.datasets.base import Flat, join, select
from offline_marl.datasets.episode_lists import PER_EPISODE, counted, names_actors, of_chosen, size_of


def stale(metadata: Mapping[str, Any], episodes: int) -> list[str]:
    """Names of the per-episode lists that are not of so many episodes."""
    return [name for name in PER_EPISODE if metadata.get(name) is not None and size_of(metadata[name]) != episodes]


def select_episodes(data: Flat, episodes: Annotated[Tensor, "chosen"]) -> Flat:
    """The chosen episodes in the order given, and the metadata of just these.

    Per-episode lists follow, actors are counted again; checksums of the whole are left out.
    """
    metadata = of_chosen(data.metadata, len(data.lengths), episodes.tolist())
    return replace(select(data, episodes), metadata=metadata)


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
    return join(parts, counted(joined))


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


def _holds(part: Any, name: str) -> bool:
    per_episode = size_of(part.metadata.get(name)) == len(part.lengths)
    return per_episode and (name != "who" or names_actors(part.metadata))
