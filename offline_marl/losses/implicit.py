"""Losses of local values that are regularised towards the data's behaviour (OMIGA; Wang et al., 2023).

With z_i = w_i (Q_i - V_i) / alpha the team's soft optimum leaves each agent a value of
V_i = (alpha / w_i) log E exp(w_i Q_i / alpha) over the data's actions, which is where E exp(z_i) = 1, and a policy in
proportion to mu_i exp(z_i).
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from offline_marl.core.axes import PerAgent


def exponents(q: PerAgent, v: PerAgent, weights: PerAgent, alpha: float, largest: float) -> PerAgent:
    """z_i = w_i (Q_i - V_i) / alpha, held within +-`largest`; its slope is that of z_i everywhere.

    Were it none beyond the limit, only the linear term of `exponential_value` would move such a V, away from Q for
    good.

    Args:
        q: Values of the data's actions, without gradient.
        v: Values of the observations.
        weights: What the team's value gains where an agent's does by one, without gradient.
        alpha: Weight of the regularisation, in the units of the team's value.
        largest: Largest size of an exponent.
    """
    z = weights * (q - v) / alpha
    return z + (z.clamp(-largest, largest) - z).detach()


def exponential_value(z: PerAgent, scaled_v: PerAgent, counted: Annotated[Tensor, "*lead agent"] | None) -> PerAgent:
    """exp(z_i) + w_i V_i / alpha of each agent, least where E exp(z_i) = 1, divided by e^M so that none is large.

    M = max(max z, -1) over all entries that count, without gradient.

    Args:
        z: Exponents, with a gradient to V.
        scaled_v: w_i V_i / alpha.
        counted: Bool, entries that count; all of them without it.
    """
    level = z.detach() if counted is None else z.detach().masked_fill(~counted, -torch.inf)
    most = level.amax().clamp(min=-1.0)
    return torch.exp(z - most) + torch.exp(-most) * scaled_v
