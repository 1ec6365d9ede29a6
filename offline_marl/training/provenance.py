"""What a score was taken with, beside what its data was recorded with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offline_marl.datasets.base import Dataset
from offline_marl.datasets.catalog import Reference


def other_versions(then: Mapping[str, Any] | None, now: Mapping[str, str]) -> tuple[str, ...] | None:
    """What is not as it was, of all that both name: simulators and the environment's id.

    Returns:
        Such as `("mujoco 3.2.0, now 4.0.0",)`; None where nothing can be compared.
    """
    both = [name for name in now if name in (then or {})]
    if not then or not both:
        return None
    return tuple(f"{name} {then[name]}, now {now[name]}" for name in both if str(then[name]) != now[name])


def told_of(data: Dataset) -> dict[str, Any]:
    """What scores repeat of the data behind them; what is not known is left out."""
    about = data.metadata
    versions = dict(about.get("versions") or {})
    told = {
        "name": about.get("name"),
        "sha256": about.get("sha256"),
        "env_id": versions.pop("env_id", None) or about.get("scenario"),
        "versions": versions or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def mean_return_of(data: Dataset, reference: Reference | None) -> dict[str, Any]:
    """What the episodes of the data return in the mean, to stand beside scores."""
    mean = float(data.returns().double().mean())
    normalized = None if reference is None else reference.normalized(mean)
    return {"return": mean, "normalized_return": normalized, "episodes": len(data.lengths)}
