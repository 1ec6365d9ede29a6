"""Top cloning: agents copy the same best share of the recorded joint actions.

V_tot = mean_i V_i(o_i) follows r + gamma (1 - terminated) V'_tot(o'), r the mean reward; the team's advantage
is target - V_tot. max sum_i log pi_i(a_i | o_i) over the rows whose advantage is in the best `share` of the batch.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from offline_marl import Algorithm, AlgorithmConfig, Batch, Metrics, Needs, Spec, algorithms
from offline_marl.algorithms.base import masked_mean, over_recorded
from offline_marl.losses import bellman
from offline_marl.networks.actors import Actor
from offline_marl.networks.critics import Value
from offline_marl.networks.targets import frozen_copy


class TopCloningConfig(AlgorithmConfig):
    """Common fields and one of its own."""

    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of each batch that is copied, the best by the team's advantage; 1 is behaviour cloning."""


def best_rows(advantages: torch.Tensor, share: float) -> torch.Tensor:
    """1 for the rows of a batch in its best share by advantage, else 0."""
    return (advantages >= advantages.quantile(1 - share)).to(advantages.dtype)


@algorithms.register("top-cloning")
class TopCloning(Algorithm):
    """Copies together what went well together."""

    Config = TopCloningConfig
    config: TopCloningConfig
    needs = Needs(recorded="some")

    def __init__(self, config: TopCloningConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.actor = Actor(act_dims=spec.act_dims, discrete=spec.discrete, **self.shape)
        self.value = Value(spec.n_agents, **self.shape)
        self.target_value = frozen_copy(self.value)
        self.optimize("actor", "value", lr=config.lr)

    def update(self, batch: Batch) -> Metrics:
        """One step of the team's value and of the policies."""
        features = self.inputs(batch.obs, batch.history)
        with torch.no_grad():
            next_v = self.target_value(self.inputs(batch.next_obs, batch.next_history)).mean(-1)
            target = bellman.td_target(batch.rewards.mean(-1), batch.terminations.all(-1), next_v, self.config.gamma)

        advantages = target - self.value(features).mean(-1)
        value_loss = advantages.square().mean()

        kept = best_rows(advantages.detach(), self.config.share)
        log_probs = self.actor(features, batch.avail_actions).log_prob(batch.actions)
        actor_loss = -masked_mean(over_recorded(kept.unsqueeze(-1) * log_probs, batch), batch.mask)

        self.descend(value_loss + actor_loss)
        self.update_targets(self.config.tau)
        return {"loss/value": value_loss.detach(), "loss/actor": actor_loss.detach(), "kept/share": kept.mean()}
