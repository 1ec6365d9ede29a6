"""Behaviour cloning: each agent's policy maximises the likelihood of the data's actions.

max sum_i log pi_i(a_i | o_i). The floor that every other algorithm must rise above.
"""

from __future__ import annotations

import torch

from offline_marl.algorithms.base import AlgorithmConfig, algorithms, cleared
from offline_marl.algorithms.split import IndependentAlgorithm, Terms
from offline_marl.core.axes import PerAgent
from offline_marl.core.types import Batch, Needs, Spec
from offline_marl.networks.actors import Actor


class BCConfig(AlgorithmConfig):
    """Common fields alone: the loss is the mean over rows and agents of -log pi_i(a_i | o_i)."""


@algorithms.register("bc")
class BC(IndependentAlgorithm):
    """Maximum likelihood of the recorded actions; rewards and values play no part."""

    Config = BCConfig
    needs = Needs(recorded="only", next_obs=False)

    def __init__(self, config: BCConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.actor = Actor(act_dims=spec.act_dims, discrete=spec.discrete, **self.shape)
        self.optimize("actor", lr=config.lr)

    @torch.no_grad()
    def log_prob(self, batch: Batch) -> PerAgent:
        """Log-probability of each agent's action, or its log-density; batches hold histories as long as `window`."""
        policy = self.actor(self.inputs(batch.obs, batch.history), batch.avail_actions)
        log_probs: PerAgent = policy.log_prob(batch.actions)
        return log_probs

    def losses(self, batch: Batch) -> Terms:
        """Minus the mean log-likelihood of the batch's actions."""
        batch = cleared(batch, self.inputs.mean)
        policy = self.actor(self.inputs(batch.obs, batch.history), batch.avail_actions)
        loss = -self.mean(self.over_recorded(policy.log_prob(batch.actions), batch), batch)
        return Terms({"": loss}, {"loss/actor": loss.detach()})
