"""Bootstrapped targets and losses of value functions."""

from __future__ import annotations

from typing import Annotated

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
