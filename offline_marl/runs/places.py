"""Paths in the settings of runs and fits, made whole, so that they mean the same from any folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import ConfigError, suggest
from offline_marl.core.partition import SCENARIOS
from offline_marl.core.places import PlaceKind, place_fields, with_whole_places
from offline_marl.core.registry import RegistryError
from offline_marl.datasets.places import absolute, is_shared
from offline_marl.runs.config import ACTING_RUNS, FitConfig, RunConfig
from offline_marl.worldmodels.base import worldmodels

SHARES = ("conf", "view")
"""Loose fields that are the ends of a body's name: who moves what, and what each sees beside its own joints."""


def resolve_run(algorithm: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Loose fields of a training run and of its algorithm, with whole paths.

    Raises:
        RegistryError: The algorithm is unknown.
        ConfigError: The world model is neither a kind nor a folder.
    """
    kind, fields = algorithms.get(algorithm).Config, with_reference_policy(with_share(fields))
    made = with_whole_places(with_whole_places(fields, kind, whole), RunConfig, whole)
    if made.get("fit") and isinstance(made["fit"], Mapping):
        named = made.get("world_model")
        made["fit"] = resolve_fit(named if named in worldmodels.names() else "ensemble", made["fit"])
    return made


def with_reference_policy(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields in which a run folder that was given as `reference` is the `reference_policy`.

    Raises:
        ConfigError: There is one already.
    """
    given = fields.get("reference")
    if isinstance(given, list | tuple) and len(given) == 1:
        given = given[0]
    if not isinstance(given, str | os.PathLike):
        return dict(fields)
    rest = {name: value for name, value in fields.items() if name != "reference"}
    if rest.get("reference_policy") is not None:
        raise ConfigError(f"--reference {os.fspath(given)} names a second reference policy: two numbers are scores.")
    return {**rest, "reference_policy": os.fspath(given)}


def resolve_fit(model: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Loose fields of a fit and of its kind of world model, with whole paths.

    Raises:
        RegistryError: The kind is unknown.
    """
    kind = worldmodels.get(model).Config
    return with_whole_places(with_whole_places(with_share(fields), kind, whole), FitConfig, whole)


def with_share(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields whose `conf` and `view` have become the ends of the task's name.

    Raises:
        ConfigError: One is given without the other, or there is no task, or one that says it already.
    """
    fields = dict(fields)
    conf, view = (fields.pop(name, None) for name in SHARES)
    if conf is None and view is None:
        return fields
    if conf is None or view is None:
        raise ConfigError("conf and view go together: who moves what, and what each agent sees beside its own joints.")
    share = _share_of(str(conf), str(view))
    named = [name for name in ("dataset", "environment") if fields.get(name) is not None]
    bodies = [name for name in named if name == "dataset" or fields[name] in SCENARIOS]
    if not bodies:
        raise ConfigError(f"conf {conf} and view {view} share a body out: name its data or environment.")
    for name in bodies:
        task = str(fields[name])
        if is_shared(task):
            raise ConfigError(f"{task} says who moves and sees what already: leave conf and view away.")
        fields[name] = f"{task}_{share}"
    return fields


def _share_of(conf: str, view: str) -> str:
    """The ends of a task's name; `2x1` and `notip_0` are read as `2x1notip` and `0`."""
    joined = f"{conf}{view}"
    return joined if not is_shared(f"_{conf}_{view}") and is_shared(f"_{joined}") else f"{conf}_{view}"


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


def resolved_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an environment; the folder of a run that acts in it is the same path, however it was written."""
    return {
        name: str(Path(value).resolve())
        if name in ACTING_RUNS and isinstance(value, str) and Path(value).is_dir()
        else value
        for name, value in settings.items()
    }


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
