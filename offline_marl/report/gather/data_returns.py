"""Mean returns of the data sets behind scores."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from offline_marl.core.types import DataError
from offline_marl.datasets.base import Recording
from offline_marl.datasets.catalog import CATALOG, path_of
from offline_marl.datasets.episode_index import episode_sums
from offline_marl.datasets.files import load_data


def data_returns(
    recorded: Any, task: str | None, provenance: Mapping[str, Any] | None = None
) -> tuple[float | None, float | None]:
    """Find the mean return of the data behind a score, raw and normalised; None for what is not known.

    Args:
        recorded: The entry of a finished run's DONE on its data; runs of earlier versions lack the return.
        task: Name of the data set, looked up in the catalogue where DONE lacks the return and the set is on disk:
            nothing is made or fetched for it. None of a run without data.
        provenance: Its `dataset_sha256`, if known, must be the set's.
    """
    mean = _finite(recorded.get("return")) if isinstance(recorded, Mapping) else None
    if mean is not None:
        return mean, _finite(recorded.get("normalized_return"))
    name = None if task is None else _name(task)
    known = None if name is None else _of_catalogue(name)
    if name is None or known is None:
        return None, None
    mean, checksum = known
    expected = (provenance or {}).get("dataset_sha256")
    if expected and expected != checksum:
        return None, None
    return mean, CATALOG[name].reference.normalized(mean)


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < math.inf else None


def _name(task: str) -> str | None:
    """Find the catalogue's set behind a task; a body's has conf and view behind its name."""
    names = [name for name in CATALOG if task == name or task.startswith(f"{name}_")]
    return max(names, key=len, default=None)


@functools.cache
def _of_catalogue(name: str) -> tuple[float, str] | None:
    """Compute mean return and checksum of a set that is on disk."""
    if not path_of(name).exists():
        return None
    try:
        data = load_data(path_of(name))
    except DataError:
        return None
    rewards = data.rewards if isinstance(data, Recording) else data.rewards.mean(-1)
    return float(episode_sums(rewards, data.lengths).double().mean()), str(data.metadata["sha256"])
