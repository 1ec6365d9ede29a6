"""Losses for policies."""

from __future__ import annotations

import torch

from offline_marl.core.axes import PerTeam


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
