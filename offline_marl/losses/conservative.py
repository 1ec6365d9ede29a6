"""CQL's soft maximum of Q over actions, exact and from draws, and the elites of OMAR's search."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from offline_marl.core.axes import PerTeam

Samples = Annotated[Tensor, "*lead sample"]


def soft_maximum(q: Annotated[Tensor, "*lead choice"], temperature: float) -> PerTeam:
    """T logsumexp(Q / T) over the choices: their largest value as the temperature goes to 0.

    Args:
        q: Q of each choice, minus infinity where it cannot be made.
        temperature: T > 0.
    """
    return temperature * torch.logsumexp(q / temperature, dim=-1)


def sampled_soft_maximum(q: Samples, log_density: Samples, temperature: float) -> PerTeam:
    """T log of the integral of exp(Q(a) / T) over actions, from draws a ~ mu (Kumar et al., 2020, appendix F).

    Each draw counts 1 / mu(a): the log of its *density* is subtracted, and the mean over draws is taken.

    Args:
        q: Q of each draw.
        log_density: log mu of each draw.
        temperature: T > 0.
    """
    weighted = q / temperature - log_density
    return temperature * (torch.logsumexp(weighted, dim=-1) - math.log(q.shape[-1]))


def elites(
    samples: Annotated[Tensor, "*lead sample act"], q: Samples, count: int
) -> tuple[Annotated[Tensor, "*lead elite act"], Annotated[Tensor, "*lead elite"]]:
    """The `count` samples of highest Q of each row, best first, and their Q: one step of a cross-entropy search."""
    best = q.topk(count, dim=-1)
    index = best.indices.unsqueeze(-1).expand(*best.indices.shape, samples.shape[-1])
    return samples.gather(-2, index), best.values
