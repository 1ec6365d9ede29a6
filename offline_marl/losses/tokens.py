"""Losses over tokens, and rewards as classes: cross-entropy by token, HL-Gauss targets on a symlog scale."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

Logits = Annotated[Tensor, "*lead choice"]
PerToken = Annotated[Tensor, "*lead"]


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|) of each number (Hafner et al., 2023)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """sign(x) (exp |x| - 1) of each number, the inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


def token_nll(logits: Logits, tokens: PerToken) -> PerToken:
    """-log p(token) of each place.

    Args:
        logits: Unnormalised.
        tokens: Int64, what stood there.
    """
    return -logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def weighted_mean(values: PerToken, counts: PerToken) -> Tensor:
    """Mean over the places that count (bool), each token weighing the same; 0 if none does."""
    weights = counts.to(values.dtype).expand_as(values)
    return (values * weights).sum() / weights.sum().clamp(min=1)


def entropy(logits: Logits) -> PerToken:
    """Entropy of each place's categorical distribution, in nats."""
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def mutual_information(logits: Logits) -> Tensor:
    """Disagreement of members, H[mean p] - mean H[p], in nats (BALD, Houlsby et al., 2011): 0 where they agree.

    Args:
        logits: The first axis is the member, which the result lacks.
    """
    log_probs = logits.log_softmax(-1)
    mixture = log_probs.logsumexp(0) - math.log(len(logits))
    return (-(mixture.exp() * mixture).sum(-1) - entropy(logits).mean(0)).clamp(min=0.0)


def bin_edges(low: float, high: float, bins: int) -> tuple[Annotated[Tensor, "edge"], float]:
    """Edges of equal bins for values from `low` to `high`, and the deviation that `hl_gauss` spreads them by.

    The deviation is 3/4 of a bin; three of them lie beyond either end, so that no value's mass is cut off.
    """
    margin = 3 * 0.75
    width = max((high - low) / (bins - 2 * margin), 1e-4)
    begin = (low + high) / 2 - width * bins / 2
    return begin + width * torch.arange(bins + 1), 0.75 * width


def hl_gauss(
    values: Annotated[Tensor, "*lead"], edges: Annotated[Tensor, "edge"], sigma: float
) -> Annotated[Tensor, "*lead choice"]:
    """Mass of a normal distribution about each value in every bin (Imani and White, 2018).

    mass_i = (erf((b_{i+1} - y) / (sqrt 2 sigma)) - erf((b_i - y) / (sqrt 2 sigma))) / the same over all bins. A value
    beyond the outer edges is taken for the nearer edge: its mass would be 0 / 0.

    Args:
        values: y.
        edges: b, ascending, one more than there are bins.
        sigma: Deviation, in the units of the values.
    """
    clamped = values.clamp(float(edges[0]), float(edges[-1])).unsqueeze(-1)
    mass = torch.erf((edges - clamped) / (math.sqrt(2) * sigma)).diff(dim=-1)
    return mass / mass.sum(-1, keepdim=True)


def soft_cross_entropy(logits: Logits, target: Logits) -> PerToken:
    """-sum_c target_c log p_c of each place."""
    return -(target * logits.log_softmax(-1)).sum(-1)


def expected(logits: Logits, centres: Annotated[Tensor, "choice"]) -> PerToken:
    """Mean of a distribution over bins, sum_c p_c centre_c, on the scale of the centres."""
    return (logits.softmax(-1) * centres).sum(-1)
