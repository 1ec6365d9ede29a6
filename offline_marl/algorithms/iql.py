"""Implicit Q-learning (Kostrikov et al., 2021): one independent learner per agent.

V_i fits an expectile of min Q_i over the data's own actions, Q_i bootstraps from V_i, and the policy
clones the data weighted by exp(temperature * advantage). (Not independent Q-learning.)
Departs from the paper: all three losses are taken at the same parameters, so one backward serves;
the policy is tanh-squashed. Of mixtures with imagined rows, the policy clones the recorded ones alone.
Paper: arXiv 2110.06169.
"""

from __future__ import annotations

import torch

from offline_marl.algorithms.base import AlgorithmConfig, algorithms, cleared
from offline_marl.algorithms.split import IndependentAlgorithm, Terms
from offline_marl.core.fields import InnerShare, NotNegative, Positive
from offline_marl.core.types import Batch, Needs, Spec
from offline_marl.losses import bellman, policy
from offline_marl.networks.actors import Actor
from offline_marl.networks.critics import Critic, Value
from offline_marl.networks.targets import frozen_copy


class IQLConfig(AlgorithmConfig):
    """Common fields and those of implicit Q-learning.

    With u = min_k Q'_k(o, a) - V(o), each agent minimises |`expectile` - 1(u < 0)| u^2 for V,
    -min(exp(`temperature` u), `max_weight`) log pi(a | o) for the policy, and
    sum_k (Q_k(o, a) - r - `gamma` (1 - terminated) V(o'))^2 for the critic.
    """

    expectile: InnerShare = 0.7
    """Expectile of Q that the value fits; 0.5 is the mean."""
    temperature: NotNegative = 3.0
    """Multiplies the advantage in the policy's weights (the paper's beta); 0 is behaviour cloning."""
    max_weight: Positive = 100.0
    """Largest weight that one action can have."""
    behaviour_temperature: NotNegative = 1.0
    """Of choices, when exploring: divides the logits that they are drawn from; 0 takes the likeliest."""


@algorithms.register("iql")
class IQL(IndependentAlgorithm):
    """Expectile regression for V, one-step targets for Q, advantage-weighted cloning: no Q of an unseen action."""

    Config = IQLConfig
    needs = Needs(recorded="some")
    config: IQLConfig

    def __init__(self, config: IQLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.behaviour_temperature = config.behaviour_temperature if spec.discrete else 1.0
        self.actor = Actor(act_dims=spec.act_dims, discrete=spec.discrete, **self.shape)
        self.critic = Critic(act_dims=spec.act_dims, discrete=spec.discrete, **self.shape)
        self.value = Value(spec.n_agents, **self.shape)
        self.target_critic = frozen_copy(self.critic)
        self.target_inputs = frozen_copy(self.inputs)
        self.optimize("actor", "critic", "value", lr=config.lr)

    def losses(self, batch: Batch) -> Terms:
        """The losses of value, policy and critic, at the same parameters."""
        config, batch = self.config, cleared(batch, self.inputs.mean)
        features = self.inputs(batch.obs, batch.history)
        with torch.no_grad():
            past = self.target_inputs(batch.obs, batch.history) if self.window else features
            q = self.target_critic(past, batch.actions).amin(0)
            next_v = self.value(self.inputs(batch.next_obs, batch.next_history))
            target = bellman.td_target(batch.rewards, batch.terminations, next_v, config.gamma).clamp(max=self.best)

        advantages = q - self.value(features)
        value_loss = self.mean(bellman.expectile(advantages, config.expectile), batch)

        weights = policy.advantage_weights(advantages.detach(), config.temperature, config.max_weight)
        log_probs = self.actor(features, batch.avail_actions).log_prob(batch.actions)
        actor_loss = self.mean(self.over_recorded(policy.weighted_bc(log_probs, weights), batch), batch)

        errors = (self.critic(features, batch.actions) - target).square().sum(0)
        critic_loss = self.mean(errors, batch)
        metrics = {
            "loss/value": value_loss.detach(),
            "loss/actor": actor_loss.detach(),
            "loss/critic": critic_loss.detach(),
            "q/mean": self.mean(q, batch),
            "advantage/mean": self.mean(advantages.detach(), batch),
        }
        return Terms({"": value_loss + actor_loss + critic_loss}, metrics)
