"""Description of a data set, as plain values and as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.metadata import reference_of
from offline_marl.datasets.statistics import (
    action_counts,
    action_ranges,
    coverage,
    duplicates,
    quantiles,
    returns_of,
)


def description(data: Recording | Dataset, tick: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Sizes, widths, returns, coverage, and where it came from; None for what is not known.

    Args:
        data: Is read through once for each of `PARTS`.
        tick: Called after each of them.
    """
    metadata = dict(data.metadata)
    measured: dict[str, Any] = {}
    for name, measure in PARTS.items():
        measured[name] = measure(data)
        tick()
    returns, reference = measured["returns"], reference_of(metadata)
    return {
        "sha256": metadata.get("sha256"),
        "episodes": len(data.lengths),
        "transitions": int(data.lengths.sum()),
        "episode_length": _figures(data.lengths),
        **(_team(data) if isinstance(data, Dataset) else _body(data)),
        **measured["actions"],
        "coverage": measured["coverage"],
        "duplicates": measured["duplicates"],
        "reward": metadata.get("reward"),
        "returns": {**_figures(returns), **quantiles(returns)},
        "normalized_returns": None if reference is None else _figures(returns.clone().apply_(reference.normalized)),
        "reference": None if reference is None else metadata["reference"],
        "action_noise": metadata.get("action_noise"),
        "scenario": metadata.get("scenario"),
        "format": metadata.get("format"),
        "episodes_end": metadata.get("episodes_end"),
        "dropped_steps": metadata.get("dropped_steps"),
        "unseen_ends": None if data.ends_seen is None else int((~data.ends_seen).sum()),
        "source": metadata.get("source"),
        "source_sha256": metadata.get("source_sha256"),
        "how": metadata.get("how"),
        "actors": {str(entry.get("name")): entry.get("episodes") for entry in _tables(metadata.get("actors"))} or None,
        "tier": metadata.get("tier"),
        "parts": [f"{entry.get('episodes')} of {entry.get('name')}" for entry in _tables(metadata.get("parts"))]
        or None,
        "seed": metadata.get("seed"),
        "versions": metadata.get("versions"),
        "licence": metadata.get("licence"),
    }


def _tables(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list | tuple) else []


def _team(data: Dataset) -> dict[str, Any]:
    spec = data.spec
    return {
        "agents": spec.n_agents,
        "obs_widths": list(spec.obs_dims),
        "action_widths": list(spec.act_dims),
        "state_width": spec.state_dim,
        "action_kind": spec.action_kind,
        "presence": None if data.mask is None else data.mask.double().mean(0).tolist(),
    }


def _body(data: Recording) -> dict[str, Any]:
    return {"state_width": data.state.shape[1], "action_width": data.actions.shape[1], "action_kind": "continuous"}


def _actions(data: Recording | Dataset) -> dict[str, Any]:
    """Ranges and, for each agent, the share of the actions' bins (or of its choices) that were ever used."""
    ranges, counts = action_ranges(data), action_counts(data)
    return {
        "action_range": [min(low for low, _ in ranges), max(high for _, high in ranges)],
        "action_ranges": None if isinstance(data, Recording) else ranges,
        "action_coverage": [float((agent_counts > 0).double().mean()) for agent_counts in counts],
    }


def _coverage(data: Recording | Dataset) -> dict[str, float]:
    covered = coverage(data)
    return {
        "share": covered.share,
        "cells": covered.counts.numel(),
        "rows": len(covered.points),
        "variance": covered.variance,
    }


PARTS: Mapping[str, Callable[[Any], Any]] = {
    "returns": returns_of,
    "actions": _actions,
    "coverage": _coverage,
    "duplicates": duplicates,
}
"""What takes time."""


def _figures(values: Tensor) -> dict[str, float]:
    exact = values.to(torch.float64)
    return {
        "mean": float(exact.mean()),
        "sd": float(exact.std(correction=0)),
        "min": float(exact.min()),
        "max": float(exact.max()),
    }


def shown(value: Any) -> str:
    """A value of the description for people; empty for None."""
    if isinstance(value, Mapping):
        joint = " " if "sd" in value else " = "
        return ", ".join(f"{name}{joint}{shown(item)}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        if value and all(isinstance(item, list) for item in value):
            return "; ".join(" to ".join(shown(number) for number in item) for item in value)
        return ", ".join(shown(item) for item in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and value >= 100_000 else "" if value is None else str(value)
