"""Uncertainty of an imagined step: the disagreement of the elites as one number a row.

A measurement does two jobs, in this order: a rollout is cut where it `exceeds` a cut-off, and a `penalty`, which
may have a ceiling, is taken from the rewards. MOMA-PPO's code clamps the measurement to the cut-off first, so that
nothing ever exceeds it and no rollout is cut. Here a measurement is a type of its own and a penalty is none, so that
the wrong order does not pass the type checker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, NewType

import torch
from torch import Tensor

from offline_marl.core.axes import PerTeam
from offline_marl.core.fields import SpreadName
from offline_marl.core.types import DataError
from offline_marl.worldmodels.base import Spread, TokenSpread

Measured = NewType("Measured", Tensor)
"""An unclamped measurement, `*lead`."""


def covariance_norm(spread: Spread) -> Measured:
    """Frobenius norm of the covariance over elites of next obs and rewards side by side, in raw units.

    MOMA-PPO's measure (Barde et al., 2024). The sample covariance: sums are divided by the elites less one. With X the
    centred `elite number` table, |X' X| = |X X'|, and the latter has no more entries than there are pairs of elites.
    """
    predictions = torch.cat([spread.next_obs, spread.rewards], dim=-1)
    centred = (predictions - predictions.mean(0, keepdim=True)).movedim(0, -2)
    products = centred @ centred.transpose(-2, -1)
    return Measured(torch.linalg.vector_norm(products, dim=(-2, -1)) / _freedom(spread))


def standardized_variance(spread: Spread) -> Measured:
    """Sample variance over elites, summed over coordinates in units of their change and rewards in units of theirs."""
    total = _variance(spread.next_obs / spread.scale).sum(-1) + _variance(spread.rewards / spread.reward_scale).sum(-1)
    return Measured(total)


def reward_variance(spread: Spread) -> Measured:
    """Sample variance over elites of the team's mean reward, in raw units; MOMA-PPO's second penalty."""
    return Measured(_variance(spread.rewards.mean(-1)))


def max_aleatoric(spread: Spread) -> Measured:
    """Largest norm of an elite's own deviations of next obs and rewards, in raw units: MOPO's (Yu et al., 2020).

    Raises:
        DataError: The kind of model tells no deviation.
    """
    if spread.next_obs_std is None or spread.rewards_std is None:
        raise DataError(
            "max_aleatoric needs members that tell a deviation of their own: kind gaussian, mixture or vae."
        )
    stds = torch.cat([spread.next_obs_std, spread.rewards_std], dim=-1)
    return Measured(torch.linalg.vector_norm(stds, dim=-1).amax(0))


def pairwise_difference(spread: Spread) -> Measured:
    """Largest distance between two elites' next obs in units of the change: MOReL's (Kidambi et al., 2020)."""
    points = (spread.next_obs / spread.scale).movedim(0, -2)
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    return Measured(distances.amax((-2, -1)))


def token_entropy(spread: Spread) -> Measured:
    """Mean over agents and tokens of the entropy of the next tokens, from 0 to 1: noise and ignorance together."""
    return Measured(_tokens(spread, "token_entropy").entropy.mean(-1))


def first_token_entropy(spread: Spread) -> Measured:
    """The same of the first token, which no other one gives away."""
    return Measured(_tokens(spread, "first_token_entropy").first_entropy.mean(-1))


def token_surprisal(spread: Spread) -> Measured:
    """Mean over agents of -log p of what was drawn: an unbiased, noisy estimate of the entropy of all its tokens."""
    return Measured(_tokens(spread, "token_surprisal").surprisal.mean(-1))


def token_information(spread: Spread) -> Measured:
    """Mean over agents and tokens of what members would learn from each other, in nats (BALD): ignorance alone."""
    return Measured(_tokens(spread, "token_information").information.mean(-1))


def reward_deviation(spread: Spread) -> Measured:
    """Mean over agents of the deviation that members see in the reward, on the scale of its classes.

    Raises:
        DataError: Rewards are no classes.
    """
    told = _tokens(spread, "reward_deviation").reward_deviation
    if told is None:
        raise DataError("reward_deviation needs rewards that are classes: leave ce_for_r on.")
    return Measured(told.mean(-1))


def cycle_inconsistency(spread: Spread) -> Measured:
    """Share of tokens that change when they are decoded and encoded again: combinations the data never showed."""
    return Measured(_tokens(spread, "cycle_inconsistency").cycle.mean(-1))


def _tokens(spread: Spread, name: str) -> TokenSpread:
    if spread.tokens is None:
        raise DataError(f"{name} needs a world model that tells tokens: marie.")
    return spread.tokens


def exceeds(value: Measured, cutoff: float) -> PerTeam:
    """Whether a rollout must be cut here.

    Args:
        value: A measurement; never a penalty.
        cutoff: Largest value that is still trusted.
    """
    return value > cutoff


def penalty(value: Measured, ceiling: float | None = None) -> Annotated[Tensor, "*lead"]:
    """What a measurement takes from the rewards, before its weight: the measurement, at most `ceiling`."""
    return value if ceiling is None else value.clamp(max=ceiling)


UNCERTAINTIES: Mapping[SpreadName, Callable[[Spread], Measured]] = {
    "covariance_norm": covariance_norm,
    "standardized_variance": standardized_variance,
    "reward_variance": reward_variance,
    "max_aleatoric": max_aleatoric,
    "pairwise_difference": pairwise_difference,
    "token_entropy": token_entropy,
    "first_token_entropy": first_token_entropy,
    "token_surprisal": token_surprisal,
    "token_information": token_information,
    "reward_deviation": reward_deviation,
    "cycle_inconsistency": cycle_inconsistency,
}
OF_PREDICTIONS: frozenset[SpreadName] = frozenset(
    {"covariance_norm", "standardized_variance", "reward_variance", "pairwise_difference"}
)
"""Measures of predictions alone, which every spread has."""


def _freedom(spread: Spread) -> int:
    return max(len(spread.rewards) - 1, 1)


def _variance(values: Annotated[Tensor, "elite *rest"]) -> Tensor:
    # A single elite disagrees with nobody.
    return values.var(0, correction=min(1, len(values) - 1))
