"""Kinds of run: the command that begins one, its settings, and the mark by which its folder is known.

Imports no torch. A package adds a kind through the entry-point group `offline_marl.kinds`, whose value is a RunKind.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from offline_marl.algorithms import registry as algorithms
from offline_marl.core.config import Config, ConfigError, build, suggest
from offline_marl.core.registry import Registry, RegistryError
from offline_marl.preferences import registry as preferences
from offline_marl.runs.config import (
    FitConfig,
    FitFlags,
    LearnFlags,
    RewardFitConfig,
    RewardFitFlags,
    RunConfig,
    RunFlags,
)
from offline_marl.worldmodels import registry as worldmodels

Settings = TypeVar("Settings", bound=LearnFlags)


@dataclass(frozen=True)
class RunKind(Generic[Settings]):
    """One kind of run, as the command line, jobs, sweeps and reports know it.

    Its config has a field named as `mark`, for the registry name of what is learnt, `settings` for the fields of that
    one's own config, `dataset`, and `steps`.
    """

    command: str
    """Word of the command line that begins a run."""
    config: type[Settings]
    """What config.json holds."""
    flags: type[LearnFlags]
    """Fields of `config` that are flags of the command."""
    mark: str
    """Field of config.json that no other kind has."""
    noun: str
    """What one is called in a sentence, with its article."""
    procedure: str
    """`module:class` of the Procedure that prepares, begins and resumes runs; it may import torch."""
    names: Registry[Any] | None = None
    """What can be learnt, where its names are known without importing the procedure."""
    plural: str = "runs"
    """What several are called."""
    argument: str = "NAME"
    """What the command's first word is called in its usage."""
    heading: str = "the run"
    """Heading of the flags in `--help`."""
    out: str = "Run folder; without it runs/<command>_<name>_<dataset>_seed<seed>."
    """What `--help` says of `--out`."""
    scored: bool = False
    """Whether reports compare its runs by their scores."""
    passed_over: str = "it has no score"
    """Why reports leave one out that is named to them."""


TRAIN = RunKind(
    command="train",
    config=RunConfig,
    flags=RunFlags,
    mark="algorithm",
    noun="a training run",
    procedure="offline_marl.training.kinds:Training",
    names=algorithms,
    argument="ALGORITHM",
    out="Run folder; without it runs/<algorithm>_<dataset>_seed<seed>.",
    scored=True,
)
FIT = RunKind(
    command="fit-model",
    config=FitConfig,
    flags=FitFlags,
    mark="model",
    noun="a world model",
    procedure="offline_marl.training.kinds:Fitting",
    names=worldmodels,
    plural="world models",
    argument="KIND",
    heading="the fit",
    out="Folder of the model; without it models/<kind>_<dataset>_seed<seed>.",
    passed_over="its own report says how far it can be trusted",
)
FIT_REWARD = RunKind(
    command="fit-reward",
    config=RewardFitConfig,
    flags=RewardFitFlags,
    mark="reward",
    noun="a reward model",
    procedure="offline_marl.training.kinds:FittingRewards",
    names=preferences,
    plural="reward models",
    argument="KIND",
    heading="the fit",
    out="Folder of the reward model; without it rewards/<kind>_<dataset>_seed<seed>.",
    passed_over="its own report says how far it can be trusted",
)
BUILT_IN: tuple[RunKind[Any], ...] = (TRAIN, FIT, FIT_REWARD)

kinds: Registry[RunKind[Any]] = Registry("kind of run", "offline_marl.kinds")
for _kind in BUILT_IN:
    kinds.register(_kind.command)(_kind)


def added_commands() -> list[str]:
    """Commands of other packages' kinds; imports none of them."""
    return [name for name in kinds.names() if all(name != kind.command for kind in BUILT_IN)]


def is_scored(command: str) -> bool:
    """Whether runs of a command have scores that reports compare; not where its package has gone."""
    try:
        return kinds.get(command).scored
    except RegistryError:
        return False


def recognize(stored: Any) -> RunKind[Any] | None:
    """The kind whose mark is in the content of a config.json; other packages are asked after the built-in kinds."""
    if not isinstance(stored, Mapping):
        return None
    every = itertools.chain[RunKind[Any]](BUILT_IN, _added())
    return next((kind for kind in every if kind.mark in stored), None)


def _added() -> Iterator[RunKind[Any]]:
    for name in added_commands():
        try:
            yield kinds.get(name)
        except RegistryError:  # a broken package says nothing of other folders
            continue


def build_settings(
    kind: RunKind[Settings], name: str, config_class: type[Config], dataset: str | None, fields: Mapping[str, Any]
) -> Settings:
    """The full settings of a run from loose fields, each the run's or those of the config of what is learnt.

    Raises:
        ConfigError: A field is neither's or both's, or has a bad value.
    """
    twice = sorted(set(config_class.model_fields) & set(kind.config.model_fields))
    if twice:
        raise ConfigError(f"The config of {name} names a field of the run again ({', '.join(twice)}): rename it.")
    given = {field: value for field, value in fields.items() if field in config_class.model_fields}
    rest = {field: value for field, value in fields.items() if field not in given}
    known = (set(kind.config.model_fields) | set(config_class.model_fields)) - {kind.mark, "settings", "dataset"}
    for field in rest:
        if field not in known:
            raise ConfigError(f"Unknown field '{field}' of {name}: {suggest(field, known)}.")
    settings = build(config_class, given).model_dump(mode="json")
    config: Settings = build(kind.config, {kind.mark: name, "dataset": dataset, "settings": settings, **rest})
    return config
