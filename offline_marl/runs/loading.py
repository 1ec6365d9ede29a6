"""An algorithm from the settings of its run: freshly made, begun with another run's networks, or as it was saved."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from offline_marl.algorithms.base import Algorithm, AlgorithmConfig, algorithms
from offline_marl.core.config import build
from offline_marl.core.permissions import Permit, is_import_path
from offline_marl.core.registry import RegistryError
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import DataError, Spec
from offline_marl.runs.combinations import refuse_mixtures, refuse_other_scale
from offline_marl.runs.config import ACTING_RUNS, RunConfig
from offline_marl.runs.folder import RunFolder, RunFolderError, naming_plugins, newest_state, restoring, state_at
from offline_marl.runs.pins import version_of
from offline_marl.runs.sizes import refuse_too_large

MEANINGS = {
    "activation": "activation",
    "kind": "mixer",
    "soft_std": "soft_std, which bounds log-std,",
    "embedded": "window",
    "stacked": "number of past frames",
}
"""Attributes of modules that decide what parameters of the same shape mean, and what they are called."""


def load(run: str | Path, step: int | None = None) -> Algorithm:
    """The trained algorithm of a run's newest readable checkpoint, on the CPU, ready to `act`.

    Args:
        run: The run folder.
        step: Take the checkpoint of this step instead.

    Raises:
        RunFolderError: The folder holds no run, or no checkpoint (or none of that step) that can be read.
    """
    return load_with_step(run, step)[0]


def load_with_step(run: str | Path, step: int | None = None) -> tuple[Algorithm, int]:
    """The algorithm of `load`, and the step of its checkpoint."""
    folder = RunFolder(run)
    config = folder.config()
    widths = folder.versions().get("spec")
    if widths is None:
        raise RunFolderError(f"{folder.versions_file} is missing or damaged.")
    with naming_plugins(folder):
        learner = make_algorithm(config, Spec.from_plain(widths))
    state = newest_state(folder) if step is None else state_at(folder, step)
    if state is None:
        raise RunFolderError(f"{folder.path} holds no checkpoint yet.")
    with restoring(folder.path):
        learner.load_state_dict(state["algorithm"])
        learner.environment_steps = int(state["source"].get("environment_steps", 0))
        return learner, int(state["step"])


def make_algorithm(config: RunConfig, spec: Spec) -> Algorithm:
    """The algorithm of a run, its weights drawn from the run's seed.

    Raises:
        DataError: The algorithm cannot eat data of this spec.
        RegistryError: Its class lacks a method, or its settings lack the common ones.
    """
    kind = algorithms.get(config.algorithm)
    if not issubclass(kind.Config, AlgorithmConfig):
        raise RegistryError(
            f"The algorithm '{config.algorithm}' has settings {kind.Config.__name__} without the common ones: let that "
            "class be one of offline_marl.AlgorithmConfig."
        )
    if inspect.isabstract(kind):
        lacking = ", ".join(sorted(kind.__abstractmethods__))
        raise RegistryError(f"The algorithm '{config.algorithm}' is unfinished: {kind.__name__} lacks {lacking}.")
    needs = kind.needs
    if spec.action_kind not in needs.actions:
        wanted = " or ".join(sorted(needs.actions))
        raise DataError(f"{config.algorithm} needs {wanted} actions; {config.task} holds {spec.action_kind} ones.")
    if needs.state and not spec.state_dim:
        raise DataError(f"{config.algorithm} needs a global state; {config.task} holds none.")
    refuse_mixtures(config, needs)
    settings = build(kind.Config, config.settings)
    refuse_too_large(config.algorithm, lambda: kind(settings, spec), settings.model_dump(), spec)
    with seeded_globally(config.seed, "initialisation"):
        learner = kind(settings, spec)
    if not learner.optimizers and any(parameter.requires_grad for parameter in learner.parameters()):
        raise DataError(
            f"{config.algorithm} has parameters that no optimiser moves: name its modules to self.optimize(...) at the "
            "end of __init__."
        )
    return learner


def take_over(learner: Algorithm, folder: RunFolder, begun: RunConfig) -> None:
    """Begin with another run's networks of the same name.

    Args:
        learner: Freshly made.
        folder: Of the other run.
        begun: Settings of the run that begins.

    Raises:
        RunFolderError: Its settings were edited, or it holds no checkpoint, or no network of the same name, kind, shape
            and meaning.
        ConfigError: It read the same actions on another scale.
    """
    config = folder.unedited_config()
    refuse_other_scale(f"run in {folder.path}", config, begun.dataset, begun.action_scale)
    kind = algorithms.get(config.algorithm)
    with seeded_globally(config.seed, "initialisation"):
        other = kind(build(kind.Config, config.settings), learner.spec)
    state = newest_state(folder)
    if state is None:
        raise RunFolderError(f"{folder.path} holds no checkpoint yet.")
    if not isinstance(state.get("algorithm"), Mapping):
        raise RunFolderError(f"The checkpoint in {folder.path} holds no networks.")
    states = {name: module.state_dict() for name, module in learner.named_children() if not name.startswith("target_")}
    loaded = {
        name: {
            key.removeprefix(f"{name}."): value
            for key, value in state["algorithm"].items()
            if key.startswith(f"{name}.")
        }
        for name in states
    }
    taken = [name for name in states if states[name] and loaded[name]]
    wanted = [name for name in states if name != "inputs" and list(getattr(learner, name).parameters())]
    if not set(taken) & set(wanted):
        # How observations are read (`inputs`: statistics, histories) is no beginning without a network that reads them.
        raise RunFolderError(
            f"{folder.path} holds no network that this algorithm has too ({', '.join(wanted)})"
            f"{': nothing but how observations are read would be taken over' if taken else ''}."
        )
    for name in taken:
        kinds = [type(getattr(algorithm, name)).__name__ for algorithm in (learner, other)]
        if kinds[0] != kinds[1]:
            raise RunFolderError(f"The {name} of {folder.path} is of another kind ({kinds[1]}, not {kinds[0]}).")
        shapes = [{key: tuple(value.shape) for key, value in modules[name].items()} for modules in (states, loaded)]
        if shapes[0] != shapes[1]:
            raise RunFolderError(
                f"The {name} of {folder.path} has another shape: give both runs the same hidden, window, "
                "history_encoder ..."
            )
        _refuse_other_meaning(name, folder, getattr(learner, name), getattr(other, name))
        for module in (getattr(learner, name), getattr(learner, f"target_{name}", None)):
            if module is not None:
                module.load_state_dict(loaded[name])
    print(f"begins with {', '.join(taken)} of {folder.path}", file=sys.stderr)


def _refuse_other_meaning(name: str, folder: RunFolder, module: nn.Module, other: nn.Module) -> None:
    parts = dict(other.named_modules())
    for place, part in module.named_modules():
        for attribute, noun in MEANINGS.items():
            now, then = getattr(part, attribute, None), getattr(parts.get(place), attribute, None)
            if isinstance(now, str | int) and now != then:
                raise RunFolderError(
                    f"The {name} of {folder.path} would be another function here: its {noun} is {then}, not {now}."
                )


def with_actors(settings: Mapping[str, Any], permit: Permit) -> dict[str, Any]:
    """Settings of an environment whose actors can act: runs are loaded, import paths are permitted or refused.

    Raises:
        ForbiddenImportError: See `permissions.permit_of`.
        RunFolderError: A folder holds no run or no readable checkpoint.
    """
    return {name: _actor(value, permit) if name in ACTING_RUNS else value for name, value in settings.items()}


def opponents_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Checksums of the runs that act in an environment made with these settings, of `with_actors`, by what they are."""
    return {
        f"{role} of the run {actor.run}": version_of(actor.policy)
        for role, actor in settings.items()
        if isinstance(actor, ActingPrey)
    }


def _actor(value: Any, permit: Permit) -> Any:
    if isinstance(value, str) and Path(value).is_dir():
        return ActingPrey(value)
    return permit(value) if isinstance(value, str) and is_import_path(value) else value


class ActingPrey:
    """The last agent of a run as a function of its own observation, such as the prey of MPE's Tag; deterministic.

    Args:
        run: The run folder; its newest checkpoint acts.

    Raises:
        RunFolderError: The folder holds no run or no readable checkpoint.
        DataError: The agent reads its past, of which the function is told nothing.
    """

    def __init__(self, run: str | Path) -> None:
        self.run, self.policy = run, load(run)
        if any(value is not None for value in self.policy.begin(1).read().values()):
            window = f" (window = {self.policy.window})" if self.policy.window else ""
            raise DataError(f"The run {run} reads its past{window}, which a given prey does not.")

    @torch.no_grad()
    def __call__(self, obs: npt.NDArray[np.float32]) -> Any:
        """A choice, or actions in [0, 1] as mpe2 has them."""
        spec = self.policy.spec
        if len(obs) != spec.obs_dims[-1]:
            raise DataError(
                f"The last agent of {self.run} sees {spec.obs_dims[-1]} numbers, not the prey's {len(obs)}."
            )
        seen = torch.zeros(1, spec.n_agents, spec.obs_dim)
        seen[0, -1, : len(obs)] = torch.from_numpy(obs)
        chosen = self.policy.act(seen)[0, -1]
        return int(chosen) if spec.discrete else (chosen[: spec.act_dims[-1]].numpy() + 1) / 2
