"""Games whose best joint choices are known, and small learners of their values."""

from __future__ import annotations

import torch
from worlds import SPECS, world

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.core.config import build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch, Spec

DATA, SPEC = world("discrete"), SPECS["discrete"]


def small(name: str = "vdn", seed: int = 0, **settings) -> Algorithm:
    kind = algorithms.get(name)
    with seeded_globally(seed, "initialisation"):
        made = kind(build(kind.Config, {"hidden": [8, 8], **settings}), SPEC)
    made.place("cpu", seed)
    return made


def one_step_game(payoff: torch.Tensor) -> tuple[Spec, Batch]:
    """Every joint choice of two agents once; they see nothing, and the game is over."""
    choices = len(payoff)
    spec = Spec(obs_dims=(1, 1), act_dims=(choices, choices), action_kind="discrete")
    actions = torch.cartesian_prod(torch.arange(choices), torch.arange(choices)).unsqueeze(1)
    obs, over = torch.ones(len(actions), 1, 2, 1), torch.ones(len(actions), 1, 2, dtype=torch.bool)
    rewards = payoff.flatten().view(-1, 1, 1).expand(-1, 1, 2)
    return spec, Batch(obs, actions, rewards, obs, over, ~over, mask=over)


def solved(name: str, spec: Spec, batch: Batch, updates: int, **settings) -> Algorithm:
    kind = algorithms.get(name)
    fields = {"hidden": [16], "lr": 0.02, "cosine_steps": updates, "tau": 0.05, "grad_clip": 0, **settings}
    with seeded_globally(0, "initialisation"):
        learner = kind(build(kind.Config, fields), spec)
    learner.place("cpu", 0)
    for _ in range(updates):
        learner.update(batch)
    return learner


@torch.no_grad()
def team_values(learner: Algorithm, obs: torch.Tensor) -> torch.Tensor:
    """Q_tot of every joint choice at the last of these steps, `[time agent obs]`."""
    q = learner.critic(learner.inputs(obs.unsqueeze(0)))[0][0, -1]
    choices = q.shape[-1]
    pairs = torch.cartesian_prod(torch.arange(choices), torch.arange(choices))
    values = torch.stack([q[0][pairs[:, 0]], q[1][pairs[:, 1]]], dim=-1)
    mixed = learner.mixer(values, learner.joint(obs[-1]).expand(len(pairs), -1))
    return mixed.view(choices, choices)


def two_step_game() -> tuple[Spec, Batch]:
    """Rashid et al., 2018: the first agent's first choice picks a payoff of 7 throughout, or of 0, 1, 1 and 8.

    All agents see which of the three states it is. Rows are all pairs of joint choices.
    """
    spec = Spec(obs_dims=(3, 3), act_dims=(2, 2), action_kind="discrete")
    two = torch.arange(2)
    choices = torch.cartesian_prod(two, two, two, two).view(-1, 2, 2)
    place = torch.stack([torch.zeros(16, dtype=torch.int64), 1 + choices[:, 0, 0]], dim=1)
    after = torch.stack([place[:, 1], place[:, 1]], dim=1)
    obs, next_obs = (torch.eye(3)[each].unsqueeze(2).expand(-1, -1, 2, -1) for each in (place, after))
    second = torch.tensor([[0.0, 1.0], [1.0, 8.0]])[choices[:, 1, 0], choices[:, 1, 1]]
    rewards = torch.stack([torch.zeros(16), torch.where(choices[:, 0, 0] == 0, 7.0, second)], dim=1)
    over = torch.tensor([False, True]).view(1, 2, 1).expand(16, 2, 2)
    paid = rewards.unsqueeze(-1).expand(-1, -1, 2)
    return spec, Batch(obs, choices, paid, next_obs, over, torch.zeros_like(over), mask=torch.ones_like(over))


def seen_in(*places: int) -> torch.Tensor:
    return torch.eye(3)[list(places)].unsqueeze(1).expand(-1, 2, -1)
