"""Two small learners that stand for kinds that the library has none of: one reads next actions, one whole stretches.

Importing this registers both, so that `pytest -p toy_learners` holds them to the contract.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from offline_marl.algorithms.base import Algorithm, AlgorithmConfig, algorithms, masked_mean
from offline_marl.core.types import Batch, Metrics, Needs, Spec
from offline_marl.losses import bellman
from offline_marl.networks.actors import Actor
from offline_marl.networks.critics import Critic
from offline_marl.networks.targets import frozen_copy


class ToySarsaConfig(AlgorithmConfig):
    """Nothing beyond the common fields."""


@algorithms.register("toy-sarsa")
class ToySarsa(Algorithm):
    """Clones, and learns the value of what it clones from the next step's recorded action."""

    Config = ToySarsaConfig
    needs = Needs(next_actions=True)

    def __init__(self, config: ToySarsaConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.actor = Actor(act_dims=spec.act_dims, discrete=spec.discrete, **self.shape)
        self.critic = Critic(act_dims=spec.act_dims, discrete=spec.discrete, **self.shape)
        self.target_critic = frozen_copy(self.critic)
        self.optimize("actor", "critic", lr=config.lr)

    def update(self, batch: Batch) -> Metrics:
        """One step; the last step of an episode cut short has no target."""
        assert batch.next_actions is not None and batch.next_mask is not None
        features = self.inputs(batch.obs, batch.history)
        with torch.no_grad():
            next_features = self.inputs(batch.next_obs, batch.next_history)
            next_q = self.target_critic(next_features, batch.next_actions).amin(0)
            target = bellman.td_target(batch.rewards, batch.terminations, next_q, self.config.gamma)
        errors = (self.critic(features, batch.actions) - target).square().sum(0)
        critic_loss = masked_mean(errors, batch.next_mask | batch.terminations)
        actor_loss = -masked_mean(self.actor(features, batch.avail_actions).log_prob(batch.actions), batch.mask)
        self.descend(critic_loss + actor_loss)
        self.update_targets(self.config.tau)
        return {"loss/critic": critic_loss.detach(), "loss/actor": actor_loss.detach()}


class ToyRecurrentConfig(AlgorithmConfig):
    """Nothing beyond the common fields."""


@algorithms.register("toy-recurrent")
class ToyRecurrent(Algorithm):
    """Clones, and learns the value of what each agent has seen since the segment began."""

    Config = ToyRecurrentConfig
    needs = Needs(view="segments", length=3, burn_in=2)

    def __init__(self, config: ToyRecurrentConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.actor = Actor(act_dims=spec.act_dims, discrete=spec.discrete, **self.shape)
        self.memory = nn.GRU(self.inputs.width, 8, batch_first=True)
        self.value = nn.Linear(8, 1)
        self.target_memory, self.target_value = frozen_copy(self.memory), frozen_copy(self.value)
        self.optimize("actor", "memory", "value", lr=config.lr)

    def update(self, batch: Batch) -> Metrics:
        """One step; steps that are burnt in warm the memory up and are not learnt from."""
        assert batch.mask is not None
        features = self.inputs(batch.obs, batch.history)
        now, _ = self.memory(_folded(features))
        value = _unfolded(self.value(now), features)
        with torch.no_grad():
            past, _ = self.target_memory(_folded(features))
            after = _folded(self.inputs(batch.next_obs, batch.next_history)).flatten(0, 1).unsqueeze(1)
            ahead, _ = self.target_memory(after, past.flatten(0, 1).unsqueeze(0))
            next_v = _unfolded(self.target_value(ahead).view(*now.shape[:2], 1), features)
            target = bellman.td_target(batch.rewards, batch.terminations, next_v, self.config.gamma)
        critic_loss = masked_mean((value - target).square(), batch.mask)
        actor_loss = -masked_mean(self.actor(features, batch.avail_actions).log_prob(batch.actions), batch.mask)
        self.descend(critic_loss + actor_loss)
        self.update_targets(self.config.tau)
        return {"loss/critic": critic_loss.detach(), "loss/actor": actor_loss.detach()}


def _folded(features: Tensor) -> Tensor:
    """`[batch, time, agent, feature]` as one sequence per agent."""
    return features.transpose(1, 2).flatten(0, 1)


def _unfolded(values: Tensor, features: Tensor) -> Tensor:
    """One number per agent's step, `[batch, time, agent]`."""
    return values.squeeze(-1).unflatten(0, (len(features), features.shape[2])).transpose(1, 2)
