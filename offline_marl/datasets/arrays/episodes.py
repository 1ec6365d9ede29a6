"""Flat fields of a data set from a list of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offline_marl.core.types import DataError, Episode
from offline_marl.datasets.arrays.flat import owned
from offline_marl.datasets.arrays.mistakes import refuse_masked


def joined_fields(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Fields of the data set of these episodes by name, but for its spec and metadata; not yet checked.

    Raises:
        DataError: There are no episodes, or they differ in width or in what they hold.
    """
    if not episodes:
        raise DataError("A data set needs at least one episode.")
    names = [item.name for item in fields(Episode) if item.name not in {"mask", "end_seen"}]
    known = torch.tensor([episode.end_seen is None or bool(episode.end_seen) for episode in episodes])
    return {
        **{name: _joined(episodes, name) for name in names},
        "lengths": torch.tensor([len(episode) for episode in episodes]),
        "ends_seen": None if bool(known.all()) else known,
        "mask": _joined_mask(episodes),
    }


def _joined(episodes: Sequence[Episode], name: str) -> Tensor | None:
    values = [getattr(episode, name) for episode in episodes]
    refuse_masked(values, name)
    given = [owned(value) for value in values if value is not None]
    if given and len(given) < len(values):
        raise DataError(f"Only some of the episodes hold '{name}'.")
    if len({value.shape[1:] for value in given}) > 1:
        raise DataError(f"Episodes differ in the width of '{name}'.")
    return torch.cat(given) if given else None


def _joined_mask(episodes: Sequence[Episode]) -> Tensor | None:
    """Who is there; everybody in episodes without a mask, and None where no episode has one."""
    if all(episode.mask is None for episode in episodes):
        return None
    all_there = [np.ones(np.shape(episode.rewards), np.bool_) for episode in episodes]
    there = [a if e.mask is None else e.mask for a, e in zip(all_there, episodes, strict=True)]
    return torch.cat([owned(each) for each in there])
