"""Losses of token transformers on segments of recorded steps."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from offline_marl.core.axes import PerAgent
from offline_marl.core.types import Batch
from offline_marl.losses import tokens as losses
from offline_marl.worldmodels.token_members import Told


def segment_losses(
    logits: Annotated[Tensor, "member row time agent token choice"],
    told: Told,
    target: Annotated[Tensor, "row time agent token"],
    of_rewards: Annotated[Tensor, "member row time agent"],
    cuts: Batch,
    there: PerAgent,
    seen: PerAgent,
    choices: Annotated[Tensor, "agent choice"],
    mean_choices: bool,
) -> dict[str, Tensor]:
    """Sums over members of each one's mean losses, by name.

    Args:
        logits: Of the tokens of each next observation.
        told: Logits of the rest.
        target: Tokens that were recorded.
        of_rewards: Losses of the reward told for each place.
        cuts: The segments.
        there: Bool, whose step counts.
        seen: Bool, whose next observation was recorded besides.
        choices: Bool, false on padding.
        mean_choices: Whether choices share the weight of a place, instead of each having it.
    """
    members = len(logits)

    def each(values: Tensor, counts: Tensor) -> Tensor:
        return members * losses.weighted_mean(values, counts.expand_as(values))

    parts = {
        "tokens": each(losses.token_nll(logits, target.expand(members, *target.shape)), seen.unsqueeze(-1)),
        "rewards": each(of_rewards, there),
    }
    if told.end is not None:
        ended = cuts.team_terminations.unsqueeze(-1).to(told.end.dtype).expand_as(told.end)
        parts["terminations"] = each(_binary(told.end, ended), there)
    if told.avail is not None and cuts.next_avail_actions is not None:
        allowed = cuts.next_avail_actions.to(told.avail.dtype).expand_as(told.avail)
        of_choices = _binary(told.avail, allowed)
        if mean_choices:
            parts["avail_actions"] = each(of_choices, seen.unsqueeze(-1) & choices)
        else:
            parts["avail_actions"] = each((of_choices * choices).sum(-1), seen)
    return parts


def _binary(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
