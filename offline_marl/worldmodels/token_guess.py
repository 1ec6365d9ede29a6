"""Guess of a step by small networks of all agents' exact numbers, of which tokens then tell what it misses.

A categorical distribution of V choices has to be learnt choice by choice; a regression is learnt in a fraction of the
updates. What is left to tokens is noise, several modes, and what only the past explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from offline_marl.core.axes import PerAgent
from offline_marl.losses import tokens as losses
from offline_marl.networks.ensembles import StackedMLP
from offline_marl.worldmodels.facts import Facts, Joint
from offline_marl.worldmodels.token_members import run

REACH = 20.0
"""Largest residual that is told, in deviations of residuals: what is rare is learnt late, and drawn till then."""
DECAY = 0.99
LEAST_SHARE = 1e-4
"""Least deviation of a miss, as a share of the deviation of what is guessed."""


@dataclass(frozen=True, slots=True)
class Guessed:
    """Expectation of a step's changes and rewards, of each member, in raw units."""

    changes: Annotated[Tensor, "member *lead coordinate"]
    rewards: Annotated[Tensor, "member *lead agent"]


class Guess(nn.Module):
    """Regressions of the joint change and of the rewards on what all agents see and do.

    Args:
        members: Independent networks, whose mean is the guess.
        facts: Of the data.
        numbers: Of a step, that are read.
        hidden: Widths of the hidden layers.
    """

    scale: Tensor
    """Deviation of what the guess misses: of coordinates, then of rewards."""
    begun: Tensor

    def __init__(self, members: int, facts: Facts, numbers: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.members, self.split = members, [facts.coordinates, facts.spec.n_agents]
        self.net = StackedMLP(members, numbers, tuple(hidden), sum(self.split))
        self.register_buffer("mean", torch.cat([facts.change_mean, facts.reward_mean]), persistent=False)
        self.register_buffer("std", torch.cat([facts.change_std, facts.reward_std]), persistent=False)
        self.register_buffer("scale", self.std.clone())
        self.register_buffer("begun", torch.tensor(False))

    mean: Tensor
    std: Tensor

    def forward(self, exact: Annotated[Tensor, "*lead number"]) -> Guessed:
        """What is expected."""
        out = run(self.net, exact.expand(self.members, *exact.shape)) * self.std + self.mean
        return Guessed(*torch.split(out, self.split, dim=-1))

    def learn(
        self,
        exact: Annotated[Tensor, "*lead number"],
        changes: Joint,
        rewards: PerAgent,
        counts: Annotated[Tensor, "*lead number"],
    ) -> Tensor:
        """Sum over members of the mean Huber loss of standardised numbers, those that count (bool); `scale` moves."""
        guessed, aim = self(exact), torch.cat([changes, rewards], dim=-1)
        told = torch.cat([guessed.changes, guessed.rewards], dim=-1)
        missed = (told - aim) / self.std
        huber = nn.functional.huber_loss(missed, torch.zeros_like(missed), reduction="none")
        loss: Tensor = len(told) * losses.weighted_mean(huber, counts.expand_as(huber))
        self._follow((told.detach().mean(0) - aim).flatten(0, -2), counts.flatten(0, -2))
        return loss

    @torch.no_grad()
    def _follow(self, missed: Annotated[Tensor, "row number"], counts: Annotated[Tensor, "row number"]) -> None:
        rows = counts.sum(0)
        now = ((missed.square() * counts).sum(0) / rows.clamp(min=1)).sqrt()
        now = torch.where(rows > 0, now, self.scale).clamp(min=LEAST_SHARE * self.std)
        self.scale.copy_(torch.where(self.begun, torch.lerp(now, self.scale, DECAY), now))
        self.begun.fill_(True)

    @property
    def of_changes(self) -> Annotated[Tensor, "coordinate"]:
        """Deviation of what it misses of coordinates."""
        return self.scale[: self.split[0]]

    @property
    def of_rewards(self) -> Annotated[Tensor, "agent"]:
        """Deviation of what it misses of rewards."""
        return self.scale[self.split[0] :]
