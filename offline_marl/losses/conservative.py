"""What keeps a critic low where the data is not: CQL's gap, and OMAR's search for good actions near by."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from offline_marl.core.axes import PerTeam

Samples = Annotated[Tensor, "sample *lead"]


def soft_maximum(q: Annotated[Tensor, "choice *lead"], temperature: float) -> PerTeam:
    """T logsumexp(Q / T) over the first axis: the largest value as the temperature goes to 0."""
    return temperature * torch.logsumexp(q / temperature, dim=0)


def importance_soft_maximum(q: Samples, log_density: Samples, temperature: float) -> PerTeam:
    """T log of the integral of exp(Q / T), estimated from draws a ~ mu (Kumar et al., 2020, appendix F).

    Each draw counts 1 / mu(a): its log *density* is subtracted, and the mean over draws is taken.

    Args:
        q: Q of each draw.
        log_density: log mu of each draw.
        temperature: T > 0.
    """
    weighted = q / temperature - log_density
    return temperature * (torch.logsumexp(weighted, dim=0) - math.log(len(q)))


def elite_moments(
    samples: Annotated[Tensor, "sample *lead act"], q: Annotated[Tensor, "sample *lead"], count: int
) -> tuple[Annotated[Tensor, "elite *lead act"], Annotated[Tensor, "*lead act"], Annotated[Tensor, "*lead act"]]:
    """The `count` samples of highest Q of each row, their mean and their deviation: one step of a cross-entropy search."""
    best = q.topk(count, dim=0).indices.unsqueeze(-1).expand(count, *samples.shape[1:])
    elites = samples.gather(0, best)
    return elites, elites.mean(0), elites.std(0, correction=0)
