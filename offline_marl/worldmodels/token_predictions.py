"""Predictions read from what token transformers tell: doubts, what is allowed, and what agents agree on."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from offline_marl.core.axes import PerAgent
from offline_marl.losses import tokens as losses
from offline_marl.worldmodels.base import TokenSpread

Odds = Annotated[Tensor, "row agent choice"]


def doubts(
    tokens: Annotated[Tensor, "row agent token"],
    again: Annotated[Tensor, "row agent token"],
    logits: Annotated[Tensor, "member row agent token choice"],
    speaker: Annotated[Tensor, "row"],
    reward_deviation: PerAgent | None,
) -> TokenSpread:
    """Doubt about a step, of each agent.

    Args:
        tokens: What was drawn.
        again: What is encoded of what it stands for.
        logits: Of all members.
        speaker: The member that the tokens were drawn from.
        reward_deviation: Of the predicted reward.
    """
    each = losses.entropy(logits).mean(0) / math.log(logits.shape[-1])
    spoken = logits[speaker, torch.arange(len(speaker), device=speaker.device)]
    return TokenSpread(
        entropy=each.mean(-1),
        first_entropy=each[..., 0],
        surprisal=losses.token_nll(spoken, tokens).sum(-1),
        information=losses.mutual_information(logits).mean(-1),
        reward_deviation=reward_deviation,
        cycle=(again != tokens).to(each.dtype).mean(-1),
    )


def legal(odds: Odds, choices: Annotated[Tensor, "agent choice"]) -> Odds:
    """Choices that are likely allowed, and the likeliest in any case, so that there is one; bool.

    Args:
        odds: Probability that each is allowed.
        choices: Bool, false on padding.
    """
    odds = odds.masked_fill(~choices, -1.0)
    return (odds > 0.5) | (odds == odds.amax(-1, keepdim=True))


def agreed(values: PerAgent, present: PerAgent) -> Annotated[Tensor, "*lead one"]:
    """Mean over the agents that are there."""
    weights = present.to(values.dtype)
    return (values * weights).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True).clamp(min=1)


def drawn(
    logits: Annotated[Tensor, "member row *rest choice"],
    uniform: Annotated[Tensor, "row *rest"] | None,
    speaker: Annotated[Tensor, "row"],
) -> Annotated[Tensor, "row *rest"]:
    """Where a uniform number falls in the odds that the speaker gives, or the likeliest of all members."""
    odds = logits.softmax(-1)
    if uniform is None:
        return odds.mean(0).argmax(-1)
    odds = odds[speaker, torch.arange(len(speaker), device=speaker.device)]
    return (odds.cumsum(-1) <= uniform.unsqueeze(-1)).sum(-1).clamp(max=odds.shape[-1] - 1)
