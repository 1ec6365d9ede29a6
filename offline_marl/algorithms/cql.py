"""Conservative Q-learning (Kumar et al., 2020), in the form OMAR gives it: TD3 with a restrained critic.

Continuous: the critic's loss gains alpha (T log int exp(Q(o, a) / T) da - Q(o, a_data)), the integral from
draws that are uniform and around the policy's actions here and in the next step, each divided by its
*density*; the policy is TD3+BC's. Discrete: double Q-learning with the same gap over the available
choices, acting greedily.
`cql_actions = own` changes one agent's action at a time, `joint` all at once: two algorithms that papers
call MA-CQL. `counterfactual` is `own` with a weight per agent (after CFCQL, Shao et al., 2023).
Departs from published code: T divides Q alone, not the log density with it (equal at T = 1). As there,
draws around the policy are clipped to the box but keep their unclipped density, which is low at its edge.
Departs from CFCQL: each agent has a critic of its own, penalised along its own action n w_i times, instead
of one critic penalised by the weighted sum; w = softmax(-sharpness d), d_i the mean squared distance of
the policy's action entries from the data's in units of the sampling noise, for the divergence from behaviour.
Of mixtures with imagined rows, the gap is that of the recorded ones; `conservative_rows = combo` holds down the
soft maximum on the imagined ones and lifts Q on the recorded ones (COMBO, Yu et al., 2021).
Papers: arXiv 2006.04779 (CQL), arXiv 2309.12696 (CFCQL), arXiv 2102.08363 (COMBO).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from offline_marl.algorithms.base import Algorithm, algorithms, masked_mean, over_recorded, over_rows
from offline_marl.algorithms.td3_bc import TD3BC, TD3BCConfig
from offline_marl.core.axes import Features, PerAgent
from offline_marl.core.fields import Count, NotNegative, Positive
from offline_marl.core.types import AvailActions, Batch, DataError, History, Metrics, Needs, Obs, Spec
from offline_marl.losses import bellman, conservative
from offline_marl.networks.critics import Critic
from offline_marl.networks.distributions import Categorical
from offline_marl.networks.targets import frozen_copy

Draws = tuple[Annotated[Tensor, "sample batch agent act"], Annotated[Tensor, "sample batch agent"]]


class CQLConfig(TD3BCConfig):
    """Fields of TD3+BC and those of the conservative gap.

    The critic's loss gains `cql_alpha` sum_k (T log int exp(Q_k(o, a) / T) da - Q_k(o, a_data)), T = `cql_temperature`.
    Of m = 3 `cql_samples` draws a_j with densities mu, uniform and normal of deviation `cql_noise`, the first term is
    T (logsumexp_j(Q_k(o, a_j) / T - log mu(a_j)) - log m); of choices, T logsumexp_a(Q_k(o, a) / T).
    `cql_actions = counterfactual` weighs agent i's gap with n softmax_i(-`sharpness` d_i) for n agents, where
    d_i = |pi_i(o_i) - a_i|^2 / `cql_noise`^2, the square being the mean over action entries.
    """

    cql_alpha: NotNegative = 1.0
    """Weight of the gap in the critic's loss."""
    cql_temperature: Positive = 1.0
    """T of the soft maximum."""
    cql_samples: Count = 10
    """Draws of each kind: uniform, around the policy here, around the policy at the next step."""
    cql_noise: Positive = 0.2
    """Deviation of the draws around the policy."""
    cql_actions: Literal["own", "joint", "counterfactual"] = "own"
    """Draw one agent's action at a time, the joint action, or one at a time with weights that sum to 1."""
    sharpness: NotNegative = 1.0
    """How strongly counterfactual weights prefer agents that stay near the data; 0 weighs all alike."""
    conservative_rows: Literal["recorded", "combo"] = "recorded"
    """Of mixtures with imagined rows: the gap of recorded ones, or the soft maximum of imagined ones instead."""

    @model_validator(mode="after")
    def _gap_fits_critic(self) -> CQLConfig:
        if self.cql_actions != "own" and self.critic == "independent":
            raise ValueError(f"cql_actions = {self.cql_actions} needs critic = centralised")
        if self.cql_actions == "counterfactual" and self.conservative_rows == "combo":
            raise ValueError(
                "conservative_rows = combo goes with cql_actions = own or joint: counterfactual weights measure "
                "distances from recorded actions, of which imagined rows have none"
            )
        return self


@algorithms.register("cql")
class CQL(TD3BC):
    """TD3, or double Q-learning on choices, whose critic also minimises a soft maximum of Q less the recorded Q."""

    Config = CQLConfig
    needs = Needs(recorded="some")
    config: CQLConfig
    present: Tensor

    def __init__(self, config: CQLConfig, spec: Spec) -> None:
        if not spec.discrete:
            super().__init__(config, spec)
            return
        Algorithm.__init__(self, config, spec)
        if config.critic == "centralised":
            raise DataError(
                "cql on discrete actions acts greedily on its critic, which must not read other agents: "
                "critic = independent is the one that serves."
            )
        self.critic = Critic(act_dims=spec.act_dims, discrete=True, **self.shape)
        self.target_critic, self.target_inputs = frozen_copy(self.critic), frozen_copy(self.inputs)
        self.register_buffer("actor_loss", torch.zeros(()))
        self.register_buffer("present", spec.present("act"), persistent=False)
        self.optimize("critic", lr=config.lr)

    def critic_penalty(self, batch: Batch, features: Features, q: Tensor, metrics: Metrics) -> Tensor | float:
        """The gap between the soft maximum of Q and Q of the data's action."""
        level = self.discrete_level if self.spec.discrete else self.continuous_level
        if self.config.conservative_rows == "combo" and batch.synthetic is not None:
            # Where nothing is imagined, recorded rows are what Q is held down on.
            down = torch.where(batch.synthetic.any(), batch.synthetic, ~batch.synthetic)
            gaps = over_rows(level(batch, features).sum(0), batch, down) - over_recorded(q.sum(0), batch)
        else:
            gaps = over_recorded((level(batch, features) - q).sum(0), batch)
        if self.config.cql_actions == "counterfactual":
            gaps = gaps * self.weights(batch, features.detach())
        gap = masked_mean(gaps, batch.mask)
        metrics["loss/gap"] = gap.detach()
        return self.config.cql_alpha * gap

    def continuous_level(self, batch: Batch, features: Features) -> Annotated[Tensor, "copy batch agent"]:
        """Soft maximum of Q over all actions, from draws."""
        actions, log_density = self.draw(batch, features.detach())
        if self.config.cql_actions == "joint":
            q = self.critic(features, actions)
            log_density = log_density.sum(-1, keepdim=True).expand_as(log_density)
        else:
            q = self.critic(features, batch.actions, actions)
        q = q.movedim(1, -1)
        log_density = log_density.movedim(0, -1).expand_as(q)
        return conservative.sampled_soft_maximum(q, log_density, self.config.cql_temperature)

    def discrete_level(self, batch: Batch, features: Features) -> Annotated[Tensor, "copy batch agent"]:
        """Soft maximum of Q over the available choices."""
        q = self.allowed(self.critic.each_choice(features), batch.avail_actions)
        return conservative.soft_maximum(q, self.config.cql_temperature)

    @torch.no_grad()
    def draw(self, batch: Batch, features: Features) -> Draws:
        """Uniform actions and noisy ones around the policy's, with the log density of each agent's action."""
        count, noise, present = self.config.cql_samples, self.config.cql_noise, self.policy.present
        here = self.policy(features)
        there = self.policy(self.inputs(batch.next_obs, batch.next_history))
        shape = (count, *here.shape)
        if batch.mask is not None:
            # Drawn joint actions hold zeros for absent agents, as recorded ones do, who add nothing to their density.
            present = present & batch.mask.unsqueeze(-1)
            here, there = here * present, there * present
        uniform = torch.empty(shape, device=here.device).uniform_(-1, 1, generator=self.generator) * present
        shaken = torch.empty((2, *shape), device=here.device).normal_(generator=self.generator) * present
        around = torch.stack([here, there]).unsqueeze(1) + noise * shaken
        width = present.sum(-1)
        flat = (-math.log(2.0) * width).expand(count, *here.shape[:-1])
        bell = -0.5 * shaken.square().sum(-1) - (math.log(noise) + 0.5 * math.log(2 * math.pi)) * width
        return torch.cat([uniform, around.flatten(0, 1).clamp(-1, 1)]), torch.cat([flat, bell.flatten(0, 1)])

    @torch.no_grad()
    def weights(self, batch: Batch, features: Features) -> PerAgent:
        """Each agent's share in the counterfactual gap; the shares sum to the number of agents that are there."""
        distance = self.distance(self.policy(features), batch.actions) / self.config.cql_noise**2
        scores = -self.config.sharpness * distance
        if batch.mask is None:
            return torch.softmax(scores, dim=-1) * self.spec.n_agents
        scores = scores.masked_fill(~batch.mask, torch.finfo(scores.dtype).min)
        return torch.softmax(scores, dim=-1) * batch.mask.sum(-1, keepdim=True)

    @torch.no_grad()
    def target(self, batch: Batch) -> PerAgent:
        """TD3's target; for choices that of double Q-learning (van Hasselt et al., 2016)."""
        if not self.spec.discrete:
            return super().target(batch)
        greedy = self.act(batch.next_obs, history=batch.next_history, avail_actions=batch.next_avail_actions)
        features = self.target_inputs(batch.next_obs, batch.next_history)
        next_q = self.target_critic(features, greedy).amin(0)
        return bellman.td_target(batch.rewards, batch.terminations, next_q, self.config.gamma).clamp(max=self.best)

    def policy_loss(self, batch: Batch, features: Features) -> Tensor:
        """TD3+BC's policy loss; a greedy policy needs none."""
        return features.new_zeros(()) if self.spec.discrete else super().policy_loss(batch, features)

    @torch.no_grad()
    def act(
        self,
        obs: Obs,
        *,
        history: History | None = None,
        avail_actions: AvailActions | None = None,
        explore: bool = False,
    ) -> Tensor:
        """The policy's actions; for choices the greedy ones, or drawn from softmax(Q / T) if `explore`."""
        if not self.spec.discrete:
            return super().act(obs, history=history, explore=explore)
        q = self.critic.each_choice(self.inputs(obs, history))[0]
        allowed = self.present.expand_as(q) if avail_actions is None else avail_actions & self.present
        choice = Categorical(q / self.config.cql_temperature, allowed)
        return choice.sample(self.generator) if explore else choice.mode()

    def allowed(self, q: Tensor, avail_actions: AvailActions | None) -> Tensor:
        """Q with choices that cannot be made at minus infinity."""
        can = self.present if avail_actions is None else avail_actions & self.present
        return q.masked_fill(~can, -torch.inf)
