"""One update of everything that learns, by its registered name: for the rows of speed.py and of apart.py.

`prepare(name, size)` gives a call that makes so many updates of the default settings on noise in the shape of a task,
256 rows or what the learner's view asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import NamedTuple

import torch
from timing import SIZES, make_batch

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.core.config import build
from offline_marl.core.permissions import ImportPath
from offline_marl.core.types import Batch, Spec
from offline_marl.environments.episodes import episode_seeds, play
from offline_marl.preferences.reward_model import Comparisons, RewardModel, RewardModelConfig
from offline_marl.tasks.environment_tasks import find_environment_task
from offline_marl.worldmodels.ensemble import Ensemble, EnsembleConfig
from offline_marl.worldmodels.facts import measure
from offline_marl.worldmodels.marie import Marie, MarieConfig

ROWS, CHOICES = 256, 5
EPISODES, LENGTH = 40, 50
"""Of an update of PPO."""
PAIRS, SEGMENT = 64, 25
"""Of an update that compares."""


ACTED, COPIES = 100, 50
"""Episodes of the row of acting, and how many of them side by side."""


class Row(NamedTuple):
    call: Callable[[], object]
    updates: int
    """How many a call makes: two where the policy learns at every second one."""


def cut(rows: Batch, *lead: int) -> Batch:
    """Rows as segments of equal length, each ended by the clock."""
    batch = rows.map(lambda value: value.unflatten(0, lead))
    truncations = torch.zeros_like(batch.truncations)
    truncations[..., -1, :] = True
    return replace(batch, truncations=truncations, mask=torch.ones_like(truncations))


def make_segments(spec: Spec, window: int) -> Batch:
    """Episodes of a team that plays, without a mask."""
    return replace(cut(make_batch(spec, EPISODES * LENGTH, window), EPISODES, LENGTH), mask=None)


def choosing(spec: Spec) -> Spec:
    """A team of that size that has choices."""
    return Spec(spec.obs_dims, (CHOICES,) * spec.n_agents, action_kind="discrete")


def batch_of(learner: Algorithm, spec: Spec) -> Batch:
    """What the learner's view asks for."""
    needs = learner.needs
    if needs.view == "pairs":
        pairs = cut(make_batch(spec, learner.batch_size * 2 * SEGMENT, 0), learner.batch_size, 2, SEGMENT)
        return replace(
            pairs,
            preference=torch.arange(learner.batch_size).remainder(2).float(),
            subject=torch.full((learner.batch_size,), -1),
        )
    if needs.view == "segments" and spec.discrete:
        rows = make_batch(spec, learner.batch_size * SEGMENT, 0)
        actions = torch.randint(CHOICES, rows.rewards.shape, generator=torch.Generator().manual_seed(1))
        return cut(replace(rows, actions=actions), learner.batch_size, SEGMENT)
    return make_segments(spec, 0) if needs.view == "segments" else make_batch(spec, ROWS, 0)


def prepare_learner(name: str, size: str) -> Row:
    kind, spec = algorithms.get(name), SIZES[size]
    if "continuous" not in kind.needs.actions:
        spec = choosing(spec)
    learner = kind(build(kind.Config, {}), spec)
    batch = batch_of(learner, spec)
    updates = 1 if learner.needs.view == "segments" else 2

    def call() -> None:
        for _ in range(updates):
            learner.update(batch)

    return Row(call, updates)


def prepare_ensemble(size: str) -> Row:
    config = EnsembleConfig()
    rows = make_batch(SIZES[size], config.members * ROWS, 0)
    facts = measure(SIZES[size], rows.obs, rows.next_obs, rows.rewards, rows.terminations)
    model = Ensemble(config, facts)
    batch = rows.map(lambda value: value.unflatten(0, (config.members, ROWS)))
    return Row(lambda: model.update(batch), 1)


def prepare_marie(size: str) -> Row:
    """Of the transformers: the tokenizer has had its updates."""
    config = MarieConfig()
    rows = make_batch(SIZES[size], config.batch_size * config.length, 0)
    facts = measure(SIZES[size], rows.obs, rows.next_obs, rows.rewards, rows.terminations)
    model, batch = Marie(config, facts), cut(rows, config.batch_size, config.length)
    model.update(batch)
    model.updates = model.tokenizer_steps
    return Row(lambda: model.update(batch), 1)


def prepare_rewards(size: str) -> Row:
    config, spec = RewardModelConfig(), SIZES[size]
    lead = (config.members, PAIRS, 2, SEGMENT)
    rows = cut(make_batch(spec, config.members * PAIRS * 2 * SEGMENT, 0), *lead)
    labels = torch.arange(config.members * PAIRS).remainder(2).view(config.members, PAIRS)
    batch = Comparisons(
        **{field.name: getattr(rows, field.name) for field in fields(rows)},
        labels=labels.float(),
        targets=torch.full_like(labels, -1),
        labelled=torch.ones_like(labels, dtype=torch.bool),
    )
    model = RewardModel(config, spec, torch.zeros(spec.n_agents, spec.obs_dim), torch.ones(spec.n_agents, spec.obs_dim))
    return Row(lambda: model.update(batch), 1)


MODELS: dict[str, Callable[[str], Row]] = {
    "ensemble": prepare_ensemble,
    "marie": prepare_marie,
    "bradley-terry": prepare_rewards,
}
"""World models and reward models that are fitted; `oracle` learns nothing."""


def prepare_acting() -> Row:
    """Episodes of Reacher that a new `td3-bc` plays, as runs are scored; a call makes them all."""
    env = find_environment_task("reacher_2x1_full", permit=ImportPath).make(COPIES)
    kind = algorithms.get("td3-bc")
    learner, seeds = kind(build(kind.Config, {}), env.spec), episode_seeds(0, ACTED)
    return Row(lambda: play(learner, env, seeds), 1)


def prepare(name: str, size: str) -> Row:
    """A call that makes updates of the learner or model of this name, or plays for `acting`."""
    torch.manual_seed(0)
    if name == "acting":
        return prepare_acting()
    return MODELS[name](size) if name in MODELS else prepare_learner(name, size)


def names() -> list[str]:
    """Everything that learns; plugins too."""
    return [*algorithms.names(), *MODELS]
