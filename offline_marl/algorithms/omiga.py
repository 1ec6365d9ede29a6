"""OMIGA (Wang et al., 2023): implicit regularisation towards the data, global for the team and local for each agent.

Q_tot = sum_i w_i(s) Q_i(o_i, a_i) + b(s) with w_i >= 0, s = all observations side by side, and V_tot alike by the same
mixer. A team policy that is regularised towards the data's, with weight alpha, falls apart into local ones: with
z_i = w_i (Q_i - V_i) / alpha, V_i is where E exp(z_i) = 1 over the data's actions, and pi_i clones the data
weighted by exp(z_i). Q_tot bootstraps from V_tot, so no Q is asked about an action that is not in the data.
Departs from the published code: all losses are taken at the same parameters, so that one backward serves and
a history is encoded once; an exponent beyond its limit keeps its slope, without which V runs away from Q there; s
is made of the observations, also where the data holds a state; policies are the other learners', with log-std in
[-6, 0]; agents share weights only if asked to (`share_parameters`, as published). Of mixtures with imagined rows, the
policy clones the recorded ones alone.
Paper: arXiv 2307.11620.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from offline_marl.algorithms.base import (
    AlgorithmConfig,
    algorithms,
    cleared,
    masked_mean,
    over_recorded,
    present_next,
    present_rows,
    team_ended,
    team_rewards,
)
from offline_marl.algorithms.descent import DescentAlgorithm, Terms
from offline_marl.core.axes import Features, PerAgent
from offline_marl.core.fields import Count, NotNegative, Positive
from offline_marl.core.types import Batch, Metrics, Needs, Spec
from offline_marl.losses import bellman, implicit, policy
from offline_marl.networks.actors import Actor
from offline_marl.networks.critics import Critic, Value
from offline_marl.networks.mixers import Mixer
from offline_marl.networks.targets import frozen_copy


class OMIGAConfig(AlgorithmConfig):
    """Common fields and those of the regularisation.

    With z_i = w'_i(s) (Q'_i(o_i, a_i) - V_i(o_i)) / `alpha`, held within +-`max_exponent`, each agent minimises
    exp(z_i) + w'_i V_i / `alpha` for V_i and -exp(z_i) log pi_i(a_i | o_i) for the policy, and the team
    (sum_i w_i(s) Q_i + b(s) - mean_i r_i - `gamma` (1 - terminated) (sum_i w'_i(s') V'_i(o'_i) + b'(s')))^2
    for critics and mixer.
    """

    grad_clip: NotNegative = 1.0
    """Largest gradient norm of each module; 0 leaves gradients alone."""
    alpha: Positive = 10.0
    """Weight of the regularisation towards the data, in the units of the rewards; large values clone the data."""
    max_exponent: Positive = 10.0
    """Largest size of an exponent: no action counts more than exp of it."""
    mixer: Literal["monotonic", "vdn"] = "monotonic"
    """Weights >= 0 and a bias that depend on the joint state, or a plain sum."""
    mixer_hidden: tuple[Count, ...] = (64,)
    """Widths of the mixer's hidden layers."""
    behaviour_temperature: NotNegative = 1.0
    """Of choices, when exploring: divides the logits that they are drawn from; 0 takes the likeliest."""


@algorithms.register("omiga")
class OMIGA(DescentAlgorithm):
    """Local values and policies whose weights in the team's value say how much each heeds its advantage."""

    Config = OMIGAConfig
    needs = Needs(recorded="some", joint=True)
    config: OMIGAConfig

    def __init__(self, config: OMIGAConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.behaviour_temperature = config.behaviour_temperature if spec.discrete else 1.0
        self.actor = Actor(act_dims=spec.act_dims, discrete=spec.discrete, **self.shape)
        self.critic = Critic(act_dims=spec.act_dims, discrete=spec.discrete, copies=1, **self.shape)
        self.value = Value(spec.n_agents, **self.shape)
        self.mixer = self.make_mixer(config, spec)
        self.target_critic, self.target_value = frozen_copy(self.critic), frozen_copy(self.value)
        self.target_mixer, self.target_inputs = frozen_copy(self.mixer), frozen_copy(self.inputs)
        self.optimize("actor", "critic", "value", "mixer", lr=config.lr)

    def make_mixer(self, config: OMIGAConfig, spec: Spec) -> Mixer:
        """The mixer of the team's value."""
        return Mixer(config.mixer, spec.n_agents, spec.n_agents * spec.obs_dim, config.mixer_hidden)

    def losses(self, batch: Batch) -> Terms:
        """The losses of critics and mixer, values and policies, at the same parameters."""
        rows = cleared(batch.flatten(), self.inputs.mean)
        features = self.inputs(rows.obs, rows.history)
        critic_loss, metrics = self.critic_loss(batch, rows, features)
        value_loss, actor_loss, advantages = self.local_losses(rows, features)
        told = {
            "loss/value": value_loss.detach(),
            "loss/actor": actor_loss.detach(),
            "loss/critic": critic_loss.detach(),
            **metrics,
            "advantage/mean": advantages,
        }
        return Terms({"": value_loss + actor_loss + critic_loss}, told)

    def critic_loss(self, batch: Batch, rows: Batch, features: Features) -> tuple[Tensor, Metrics]:
        """Squared temporal difference of the team's value, and what is told of it.

        Args:
            batch: As it was drawn.
            rows: Its rows in one axis, without what stands where agents are absent.
            features: Of these rows.
        """
        counted = present_rows(rows)
        target = bellman.td_target(team_rewards(rows), team_ended(rows), self.next_value(rows), self.config.gamma)
        q = self.team_value(rows, features)
        loss = masked_mean((q - target.clamp(max=self.best_team)).square(), counted)
        return loss, {"q/mean": masked_mean(q.detach(), counted)}

    def team_value(self, rows: Batch, features: Features) -> Annotated[Tensor, "batch"]:
        """Q_tot of the data's actions."""
        mixed: Tensor = self.mixer(self.critic(features, rows.actions), self.joint(rows.obs), rows.mask)
        return mixed[0]

    @torch.no_grad()
    def next_value(self, rows: Batch) -> Annotated[Tensor, "batch"]:
        """The target V_tot of what follows."""
        values = self.next_values(rows).unsqueeze(0)
        mixed: Tensor = self.target_mixer(values, self.joint(rows.next_obs), present_next(rows))
        return mixed[0]

    @torch.no_grad()
    def next_values(self, rows: Batch) -> PerAgent:
        """Each agent's target V of what it sees next."""
        values: Tensor = self.target_value(self.target_inputs(rows.next_obs, rows.next_history))
        return values

    def local_losses(self, rows: Batch, features: Features) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of the values, loss of the policies, and the mean weighted advantage."""
        config, v = self.config, self.value(features)
        q, weights = self.target_q(rows, features)
        z = implicit.exponents(q, v, weights, config.alpha, config.max_exponent)
        value_loss = masked_mean(implicit.exponential_value(z, weights * v / config.alpha, rows.mask), rows.mask)
        log_probs = self.actor(features, rows.avail_actions).log_prob(rows.actions)
        cloned = over_recorded(policy.weighted_bc(log_probs, z.detach().exp()), rows)
        return value_loss, masked_mean(cloned, rows.mask), masked_mean((weights * (q - v)).detach(), rows.mask)

    @torch.no_grad()
    def target_q(self, rows: Batch, features: Features) -> tuple[PerAgent, PerAgent]:
        """Target Q_i of the data's actions and the target mixer's weights."""
        past = self.target_inputs(rows.obs, rows.history) if self.window else features
        return self.target_critic(past, rows.actions)[0], self.target_mixer.coefficients(self.joint(rows.obs))[0]
