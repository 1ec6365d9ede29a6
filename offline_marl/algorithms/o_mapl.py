"""O-MAPL (Bui et al., 2025): a team's policies from comparisons of segments, without a model of its reward.

The reward that values imply, rho_t = Q_tot(s_t, a_t) - gamma V_tot(s_t+1), is what the labels are fitted with: the
first of two segments is preferred with probability sigmoid(sum_t rho_t - sum_t rho'_t). Values and policies then are
OMIGA's: V_i where E exp(z_i) = 1 over the data's actions, with z_i = w_i (Q_i - V_i) / alpha, and pi_i clones the
segments' actions weighted by exp(z_i). Recorded rewards are not read. A label that speaks of one agent is fitted with
that agent's part, w_i Q_i - gamma w_i V_i. `mixer = vdn` is IPL-VDN; `mixer = independent` is IIPL, where each agent's
own sums explain the team's labels.
Departs from the published code: all losses are taken at the same parameters, so that one backward serves; steps behind
a segment's end do not count; segments may be shorter than episodes, and labels say "neither"; s is made of the
observations; an agent that is `independent` has no mixer of its own; and what departs in `omiga`.
Paper: arXiv 2501.18944.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from offline_marl.algorithms.base import (
    algorithms,
    cleared,
    masked_mean,
    present_next,
    present_rows,
    team_ended,
)
from offline_marl.algorithms.omiga import OMIGA, OMIGAConfig
from offline_marl.core.axes import Features, PerAgent, PerTeam
from offline_marl.core.fields import Count, NotNegative
from offline_marl.core.types import Batch, Metrics, Needs, Spec
from offline_marl.losses.preferences import bradley_terry
from offline_marl.networks.mixers import Mixer


class OMAPLConfig(OMIGAConfig):
    """Fields of OMIGA and those of implied rewards.

    With rho_t = sum_i w_i(s_t) Q_i + b(s_t) - `gamma` (1 - terminated) (sum_i w'_i(s_t+1) V'_i + b'(s_t+1)), critics
    and mixer minimise -log sigmoid(sum_t rho_t - sum_t rho'_t) of the segment that is preferred over the other, plus
    `reward_penalty` mean rho^2. `independent` is the same of rho_i,t = Q_i - `gamma` (1 - terminated) V'_i.
    """

    batch_size: Count = 32
    """Pairs of segments in one update."""
    mixer: Literal["monotonic", "vdn", "independent"] = "monotonic"  # type: ignore[assignment]
    """Weights >= 0 and a bias that depend on the joint state, a plain sum (IPL-VDN), or none: each alone (IIPL)."""
    reward_penalty: NotNegative = 0.5
    """Weight of the implied rewards' mean square, which holds them near 0 where labels say nothing."""

    @model_validator(mode="after")
    def _no_rewards(self) -> OMAPLConfig:
        if self.clip_target or self.reward_scale != 1.0 or self.reward_bias:
            raise ValueError("o-mapl reads no rewards, so that nothing can be scaled, shifted or capped by them")
        return self


@algorithms.register("o-mapl")
class OMAPL(OMIGA):
    """Critics whose implied rewards explain comparisons, with OMIGA's local values and policies."""

    Config = OMAPLConfig
    needs = Needs(view="pairs", length=0, recorded="only", joint=True)
    config: OMAPLConfig

    def make_mixer(self, config: OMIGAConfig, spec: Spec) -> Mixer:
        """The mixer of the team's value; that of agents on their own weighs them alike."""
        if self.config.mixer == "independent":
            return Mixer("vdn", spec.n_agents, 0, ())
        return super().make_mixer(config, spec)

    def critic_loss(self, batch: Batch, rows: Batch, features: Features) -> tuple[Tensor, Metrics]:
        """Cross-entropy of the labels under the implied rewards, and these rewards' mean square."""
        assert batch.preference is not None and batch.subject is not None
        own, common = self.implied_rewards(rows, features)
        counted = present_rows(rows)
        sums = scores(own, rows.mask, batch), scores(common, counted, batch)
        margins, margin = (each[:, 0] - each[:, 1] for each in sums)
        if self.config.mixer == "independent":
            square = masked_mean(own.square(), rows.mask)
            agents = torch.arange(margins.shape[-1], device=margins.device)
            speaks = (batch.subject.unsqueeze(-1) < 0) | (batch.subject.unsqueeze(-1) == agents)
        else:
            square = masked_mean((own.sum(-1) + common).square(), counted)
            of_agent = margins.gather(-1, batch.subject.clamp(min=0).unsqueeze(-1))[:, 0]
            margins = torch.where(batch.subject < 0, margins.sum(-1) + margin, of_agent).unsqueeze(-1)
            speaks = torch.ones_like(margins, dtype=torch.bool)
        labels = batch.preference.unsqueeze(-1).expand_as(margins)
        loss = masked_mean(bradley_terry(margins, labels), speaks)
        with torch.no_grad():
            decided, right = speaks & (labels != 0.5), (margins > 0) == (labels > 0.5)
            metrics = {
                "loss/preferences": loss.detach(),
                "accuracy": masked_mean(right.to(loss.dtype), decided),
                "margin/mean": masked_mean(margins * (2 * labels - 1), decided),
            }
        return loss + self.config.reward_penalty * square, metrics

    def implied_rewards(self, rows: Batch, features: Features) -> tuple[PerAgent, PerTeam]:
        """rho_i of each agent and what the team has in common, the biases; the team's rho is the sum of all."""
        gamma = self.config.gamma
        weights, bias = self.mixer.coefficients(self.joint(rows.obs))
        q = weights * self.critic(features, rows.actions)[0]
        with torch.no_grad():
            next_weights, next_bias = self.target_mixer.coefficients(self.joint(rows.next_obs))
            next_v, stays = next_weights * self.next_values(rows), present_next(rows)
            if stays is not None:
                next_v = next_v * stays
            over = team_ended(rows)
            ended = rows.terminations if self.config.mixer == "independent" else over.unsqueeze(-1)
            next_v, next_bias = next_v.masked_fill(ended, 0.0), next_bias.masked_fill(over, 0.0)
        own = q - gamma * next_v
        return own if rows.mask is None else own * rows.mask, bias - gamma * next_bias

    @torch.no_grad()
    def rewards(self, batch: Batch) -> PerAgent:
        """Implied rewards of transitions, segments or pairs; what the team has in common is shared out alike."""
        rows = cleared(batch.flatten(), self.inputs.mean)
        own, common = self.implied_rewards(rows, self.inputs(rows.obs, rows.history))
        return (own + common.unsqueeze(-1) / own.shape[-1]).view_as(batch.rewards)


def scores(values: PerTeam, counted: PerTeam | None, batch: Batch) -> Annotated[Tensor, "pair side *rest"]:
    """Sums over the time of each segment of what counts.

    Args:
        values: Of rows in one axis.
        counted: Bool; all of them without it.
        batch: Pairs of segments, whose rows these are.
    """
    kept = values if counted is None else values.masked_fill(~counted, 0.0)
    return kept.view(*batch.rewards.shape[:-1], *kept.shape[1:]).sum(2)
