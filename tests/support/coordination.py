"""One-step games of two agents whose best joint action is known."""

from __future__ import annotations

from collections.abc import Callable

import torch

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.core.config import build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Spec
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.training.sources.recorded import DatasetSource


def one_convention(rows: int = 2000, choice: int = 2, seed: int = 0) -> Dataset:
    """Each agent makes `choice` of three three times in five, else any; reward 1 only where both choose the same."""
    generator = torch.Generator().manual_seed(seed)
    follows = torch.rand(rows, 2, generator=generator) < 0.6
    actions = torch.where(follows, choice, torch.randint(3, (rows, 2), generator=generator))
    rewards = (actions[:, :1] == actions[:, 1:]).float().expand(-1, 2).contiguous()
    return _one_step(actions, rewards, Spec((1, 1), (3, 3), action_kind="discrete"))


def rewarded_point(rows: int = 2000, seed: int = 0) -> tuple[Dataset, torch.Tensor]:
    """Uniformly random actions; the team earns most at (0.5, -0.4)."""
    generator = torch.Generator().manual_seed(seed)
    best = torch.tensor([0.5, -0.4])
    actions = torch.rand(rows, 2, 1, generator=generator) * 2 - 1
    rewards = -(actions[..., 0] - best).square().sum(1, keepdim=True).expand(-1, 2).contiguous()
    return _one_step(actions, rewards, Spec((1, 1), (1, 1))), best


def own_rewards(earn: Callable[[torch.Tensor], torch.Tensor], low: float = -1.0, high: float = 1.0) -> Dataset:
    """2000 uniformly random actions in [low, high]; each of two agents earns `earn(actions)`, `row agent`, alone."""
    generator = torch.Generator().manual_seed(0)
    actions = torch.rand(2000, 2, 1, generator=generator) * (high - low) + low
    return _one_step(actions, earn(actions[..., 0]), Spec((1, 1), (1, 1)))


def judge(learner: Algorithm, data: Dataset, actions: torch.Tensor) -> torch.Tensor:
    """Smaller of the two Q of both agents doing each of `actions`, `choice agent`."""
    both = actions.view(-1, 1, 1).expand(-1, 2, 1)
    with torch.no_grad():
        return learner.critic(learner.inputs(data.obs[:1].expand(len(both), -1, -1)), both).amin(0)


def _one_step(actions: torch.Tensor, rewards: torch.Tensor, spec: Spec) -> Dataset:
    rows = len(rewards)
    ended = torch.ones(rows, 2, dtype=torch.bool)
    return Dataset(
        obs=torch.ones(2 * rows, 2, 1),
        actions=actions,
        rewards=rewards,
        terminations=ended,
        truncations=~ended,
        lengths=torch.ones(rows, dtype=torch.int64),
        spec=spec,
    ).check()


def train_on(name: str, data: Dataset, steps: int, **settings) -> Algorithm:
    """A small learner after so many updates."""
    kind = algorithms.get(name)
    with seeded_globally(0, "initialisation"):
        learner = kind(build(kind.Config, {"hidden": [32], "lr": 3e-3, "batch_size": 128, **settings}), data.spec)
    return train_more(learner, data, steps)


def train_more(learner: Algorithm, data: Dataset, steps: int) -> Algorithm:
    """The same learner after so many further updates, the last third in steps of a tenth so that noise dies down."""
    source = DatasetSource(TransitionBuffer(data), 128, torch.Generator().manual_seed(0))
    for step in range(steps):
        for group in learner.optimizer.param_groups:
            group["lr"] = learner.lr if step < steps * 2 // 3 else learner.lr / 10
        learner.update(source.sample(learner.needs))
    return learner


def play_once(learner: Algorithm, data: Dataset) -> float:
    """The coordination game's reward for the learner's greedy choices."""
    actions = learner.act(data.obs[:1])[0]
    return float(actions[0] == actions[1])
