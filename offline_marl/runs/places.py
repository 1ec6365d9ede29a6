"""Paths in the settings of runs and fits, made whole, so that they mean the same from any folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import ConfigError, suggest
from offline_marl.core.places import PlaceKind, place_fields, with_whole_places
from offline_marl.core.registry import RegistryError
from offline_marl.datasets.places import absolute
from offline_marl.runs.config import FitConfig, RunConfig
from offline_marl.worldmodels.base import worldmodels


def resolve_run(algorithm: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Loose fields of a training run and of its algorithm, with whole paths.

    Raises:
        RegistryError: The algorithm is unknown.
        ConfigError: The world model is neither a kind nor a folder.
    """
    kind = algorithms.get(algorithm).Config
    made = with_whole_places(with_whole_places(fields, kind, whole), RunConfig, whole)
    if made.get("fit") and isinstance(made["fit"], Mapping):
        named = made.get("world_model")
        made["fit"] = resolve_fit(named if named in worldmodels.names() else "ensemble", made["fit"])
    return made


def resolve_fit(model: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Loose fields of a fit and of its kind of world model, with whole paths.

    Raises:
        RegistryError: The kind is unknown.
    """
    kind = worldmodels.get(model).Config
    return with_whole_places(with_whole_places(fields, kind, whole), FitConfig, whole)


def places_of(algorithm: str) -> frozenset[str]:
    """Names of the settings of a run that are paths; of an algorithm that is not installed, those of every run."""
    try:
        return place_fields(RunConfig, algorithms.get(algorithm).Config)
    except RegistryError:
        return place_fields(RunConfig)


def places_of_fit(model: str) -> frozenset[str]:
    """Names of the settings of a fit that are paths."""
    return place_fields(FitConfig, worldmodels.get(model).Config)


def whole(kind: PlaceKind, named: str) -> str:
    """A path that means the same from any folder.

    Raises:
        ConfigError: It is of a world model, and names neither a kind nor a folder.
    """
    if kind == "dataset":
        return absolute(named)
    if kind == "model":
        return locate_model(named)
    if kind == "acting run" and not Path(named).is_dir():
        return named
    return str(Path(named).absolute())


def locate_model(named: str) -> str:
    """What `--world-model` means: a kind of model, or the whole path of a folder.

    Raises:
        ConfigError: It is neither; says how to name a folder that is yet to be made.
    """
    if named in worldmodels.names():
        return named
    if os.sep not in named and not Path(named).is_dir():
        known = suggest(named, worldmodels.names())
        raise ConfigError(f"Unknown world model '{named}': {known}; a folder to fit one in is named ./{named}.")
    return str(Path(named).absolute())
