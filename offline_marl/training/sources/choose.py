"""Choice of a run's source: recorded rows, those mixed with imagined ones, an environment, or a world model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from offline_marl.algorithms.base import Algorithm
from offline_marl.core.seeding import Generators, derive
from offline_marl.core.types import DataError, Needs, Source
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.ring import TransitionRing
from offline_marl.environments.base import refuse_scores_only
from offline_marl.environments.guarded import Guarded
from offline_marl.runs.combinations import imagines_live, replays
from offline_marl.runs.config import RunConfig
from offline_marl.runs.folder import ModelFolder, RunFolder
from offline_marl.runs.pins import OWN_MODEL, pin, version_of
from offline_marl.tasks.data_tasks import Task
from offline_marl.training.models.run_models import (
    kind_in,
    make_unfitted,
    plan_fit,
    refuse_fitting,
    refuse_other_environment,
    refuse_unmeasured,
)
from offline_marl.training.rewards import Rewards
from offline_marl.training.sources.imagined import Imagination, MixedSource, Plan, RolloutSource
from offline_marl.training.sources.online import Replay, environment_name, plan_replay
from offline_marl.training.sources.online_model import plan_online_model
from offline_marl.training.sources.recorded import DatasetSource, EnvironmentSource
from offline_marl.training.sources.replay import LiveMixture
from offline_marl.worldmodels.base import WorldModel, worldmodels
from offline_marl.worldmodels.rollout import Caution
from offline_marl.worldmodels.uncertainty import UNCERTAINTIES

MOST_COPIES = 256
"""Copies of an environment that a learner which learns in it plays side by side."""
REAL_FRACTION = 0.05
"""Share of recorded rows in the published mixtures."""
MEASURED = 4_096
"""Recorded transitions that a quantile of the spread is taken over."""


def plan_source(
    config: RunConfig, folder: RunFolder, task: Task, rewards: Rewards, learner: Algorithm
) -> Callable[[], Source]:
    """Gives what `learner.update` will be fed, once the run has begun; what can be refused is refused before.

    Args:
        config: The run's settings.
        folder: The run folder, which keeps a model of its own.
        task: The run's task, with the environment's rewards.
        rewards: Its data with those that are learnt from, and what converts imagined and live ones.
        learner: The algorithm, on its device.

    Raises:
        BadInputError: Of a kind that says what does not fit together.
    """
    plays = replays(config, learner.needs) or imagines_live(config, learner.needs)
    if task.environment is not None and (plays or learner.needs.origin == "environment"):
        refuse_scores_only(task.called, task.environment)
    named = config.world_model or (learner.imagines_in if learner.needs.origin == "model" else None)
    if named is not None and imagines_live(config, learner.needs):
        return _plan_online_model(named, config, folder, task, rewards, learner)
    if named is not None:
        return _plan_imagining(named, config, folder, task, rewards, learner)
    if replays(config, learner.needs):
        live = plan_replay(config, folder, task, rewards, learner)
        return lambda: live.source(live.rows)
    made = make_plain(config, task, rewards, learner)
    return lambda: made


def _plan_imagining(
    named: str, config: RunConfig, folder: RunFolder, task: Task, rewards: Rewards, learner: Algorithm
) -> Callable[[], Source]:
    """Gives the source of a run that imagines in a model, which is fitted before the run or not at all."""
    by_kind = named in worldmodels.names()
    model_folder = ModelFolder(folder.path / "world_model" if by_kind else Path(named))
    name = named if by_kind else kind_in(model_folder)
    kind = worldmodels.get(name)
    refuse_unforeseen(config, task.data, learner, kind)
    replay = None
    if replays(config, learner.needs):
        replay = plan_replay(config, folder, task, rewards, learner, "state" in kind.foresees)
    if not kind.fitted:
        if not folder.config_file.is_file():
            refuse_fitting(name, config)
            if kind.needs_environment:
                refuse_other_environment(name, task)
        model = make_unfitted(name, config, task, _rollout_rows(config, learner))
        unfitted = _make_imagining(config, task, rewards, learner, model, None, replay)
        return lambda: unfitted if replay is None else replay.source(unfitted)
    fitted = plan_fit(model_folder, name, config, folder, task)

    def make() -> Source:
        model, held_out = fitted()
        pin(folder, OWN_MODEL if by_kind else f"world model in {model_folder.path}", version_of(model))
        model.place(config.device, derive(config.seed, "imagination"))
        imagining = _make_imagining(config, task, rewards, learner, model, held_out, replay)
        return imagining if replay is None else replay.source(imagining)

    if model_folder.done and replay is None:
        made = make()
        return lambda: made
    return make


def _plan_online_model(
    named: str, config: RunConfig, folder: RunFolder, task: Task, rewards: Rewards, learner: Algorithm
) -> Callable[[], Source]:
    """Gives the source of a run that plays and learns in a model of what it plays."""
    if named in worldmodels.names():
        refuse_unforeseen(config, task.data, learner, worldmodels.get(named))

    def caution_of(model: WorldModel, rows: TransitionBuffer | None) -> Caution:
        if rows is None:
            refuse_unmeasured(config, lambda: model, task.data)
        return _caution(config, model, rows, rewards)

    plan = Plan(_rollout_rows(config, learner), config.horizon, config.start_share, Caution())
    return plan_online_model(config, folder, task, rewards, learner, plan, caution_of)


def refuse_unforeseen(config: RunConfig, data: Dataset, learner: Algorithm, kind: type[WorldModel]) -> None:
    """Refuse to imagine what this kind of world model does not foresee.

    Raises:
        DataError: Says what.
    """
    avail = data.avail_actions
    restricted = avail is not None and not bool((avail | ~data.spec.present("act")).all())
    if restricted and "avail_actions" not in kind.foresees:
        raise DataError(
            "This kind of world model foresees no available actions, which this data restricts: take one that does, "
            "such as --world-model marie, or train without one."
        )
    if learner.needs.state and "state" not in kind.foresees:
        raise DataError(f"{config.algorithm} needs a global state, which world models do not foresee.")


def make_plain(config: RunConfig, task: Task, rewards: Rewards, learner: Algorithm) -> Source:
    """Source of rows of one kind: those of the data, or an environment's."""
    device, rows = torch.device(config.device), learner.batch_size
    if learner.needs.origin == "environment":
        made = task.make_envs(min(MOST_COPIES, rows), config.workers)
        if made is None:
            raise DataError(f"{config.algorithm} learns in an environment, and none belongs to {task.id}.")
        env = Guarded(made, environment_name(config, task), config.environment_timeout)
        return EnvironmentSource(learner, env, rows, Generators(config.seed).get("episodes"), device, rewards)
    buffer = buffer_of(task, rewards, learner, device)
    return DatasetSource(buffer, rows, Generators(config.seed, buffer.device).get("batches"))


def buffer_of(task: Task, rewards: Rewards, learner: Algorithm, device: torch.device) -> TransitionBuffer:
    """The recorded rows that a learner of data alone is fed."""
    return TransitionBuffer(rewards.recorded, learner.window, device, state=learner.needs.state, stays=task.mapped)


def _kept(config: RunConfig, needs: Needs) -> int:
    """Imagined rows that are kept, or segments with about as many steps."""
    steps = 1 if needs.view == "transitions" else min(needs.length or config.horizon, config.horizon)
    return -(-config.retain // steps)


def _rollout_rows(config: RunConfig, learner: Algorithm) -> int:
    return -(-learner.batch_size // config.horizon) if learner.needs.origin == "model" else config.rollouts


def _make_imagining(
    config: RunConfig,
    task: Task,
    rewards: Rewards,
    learner: Algorithm,
    model: WorldModel,
    held_out: TransitionBuffer | None,
    replay: Replay | None,
) -> Source:
    device = torch.device(config.device)
    generators = Generators(config.seed, "cpu" if task.mapped else device)
    data = rewards.recorded
    if "avail_actions" not in model.foresees:
        data = replace(data, avail_actions=None)
    # Imagined rows hold what the model foresees, and recorded ones beside them must hold the same.
    foreseen = "state" in model.foresees
    window, state = max(learner.window, model.window, rewards.window), foreseen or model.needs_state
    starts = TransitionBuffer(data, window, device, state=state, stays=task.mapped)
    rows = _rollout_rows(config, learner)
    plan = Plan(rows, config.horizon, config.start_share, _caution(config, model, held_out, rewards))
    imagination = Imagination(model, learner, starts, plan, rewards, generators.get("starts"))
    imagination.live = None if replay is None else replay.ring
    if learner.needs.origin == "model":
        return RolloutSource(imagination)
    ring = TransitionRing(_kept(config, learner.needs))
    if replay is None:
        buffer = TransitionBuffer(data, learner.window, device, state=foreseen, stays=task.mapped)
        real: DatasetSource | LiveMixture = DatasetSource(buffer, learner.batch_size, generators.get("batches"))
    else:
        real = replay.rows
    return MixedSource(real, imagination, ring, _shares(config), config.refill_every, config.steps)


def _caution(config: RunConfig, model: WorldModel, held_out: TransitionBuffer | None, rewards: Rewards) -> Caution:
    cutoff = config.cutoff or float("inf")
    if held_out is not None:
        index = torch.linspace(0, len(held_out) - 1, min(MEASURED, len(held_out)), device=held_out.device).long()
        rows = held_out.transitions(index)
        if rows.mask is not None and bool(rows.mask.all(-1).any()):
            # Of agents that are away no member knows anything.
            together = rows.mask.all(-1)
            rows = rows.map(lambda value: value[together])
        prediction, _ = model.step(model.begin(rows), rows.actions)
        if prediction.spread is not None:
            measured = UNCERTAINTIES[config.spread](prediction.spread)  # refuses models that cannot be measured so
            if config.cutoff_quantile is not None:
                cutoff = float(torch.quantile(measured, config.cutoff_quantile))
    # Doubt about rewards that nobody learns from costs nothing.
    reward_weight = config.reward_spread_weight if rewards.replacement is None else 0.0
    return Caution(config.spread, config.spread_weight, reward_weight, cutoff, config.clip_imagined)


def _shares(config: RunConfig) -> tuple[float, float] | None:
    first = REAL_FRACTION if config.real_fraction is None else config.real_fraction
    if first == "auto":
        return None
    last = first if config.real_fraction_end is None else config.real_fraction_end
    return float(first), float(last)
