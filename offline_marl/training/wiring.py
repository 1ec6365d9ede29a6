"""Which source a learner drinks from: recorded rows, those with imagined ones, an environment, or a world model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from offline_marl.algorithms.base import Algorithm
from offline_marl.core.config import ConfigError, build
from offline_marl.core.seeding import Generators, derive
from offline_marl.core.types import DataError, Needs, Source
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.normalize import reward_factor
from offline_marl.datasets.ring import TransitionRing
from offline_marl.training.config import RunConfig
from offline_marl.training.data import Task
from offline_marl.training.fitting import Fit, begin_fit, continue_fit, facts_of, prepare_fit
from offline_marl.training.folder import ModelFolder, RunFolder
from offline_marl.training.imagination import Imagination, MixedSource, Plan, RolloutSource
from offline_marl.training.model_report import verdict
from offline_marl.training.sources import DatasetSource, EnvironmentSource
from offline_marl.worldmodels.base import WorldModel, worldmodels
from offline_marl.worldmodels.oracle import Oracle
from offline_marl.worldmodels.rollout import Caution
from offline_marl.worldmodels.uncertainty import UNCERTAINTIES

MOST_COPIES = 64
"""Copies of an environment that a learner which learns in it plays side by side."""
REAL_FRACTION = 0.05
"""Share of recorded rows in the published mixtures."""
MEASURED = 4_096
"""Recorded transitions that a quantile of the spread is taken over."""


def refuse_mixtures(config: RunConfig, needs: Needs) -> None:
    """Refuse settings of imagined data that contradict each other or the algorithm.

    Raises:
        ConfigError: Says which, and what would be right.
    """
    name, share = config.algorithm, config.real_fraction
    if needs.origin != "data" and (share is not None or config.real_fraction_end is not None):
        raise ConfigError(f"{name} learns from its own episodes alone: it takes no --real-fraction.")
    if needs.origin == "environment" and config.world_model is not None:
        raise ConfigError(f"{name} learns in the environment itself: moma-ppo is the one that takes --world-model.")
    if needs.origin == "data" and config.world_model is None and (share, config.real_fraction_end) != (None, None):
        raise ConfigError("--real-fraction needs a --world-model: without one every row is recorded.")
    if share == "auto" and config.real_fraction_end is not None:
        raise ConfigError("--real-fraction auto follows the number of imagined rows: it takes no --real-fraction-end.")


def make_source(config: RunConfig, folder: RunFolder, task: Task, data: Dataset, learner: Algorithm) -> Source:
    """What `learner.update` will be fed; a missing world model is fitted first.

    Args:
        config: The run's settings.
        folder: The run folder, which keeps a model of its own.
        task: The run's task, rewards as recorded.
        data: Its data, rewards as they are learnt from.
        learner: The algorithm, on its device.
    """
    device = torch.device(config.device)
    generators = Generators(config.seed, device)
    if learner.needs.origin == "environment":
        env = task.make_env(min(MOST_COPIES, learner.batch_size))
        if env is None:
            raise DataError(f"{config.algorithm} learns in an environment, and none belongs to {task.id}.")
        return EnvironmentSource(learner, env, learner.batch_size, Generators(config.seed).get("episodes"), device)
    named = config.world_model or ("ensemble" if learner.needs.origin == "model" else None)
    with_state = learner.needs.state
    if named is None:
        buffer = TransitionBuffer(data, learner.window, device, state=with_state)
        return DatasetSource(buffer, learner.batch_size, generators.get("batches"))
    if data.avail_actions is not None:
        if not bool(data.avail_actions.all()):
            raise DataError("World models foresee no available actions, which this data restricts: train without one.")
        data = replace(data, avail_actions=None)
    if with_state:
        raise DataError(f"{config.algorithm} needs a global state, which world models do not foresee.")
    on_policy = learner.needs.origin == "model"
    rows = -(-learner.batch_size // config.horizon) if on_policy else config.rollouts
    model, held_out = _find_model(named, config, folder, task, rows)
    oracle = isinstance(model, Oracle)
    starts = TransitionBuffer(data, max(learner.window, model.window), device, state=oracle)
    factor = reward_factor(task.data, learner.common.reward_scale)
    plan = Plan(rows, config.horizon, config.start_share, factor, _caution(config, model, held_out))
    imagination = Imagination(model, learner, starts, plan, generators.get("starts"))
    if on_policy:
        return RolloutSource(imagination)
    real = TransitionBuffer(data, learner.window, device, state=oracle)
    rows_of_data = DatasetSource(real, learner.batch_size, generators.get("batches"))
    ring = TransitionRing(config.retain)
    return MixedSource(rows_of_data, imagination, ring, _shares(config), config.refill_every, config.steps)


def _find_model(
    named: str, config: RunConfig, folder: RunFolder, task: Task, rows: int
) -> tuple[WorldModel, TransitionBuffer | None]:
    if named in worldmodels.names():
        kind = worldmodels.get(named)
        if issubclass(kind, Oracle):
            return _make_oracle(kind, config, task, rows), None
        place, chosen = folder.path / "world_model", named
    else:
        place, chosen = Path(named), "ensemble"
    own = ModelFolder(place)
    if own.config_file.is_file():
        return _told(continue_fit(own, task))
    print(f"no world model in {place} yet: fitting one", file=sys.stderr)
    shared: Mapping[str, Any] = config.model_dump(include={"seed", "device", "threads", "clip_actions"})
    return _told(begin_fit(own, prepare_fit(chosen, task.id, shared), task))


def _told(fit: Fit) -> tuple[WorldModel, TransitionBuffer]:
    fit.model.requires_grad_(False)
    if fit.report is None or not fit.report["trusted"]:
        print(f"warning: the world model in {fit.folder} is {verdict(fit.report)}.", file=sys.stderr)
    return fit.model, fit.held_out


def _make_oracle(kind: type[Oracle], config: RunConfig, task: Task, rows: int) -> Oracle:
    env = task.make_env(rows)
    if env is None or task.data.state is None:
        raise DataError(f"The oracle needs the environment of {task.id} and states in its data; one is missing.")
    made = kind(build(kind.Config, {}), facts_of(task.data))
    made.attach(env)
    made.place(config.device, derive(config.seed, "elites"))
    return made


def _caution(config: RunConfig, model: WorldModel, held_out: TransitionBuffer | None) -> Caution:
    cutoff = config.cutoff or float("inf")
    if config.cutoff_quantile is not None and held_out is not None:
        index = torch.linspace(0, len(held_out) - 1, min(MEASURED, len(held_out)), device=held_out.device).long()
        rows = held_out.transitions(index)
        said = model.step(rows.obs, rows.actions, rows.history)
        if said.spread is not None:
            cutoff = float(torch.quantile(UNCERTAINTIES[config.spread](said.spread), config.cutoff_quantile))
    return Caution(config.spread, config.spread_weight, config.reward_spread_weight, cutoff, config.clip_imagined)


def _shares(config: RunConfig) -> tuple[float, float] | None:
    first = REAL_FRACTION if config.real_fraction is None else config.real_fraction
    if first == "auto":
        return None
    last = first if config.real_fraction_end is None else config.real_fraction_end
    return float(first), float(last)
