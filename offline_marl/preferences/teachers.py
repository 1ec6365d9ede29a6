"""Simulated annotators that compare segments by the environment's reward, as noisily as people might.

G = sum_t discount^(L - 1 - t) r_t of the mean over agents, or of one agent; the first is preferred with probability
sigmoid(steepness (G_1 - G_2) / scale). Scale is one number of the task, the same for every mixture of its data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from offline_marl.core.config import Config
from offline_marl.core.fields import NotNegative, Share
from offline_marl.preferences.labels import Answer

Returns = Annotated[Tensor, "pair side"]
PerPair = Annotated[Tensor, "pair"]
StepRewards = Annotated[Tensor, "pair side time agent"]

ANSWERS: tuple[Answer, ...] = ("second", "first", "equal", "skip")
"""Answers by the numbers that a teacher computes with."""
SECOND, FIRST, EQUAL, SKIP = range(4)


class TeacherConfig(Config):
    """P(first) = sigmoid(steepness (G_1 - G_2) / scale), after skips and ties, before mistakes (Lee et al., 2021)."""

    steepness: NotNegative | Literal["perfect"] = 5.0
    """How surely the better segment is preferred; 0 tosses a coin, perfect never errs by itself."""
    discount: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Weight of each step relative to the next: below 1 the end of a segment counts most."""
    error_rate: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Chance that an answer for the first or the second is turned round."""
    skip: Share = 0.0
    """Skips pairs whose returns are both below this share of the mean segment return, above the least if negative."""
    equal: Share = 0.0
    """Calls segments equal whose returns differ by less than this share of the mean segment return."""


@dataclass(frozen=True, slots=True)
class TaskScale:
    """Unit of a task's segment returns; stated once, so that mixtures of one task can be compared."""

    scale: float
    """Difference of returns that counts as one: such as expert less random, for as many steps as a segment has."""
    mean: float
    """Mean return of a segment."""
    least: float
    """Least return of a segment."""

    @property
    def height(self) -> float:
        """The mean return over the least where that is negative: what shares of the mean are taken of."""
        return self.mean - min(self.least, 0.0)

    @property
    def floor(self) -> float:
        """Where shares of the mean begin."""
        return min(self.least, 0.0)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"scale": self.scale, "mean": self.mean, "least": self.least}


def segment_returns(
    rewards: StepRewards, mask: StepRewards, targets: Annotated[Tensor, "pair"], discount: float = 1.0
) -> Returns:
    """G of both segments of each pair: the mean over agents (who is away earns 0), or of one agent.

    Args:
        rewards: The environment's.
        mask: Bool, false behind an episode's end and for agents that are away.
        targets: Int64: the agent's index, or -1 for the team.
        discount: See `TeacherConfig`; the last step of a segment weighs 1.
    """
    paid = rewards.double().masked_fill(~mask, 0.0)
    steps = mask.any(-1).sum(-1, keepdim=True)
    ages = (steps - 1 - torch.arange(rewards.shape[-2], device=rewards.device)).clamp(min=0)
    earned = (paid * (discount ** ages.double()).unsqueeze(-1)).sum(-2)
    index = targets.clamp(min=0).view(-1, 1, 1).expand(-1, 2, 1)
    own = earned.gather(-1, index).squeeze(-1)
    return torch.where(targets.view(-1, 1) < 0, earned.mean(-1), own)


def preference(returns: Returns, config: TeacherConfig, scale: float) -> PerPair:
    """Probability that the teacher says `first`, where it says neither `equal` nor `skip`; mistakes included."""
    margin = returns[..., 0] - returns[..., 1]
    if config.steepness == "perfect":
        surely = 0.5 + 0.5 * margin.sign()
    else:
        surely = torch.sigmoid(config.steepness * margin / scale)
    return surely * (1 - config.error_rate) + (1 - surely) * config.error_rate


def answer(
    returns: Returns,
    undiscounted: Returns,
    config: TeacherConfig,
    scale: TaskScale,
    draws: PerPair,
) -> list[Answer]:
    """The teacher's answers, in this order: skip, equal, first or second.

    Args:
        returns: What it prefers by; see `segment_returns`.
        undiscounted: What skips and ties are judged by.
        config: Its character.
        scale: Of the task.
        draws: Uniform in [0, 1): they decide preferences and mistakes.
    """
    chosen = torch.where(draws < preference(returns, config, scale.scale), FIRST, SECOND)
    alike = (undiscounted[:, 0] - undiscounted[:, 1]).abs()
    tied = alike < config.equal * scale.height
    if config.steepness == "perfect":
        tied = tied | (returns[:, 0] == returns[:, 1])
    skipped = undiscounted.amax(-1) < scale.floor + config.skip * scale.height
    if config.skip == 0.0:
        skipped = torch.zeros_like(skipped)
    numbers = torch.where(skipped, SKIP, torch.where(tied, EQUAL, chosen))
    return [ANSWERS[number] for number in numbers.tolist()]


def best_accuracy(returns: Returns, config: TeacherConfig, scale: float) -> float:
    """Bayes rate: how often the better guess agrees with the teacher's labels, ties left out."""
    likely = preference(returns, config, scale)
    return float(torch.maximum(likely, 1 - likely).mean())


def best_loss(returns: Returns, config: TeacherConfig, scale: float) -> float:
    """Least mean -log likelihood of the teacher's labels, in nats."""
    likely = preference(returns, config, scale)
    return float(-(torch.xlogy(likely, likely) + torch.xlogy(1 - likely, 1 - likely)).mean())
