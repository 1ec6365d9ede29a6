"""Episodes chosen and joined together with what the metadata say of each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset, Flat, select
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


def join(parts: Sequence[Flat], metadata: Mapping[str, Any]) -> Flat:
    """Several recordings, or several data sets of one team, one after another.

    Raises:
        DataError: They hold different fields, or one field in different widths.
    """
    names = [item.name for item in fields(parts[0]) if item.name not in {"metadata", "spec"}]
    whole = [_completed(part, parts) for part in parts]
    tables = [{name: getattr(part, name) for name in names if getattr(part, name) is not None} for part in whole]
    for tensors in tables[1:]:
        for name in names:
            one, other = (
                tuple(columns[name].shape[1:]) if name in columns else None for columns in (tables[0], tensors)
            )
            if one != other:
                raise DataError(f"Data of different widths cannot be joined: '{name}' is {one} and {other}.")
    joined: dict[str, Any] = {name: torch.cat([tensors[name][:] for tensors in tables]) for name in tables[0]}
    return replace(parts[0], **joined, metadata=metadata)


def _completed(part: Flat, parts: Sequence[Flat]) -> Flat:
    """The part with what only neighbours say: all agents are there, all ends are seen, all choices are allowed."""
    more: dict[str, Any] = {}
    if part.ends_seen is None and any(each.ends_seen is not None for each in parts):
        more["ends_seen"] = torch.ones(len(part.lengths), dtype=torch.bool)
    if (
        isinstance(part, Dataset)
        and part.mask is None
        and any(getattr(each, "mask", None) is not None for each in parts)
    ):
        more["mask"] = torch.ones(part.rewards.shape, dtype=torch.bool)
    if (
        isinstance(part, Dataset)
        and part.avail_actions is None
        and any(getattr(each, "avail_actions", None) is not None for each in parts)
    ):
        more["avail_actions"] = part.spec.present("act").expand(int((part.lengths + 1).sum()), -1, -1)
    return replace(part, **more) if more else part


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
