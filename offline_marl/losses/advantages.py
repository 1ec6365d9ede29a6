"""Advantage estimates and lambda-returns along the steps of a segment."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from offline_marl.core.axes import PerTeam

PerStep = Annotated[Tensor, "row time"]


def gae(
    rewards: PerStep,
    terminations: PerStep,
    truncations: PerStep,
    v: PerStep,
    next_v: PerStep,
    gamma: float,
    gae_lambda: float,
    mask: PerStep | None = None,
) -> PerStep:
    """Generalised advantage estimates (Schulman et al., 2016, equation 16), by a scan in log2(time) steps.

    delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t) and A_t = delta_t + gamma lambda A_{t+1}. Both ends of
    an episode stop the sum, wherever in a row they are; only a termination stops the bootstrap in delta.

    Args:
        rewards: Of the team.
        terminations: Bool.
        truncations: Bool.
        v: Value of each step's observation; pass both values without gradient.
        next_v: Value of each step's true successor, which need not be the row's next entry.
        gamma: Discount in [0, 1].
        gae_lambda: 0 keeps the one-step error, 1 sums all rewards.
        mask: Bool, false on padding: it has advantage 0 and adds nothing to what comes before.

    Returns:
        The advantages, in the units of the rewards.
    """
    over = terminations | truncations
    advantages = rewards + gamma * next_v.masked_fill(terminations, 0.0) - v
    if mask is not None:
        over, advantages = over | ~mask, advantages.masked_fill(~mask, 0.0)
    return _sum_backwards(advantages, (gamma * gae_lambda) * (~over).to(v.dtype))


def lambda_returns(
    rewards: PerStep,
    terminations: PerStep,
    truncations: PerStep,
    next_v: PerStep,
    gamma: float,
    td_lambda: float,
    mask: PerStep | None = None,
) -> PerStep:
    """Targets of TD(lambda) (Sutton, 1988), by a scan in log2(time) steps.

    G_t = r_t + gamma (1 - terminated_t) ((1 - lambda) V(s'_t) + lambda G_{t+1}). Where the next entry is not the step
    that followed, as at both ends of an episode and before what does not count, V(s'_t) takes the place of G_{t+1}.

    Args:
        rewards: Of the team.
        terminations: Bool; what follows one is worth nothing.
        truncations: Bool; what follows one is worth V, and no entry behind it is part of the return.
        next_v: Value of each step's true successor; pass it without gradient.
        gamma: Discount in [0, 1].
        td_lambda: 0 is the one-step target, 1 sums all rewards that the segment holds.
        mask: Bool, false on padding: the return there is 0, and reaches no other.

    Returns:
        The targets, in the units of the rewards.
    """
    goes_on = ~(terminations | truncations)
    if mask is not None:
        goes_on = goes_on & mask
        goes_on = goes_on & torch.nn.functional.pad(mask[..., 1:], (0, 1))
    share = td_lambda * goes_on.to(next_v.dtype)
    share[..., -1] = 0.0
    terms = rewards + gamma * (1.0 - share) * next_v.masked_fill(terminations, 0.0)
    if mask is not None:
        terms = terms.masked_fill(~mask, 0.0)
    return _sum_backwards(terms, gamma * share)


def _sum_backwards(terms: PerTeam, shares: PerTeam) -> PerTeam:
    """S_t = terms_t + shares_t S_{t+1}: each pass joins every stretch with the next one of the same length."""
    # A first-order linear recurrence is an associative scan: the pair (terms, shares) of a stretch of `reach` steps,
    # joined with that of the next `reach`, is the pair of both. log2(time) passes over whole tensors replace a loop
    # over time; a share of 0 at an episode's end keeps what follows out.
    length, reach = terms.shape[-1], 1
    while reach < length:
        later = torch.nn.functional.pad(terms[..., reach:], (0, reach))
        further = torch.nn.functional.pad(shares[..., reach:], (0, reach))
        terms, shares = torch.addcmul(terms, shares, later), shares * further
        reach *= 2
    return terms
