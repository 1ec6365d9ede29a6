"""Description of a data set, as plain values and as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from offline_marl.core.reference import Reference
from offline_marl.datasets.base import Dataset, Recording
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
    about = dict(data.metadata)
    found: dict[str, Any] = {}
    for name, measure in PARTS.items():
        found[name] = measure(data)
        tick()
    returns, reference = found["returns"], _reference(about)
    return {
        "sha256": about.get("sha256"),
        "episodes": len(data.lengths),
        "transitions": int(data.lengths.sum()),
        "episode_length": _figures(data.lengths),
        **(_team(data) if isinstance(data, Dataset) else _body(data)),
        **found["actions"],
        "coverage": found["coverage"],
        "duplicates": found["duplicates"],
        "reward": about.get("reward"),
        "returns": {**_figures(returns), **quantiles(returns)},
        "normalized_returns": None if reference is None else _figures(returns.clone().apply_(reference.normalized)),
        "reference": None if reference is None else about["reference"],
        "action_noise": about.get("action_noise"),
        "scenario": about.get("scenario"),
        "format": about.get("format"),
        "episodes_end": about.get("episodes_end"),
        "dropped_steps": about.get("dropped_steps"),
        "source": about.get("source"),
        "source_sha256": about.get("source_sha256"),
        "how": about.get("how"),
        "actors": {str(each.get("name")): each.get("episodes") for each in _tables(about.get("actors"))} or None,
        "tier": about.get("tier"),
        "parts": [f"{each.get('episodes')} of {each.get('name')}" for each in _tables(about.get("parts"))] or None,
        "seed": about.get("seed"),
        "versions": about.get("versions"),
        "licence": about.get("licence"),
    }


def _reference(about: Mapping[str, Any]) -> Reference | None:
    """The reference scores, if the metadata hold such that can be used; they may be anybody's."""
    held = about.get("reference")
    if not isinstance(held, Mapping) or not {"random", "expert"} <= set(held) <= {"random", "expert", "note"}:
        return None
    numbers = [held["random"], held["expert"]]
    return Reference(**held) if all(isinstance(x, int | float) for x in numbers) and len({*numbers}) > 1 else None


def _tables(held: Any) -> list[Mapping[str, Any]]:
    return [each for each in held if isinstance(each, Mapping)] if isinstance(held, list | tuple) else []


def _team(data: Dataset) -> dict[str, Any]:
    spec = data.spec
    return {
        "agents": spec.n_agents,
        "obs_widths": list(spec.obs_dims),
        "action_widths": list(spec.act_dims),
        "state_width": spec.state_dim,
        "action_kind": spec.action_kind,
    }


def _body(data: Recording) -> dict[str, Any]:
    return {"state_width": data.state.shape[1], "action_width": data.actions.shape[1], "action_kind": "continuous"}


def _actions(data: Recording | Dataset) -> dict[str, Any]:
    """Ranges and, for each agent, the share of the actions' bins (or of its choices) that were ever used."""
    ranges, counts = action_ranges(data), action_counts(data)
    return {
        "action_range": [min(low for low, _ in ranges), max(high for _, high in ranges)],
        "action_ranges": None if isinstance(data, Recording) else ranges,
        "action_coverage": [float((each > 0).double().mean()) for each in counts],
    }


def _coverage(data: Recording | Dataset) -> dict[str, float]:
    found = coverage(data)
    return {"share": found.share, "cells": found.counts.numel(), "rows": len(found.points), "variance": found.variance}


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
