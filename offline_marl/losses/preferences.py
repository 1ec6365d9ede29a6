"""Losses of reward models that learn from comparisons: Bradley-Terry, smoothness along time, pseudo-labels.

Labels say which segment of a pair is better: 1 the first, 0 the second, 1/2 neither.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from offline_marl.core.axes import PerTeam

PerPair = Annotated[Tensor, "*lead"]
StepRewards = Annotated[Tensor, "*lead time agent"]
Scores = Annotated[Tensor, "*lead agent"]


def segment_scores(rewards: StepRewards, mask: StepRewards) -> Scores:
    """Score of each agent in a segment: the sum of its rewards over the steps in which it is there, undiscounted.

    The team's is the sum over agents.

    Args:
        rewards: Predicted reward of each step.
        mask: Bool, false for steps behind an episode's end and for agents that are away.
    """
    return rewards.masked_fill(~mask, 0.0).sum(-2)


def compared_scores(scores: Scores, targets: Annotated[Tensor, "*lead"]) -> PerPair:
    """The score that a label speaks of: the team's, or one agent's.

    Args:
        scores: Of each agent.
        targets: Int64, the agent's index, or -1 for the team.
    """
    own = scores.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(targets < 0, scores.sum(-1), own)


def bradley_terry(margin: PerPair, labels: PerPair) -> PerPair:
    """-y log p - (1 - y) log(1 - p), with p = sigmoid(margin) the probability that the first is preferred.

    Bradley and Terry, 1952; Christiano et al., 2017, equation 1.

    Args:
        margin: Score of the first segment less that of the second.
        labels: 1, 0 or 1/2.
    """
    return torch.nn.functional.softplus(margin) - labels * margin


def rating_loss(score: PerPair, rating: PerPair, levels: int) -> PerPair:
    """-log P of a rating, P(rating <= k) = sigmoid(c_k - score), c_k = log(k / (levels - k)).

    Proportional odds (McCullagh, 1980) with fixed cuts, so that a score of 0 makes all ratings equally likely: this
    says where rewards begin, which comparisons leave open.

    Args:
        score: Of the segment.
        rating: 1 ... levels.
        levels: How many there are.
    """
    cuts = torch.logit(torch.arange(levels + 1, device=score.device, dtype=score.dtype) / levels)
    index = rating.long().clamp(1, levels)
    high, low = cuts[index] - score, cuts[index - 1] - score
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which loses nothing where both are near 0 or 1.
    between = torch.log1p(-torch.exp(cuts[index - 1] - cuts[index]))
    return torch.nn.functional.softplus(-high) + torch.nn.functional.softplus(low) - between


def credit_loss(
    scores: Scores, chosen: Annotated[Tensor, "*lead"], present: Annotated[Tensor, "*lead agent"]
) -> PerPair:
    """-log P of who did best, P(i) = exp(S_i) / sum_j exp(S_j) (Luce, 1959); for `equal` the mean over all agents.

    Args:
        scores: Of each agent in the segment.
        chosen: Int64, the agent, or -1 for equal.
        present: Bool, false for agents that are away all the time.
    """
    logs = torch.log_softmax(scores.masked_fill(~present, -torch.inf), dim=-1)
    own = logs.gather(-1, chosen.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    every = logs.masked_fill(~present, 0.0).sum(-1) / present.sum(-1).clamp(min=1)
    return -torch.where(chosen < 0, every, own)


def binary_entropy(probability: PerPair) -> PerPair:
    """-p log p - (1 - p) log(1 - p) in nats; 0 at both ends."""
    return -(torch.xlogy(probability, probability) + torch.xlogy(1 - probability, 1 - probability))


def smoothness(rewards: StepRewards, mask: StepRewards) -> Scores:
    """sum_t (r_(t+1) - r_t)^2 of each agent, over neighbouring steps in both of which it is there.

    The regularisation along time of Zhang et al., 2024 (MARLHF), as their code has it: a sum, not a mean.

    Args:
        rewards: Predicted reward of each step.
        mask: Bool, as in `segment_scores`.
    """
    both = mask[..., 1:, :] & mask[..., :-1, :]
    changes = (rewards[..., 1:, :] - rewards[..., :-1, :]).masked_fill(~both, 0.0)
    return changes.square().sum(-2)


def pseudo_labels(probability: PerPair, threshold: float) -> tuple[PerPair, PerPair]:
    """Labels of pairs that nobody labelled, and where they are to be trusted (SURF: Park et al., 2022, equation 4).

    Args:
        probability: That the first is preferred, as the reward model says; without gradient.
        threshold: How sure the model must be, in [1/2, 1].

    Returns:
        1 or 0, and bool: p > threshold or p < 1 - threshold.
    """
    return (probability > 0.5).to(probability.dtype), (probability > threshold) | (probability < 1 - threshold)


def crop(
    lengths: Annotated[Tensor, "*lead side"],
    shares: Annotated[Tensor, "*lead"],
    offsets: Annotated[Tensor, "*lead side"],
    time: int,
) -> Annotated[Tensor, "*lead side time"]:
    """Crops of both segments of a pair, which lose equally many steps, as bool masks over time.

    Segments of one length stay so (SURF: Park et al., 2022). Where one is longer, as when an agent fell in the other,
    it stays so by as much: crops of one length would teach that to survive is worth nothing.

    Args:
        lengths: Steps that each segment has.
        shares: Part of the shorter segment that is kept, in (0, 1]; at least one step is.
        offsets: Where each crop begins, in [0, 1): a part of the room there is.
        time: Steps of the padded segments.
    """
    shorter = lengths.amin(-1)
    lost = (shorter - torch.ceil(shares * shorter).long().clamp(min=1)).clamp(min=0).unsqueeze(-1)
    first = torch.minimum((offsets * (lost + 1)).long(), lost).unsqueeze(-1)
    steps = torch.arange(time, device=lengths.device)
    return (steps >= first) & (steps < first + (lengths - lost).unsqueeze(-1))


def log_ratio_bonus(
    log_probs: PerTeam, log_uniform: PerTeam, weight: float, low: float = -10.0, high: float = 1.0
) -> PerTeam:
    """Clip(weight (log pi(a) - log u(a)), low, high): what an action that a reference policy holds likely is paid.

    Zhang et al., 2024 (MARLHF): u is the uniform policy, so that a uniform reference pays 0 for every weight.

    Args:
        log_probs: Of the recorded actions under the reference policy.
        log_uniform: Under the uniform policy; see `log_uniform_choices` and `log_uniform_box`.
        weight: MARLHF's beta.
        low: Most that an unlikely action costs.
        high: Most that a likely one is paid.
    """
    return (weight * (log_probs - log_uniform)).clamp(low, high)


def log_uniform_choices(counts: PerTeam) -> PerTeam:
    """-log A, of A choices that could be made."""
    return -counts.clamp(min=1).log()


def log_uniform_box(dims: PerTeam) -> PerTeam:
    """-d log 2: the density of the uniform policy on [-1, 1]^d."""
    return -math.log(2.0) * dims
