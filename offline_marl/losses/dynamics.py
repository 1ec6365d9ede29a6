"""Negative log-likelihoods of next observations, rewards and terminations, for world models."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

Numbers = Annotated[Tensor, "*lead number"]
"""What is predicted: coordinates of the next observation, or rewards."""
Components = Annotated[Tensor, "*lead component number"]
Weights = Annotated[Tensor, "*lead component"]

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def soft_bound(raw: Numbers, low: float, high: float) -> Numbers:
    """Keep a number between two borders: low + (high - low) sigmoid(raw + b), b such that 0 stays 0.

    Unlike a clamp it has a gradient everywhere, so that a deviation that ran to a border can come back.

    Args:
        raw: Any number.
        low: Least value, below 0.
        high: Largest value, above 0.
    """
    return low + (high - low) * torch.sigmoid(raw + math.log(-low / high))


def gaussian_nll(mean: Numbers, log_std: Numbers, target: Numbers) -> Numbers:
    """-log N(target; mean, std^2) = ((target - mean) / std)^2 / 2 + log std + log(2 pi) / 2 of each number.

    Args:
        mean: Predicted mean.
        log_std: Log of the standard deviation (not of the variance).
        target: What happened.
    """
    return 0.5 * ((target - mean) * torch.exp(-log_std)).square() + (log_std + HALF_LOG_TAU)


def weighted_nll(mean: Numbers, log_std: Numbers, target: Numbers, beta: float) -> Numbers:
    """The likelihood of `gaussian_nll` with each number weighed by std^(2 beta), held fixed (Seitzer et al., 2022).

    Plain likelihood (beta 0) divides the slope of a mean by the variance, so that numbers once deemed noisy are
    never learnt; beta 1 gives every mean the slope of least squares, while the deviation is still learnt.

    Args:
        mean: Predicted mean.
        log_std: Log of the standard deviation.
        target: What happened.
        beta: In [0, 1].
    """
    nll = gaussian_nll(mean, log_std, target)
    return nll if beta == 0.0 else nll * torch.exp(2 * beta * log_std.detach())


def mixture_nll(
    log_weights: Weights, mean: Components, log_std: Components, target: Numbers, counts: Numbers | None = None
) -> Annotated[Tensor, "*lead"]:
    """-log sum_k w_k prod_j N(target_j; mean_kj, std_kj^2): a mixture of diagonal normals over all numbers at once.

    Args:
        log_weights: Log-probabilities of the components, normalised.
        mean: Of each component.
        log_std: Of each component.
        target: What happened.
        counts: Bool: numbers that are known; the density is over these alone.
    """
    losses = gaussian_nll(mean, log_std, target.unsqueeze(-2).expand_as(mean))
    log_likelihoods = -(losses if counts is None else losses * counts.unsqueeze(-2)).sum(-1)
    return -torch.logsumexp(log_weights + log_likelihoods, dim=-1)


def mixture_moments(weights: Weights, mean: Components, std: Components) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation of a mixture.

    The mean is sum_k w_k mean_k; the variance, by the law of total variance, sum_k w_k (std_k^2 + (mean_k - mean)^2).
    """
    shares = weights.unsqueeze(-1)
    overall = (shares * mean).sum(-2)
    variance = (shares * (std.square() + (mean - overall.unsqueeze(-2)).square())).sum(-2)
    return overall, variance.sqrt()


def squared_error(mean: Numbers, target: Numbers) -> Numbers:
    """(target - mean)^2 of each number."""
    return (target - mean).square()


def kl_normal(mean: Numbers, log_std: Numbers) -> Annotated[Tensor, "*lead"]:
    """KL(N(mean, std^2) || N(0, 1)) summed over the numbers, (std^2 + mean^2 - 1) / 2 - log std of each.

    Kingma and Welling, 2014, appendix B.
    """
    return (0.5 * (torch.exp(2 * log_std) + mean.square() - 1.0) - log_std).sum(-1)


def termination_nll(
    logits: Annotated[Tensor, "*lead"], ended: Annotated[Tensor, "*lead"]
) -> Annotated[Tensor, "*lead"]:
    """-log p(ended), where the probability that the episode terminates is sigmoid(logit): log(1 + exp(-+logit)).

    Args:
        logits: Above 0 where a termination is likelier than none.
        ended: Bool.
    """
    return torch.nn.functional.softplus(torch.where(ended, -logits, logits))
