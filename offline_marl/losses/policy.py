"""Policy losses of advantage-weighted cloning and PPO, and PPO's clipped value loss."""

from __future__ import annotations

import math

import torch

from offline_marl.core.axes import PerTeam

LARGEST_EXPONENT = 10.0
"""Log-ratios above it count as it, so that no ratio overflows."""


def advantage_weights(advantages: PerTeam, temperature: float, ceiling: float) -> PerTeam:
    """exp(temperature * A), at most `ceiling` (Kostrikov et al., 2021, equation 7).

    Args:
        advantages: Q - V per agent, or of the team; pass them without gradient.
        temperature: The paper's beta; 0 weighs every action alike.
        ceiling: Largest weight.
    """
    return torch.exp(temperature * advantages).clamp(max=ceiling)


def weighted_bc(log_probs: PerTeam, weights: PerTeam) -> PerTeam:
    """Negative log-likelihood of the data's actions, each counted `weights` times."""
    return -weights * log_probs


def ppo_clip(
    log_ratios: PerTeam, advantages: PerTeam, clip: float, weights: PerTeam | float = 1.0
) -> tuple[PerTeam, PerTeam]:
    """-min(ratio A, clip(ratio, 1 - clip, 1 + clip) A) (Schulman et al., 2017, equation 7), and slopes.

    Args:
        log_ratios: Log-probability of what was done under the policy now, less that under the one that did it.
        advantages: Pass them without gradient.
        clip: How far from 1 a ratio may still be worth moving, below 1.
        weights: What each loss counts in the sum that is to fall.

    Returns:
        Losses, and the derivatives of that sum by `log_ratios`.
    """
    # The minimum clips on the side where A gains from moving on, so one clamp of the exponent is all of it.
    gains = advantages > 0
    low = torch.where(gains, -torch.inf, math.log1p(-clip))
    high = torch.where(gains, math.log1p(clip), LARGEST_EXPONENT)
    held = log_ratios.clamp(low, high)
    ratios, costs = torch.exp(held), -advantages
    # The exponential is its own derivative; what is held back moves nothing.
    return costs * ratios, weights * costs * ratios * (held == log_ratios)


def clipped_value(
    v: PerTeam, old_v: PerTeam, target: PerTeam, clip: float, weights: PerTeam | float = 1.0
) -> tuple[PerTeam, PerTeam]:
    """Squared error of V, or of V held within `clip` of what it was, whichever is larger, and slopes.

    Args:
        v: Value now.
        old_v: Value before the first step of the update, without gradient.
        target: What V should be, without gradient.
        clip: Largest change that is rewarded, in the units of the rewards; 0 for any.
        weights: What each loss counts in the sum that is to fall.

    Returns:
        Losses, and the derivatives of that sum by `v`.
    """
    distances = v - target
    errors = distances.square()
    if not clip:
        return errors, weights * (2 * distances)
    # Where the clipped one is larger, V has left the range, and nothing moves it; else, in the range, they are equal.
    clipped = (old_v + (v - old_v).clamp(-clip, clip) - target).square()
    return torch.maximum(clipped, errors), weights * (2 * distances) * (clipped <= errors)
