"""Bootstrapped targets and losses of value functions."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from offline_marl.core.axes import PerTeam


def td_target(rewards: PerTeam, terminations: PerTeam, next_v: PerTeam, gamma: float) -> PerTeam:
    """One-step bootstrapped target, r + gamma (1 - terminated) V(s').

    Truncation does not stop the bootstrap: an episode cut by the clock still had a future.

    Args:
        rewards: Per agent, or of the team.
        terminations: Bool, the same axes.
        next_v: Value of the *next* observation; pass it without gradient.
        gamma: Discount in [0, 1].

    Returns:
        The target, in the units of the rewards.
    """
    return rewards + gamma * next_v.masked_fill(terminations, 0.0)


def n_step_target(
    rewards: Annotated[Tensor, "batch time agent"],
    terminations: Annotated[Tensor, "batch time agent"],
    follows: Annotated[Tensor, "batch time agent"],
    next_v: Annotated[Tensor, "batch time agent"],
    bonus: Annotated[Tensor, "batch time agent"],
    gamma: float,
) -> Annotated[Tensor, "batch agent"]:
    """Target of the first step of segments, bootstrapped as late as they reach.

    y_t = r_t + gamma (1 - terminated_t) (bonus_t + y_{t+1} where the next step follows, else V(s_{t+1})).

    Args:
        rewards: Of each step.
        terminations: Bool; nothing comes after.
        follows: Bool; the segment's next step is this one's successor and counts. False at the last step.
        next_v: Value of what each step leads to; without gradient.
        bonus: What being there earns beside the next step's rewards, such as the temperature times the entropy there.
        gamma: Discount in [0, 1].
    """
    target = next_v[:, -1]
    for time in reversed(range(rewards.shape[1])):
        ahead = next_v[:, time]
        if time + 1 < rewards.shape[1]:
            ahead = torch.where(follows[:, time], bonus[:, time] + target, ahead)
        target = td_target(rewards[:, time], terminations[:, time], ahead, gamma)
    return target


def mean_deviation(values: PerTeam, counted: Annotated[Tensor, "row"] | None = None) -> Tensor:
    """Mean absolute deviation from the mean over the last axis, kept as an axis of one; no gradient.

    Errors of mixed values are divided by it in scale-invariant value normalisation (SVN, Lee et al., 2026),
    so that growing values do not grow the loss; the fixed point stays where it is.

    Args:
        values: Of the team.
        counted: Bool, the entries whose deviation is taken; all of them without it.
    """
    values = values.detach()
    if counted is not None:
        weights = counted.to(values.dtype) / counted.sum(-1, keepdim=True).clamp(min=1)
        middle = (values * weights).sum(-1, keepdim=True)
        return ((values - middle).abs() * weights).sum(-1, keepdim=True).clamp(min=1e-6)
    return (values - values.mean(-1, keepdim=True)).abs().mean(-1, keepdim=True).clamp(min=1e-6)


def expectile(error: PerTeam, level: float) -> PerTeam:
    """Asymmetric squared error |level - 1(u < 0)| u^2 (Kostrikov et al., 2021, equation 5).

    Args:
        error: u = target - prediction.
        level: The expectile in (0, 1); 0.5 is half the squared error.
    """
    return (error.lt(0).to(error.dtype) - level).abs() * error.square()
