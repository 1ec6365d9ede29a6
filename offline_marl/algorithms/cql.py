"""Conservative Q-learning (Kumar et al., 2020), in the form OMAR gives it: TD3 with a restrained critic.

Continuous: the critic's loss gains alpha (T log int exp(Q(o, a) / T) da - Q(o, a_data)), the integral from
draws that are uniform and around the policy's actions here and in the next step, each divided by its
*density*; the policy is TD3+BC's. Discrete: double Q-learning with the same gap over the available
choices, acting greedily.
`cql_actions = own` changes one agent's action at a time, `joint` all at once: two algorithms that papers
call MA-CQL. `counterfactual` is `own` with a weight per agent (after CFCQL, Shao et al., 2023).
What our tables call `cql` has TD3+BC's policy: it climbs Q and is held near the recorded actions (`bc_weight = 1`).
`bc_weight = 0` is CQL's own objective, `policy = sac` its own actor, `target_gap` its Lagrange multiplier.
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

from offline_marl.algorithms.base import Algorithm, algorithms, masked_mean, present_next, present_now
from offline_marl.algorithms.split import Terms
from offline_marl.algorithms.td3_bc import TD3BC, Acts, TD3BCConfig, where_present
from offline_marl.core.axes import Features, PerAgent
from offline_marl.core.fields import Count, CountOrZero, NotNegative, Positive, Share
from offline_marl.core.types import AvailActions, Batch, DataError, History, Needs, Obs, Spec
from offline_marl.losses import bellman, conservative
from offline_marl.networks.actors import Actor, AgentPolicy
from offline_marl.networks.critics import Critic
from offline_marl.networks.distributions import Categorical, TanhNormal
from offline_marl.networks.exploration import epsilon_greedy, linear
from offline_marl.networks.multipliers import Multiplier
from offline_marl.networks.targets import frozen_copy

Draws = tuple[Annotated[Tensor, "sample batch agent act"], Annotated[Tensor, "sample batch agent"]]


class CQLConfig(TD3BCConfig):
    """Fields of TD3+BC and those of the conservative gap.

    The critic's loss gains `cql_alpha` sum_k (T log int exp(Q_k(o, a) / T) da - Q_k(o, a_data)), T = `cql_temperature`.
    Of m = 3 `cql_samples` draws a_j with densities mu, uniform and normal of deviation `cql_noise`, the first term is
    T (logsumexp_j(Q_k(o, a_j) / T - log mu(a_j)) - log m); of choices, T logsumexp_a(Q_k(o, a) / T).
    `cql_actions = counterfactual` weighs agent i's gap with n softmax_i(-`sharpness` d_i) for n agents, where
    d_i = |pi_i(o_i) - a_i|^2 / `cql_noise`^2, the square being the mean over action entries.
    Policy: TD3+BC's with `bc_weight` |pi(o) - a|^2; or, `policy = sac`, t log pi(a' | o) - min_k Q_k(o, a')
    + `bc_weight` |a' - a|^2 with a' drawn from pi; t descends t (-log pi(a' | o) + n) for n action entries.
    Above 0, `target_gap` makes `cql_alpha` a multiplier that descends -`cql_alpha` sum_k (gap_k - `target_gap`).
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
    bc_weight: NotNegative = 1.0
    """Weight of the squared distance from the recorded action in the policy's loss; 0 is CQL's own policy loss."""
    policy: Literal["td3", "sac"] = "td3"
    """Deterministic with TD3's smoothed targets, or, as CQL's own, a tanh-normal whose entropy is kept (SAC)."""
    target_gap: NotNegative = 0.0
    """Gap of one critic that `cql_alpha` is tuned to hold, as CQL's Lagrange multiplier; 0 keeps `cql_alpha` fixed."""
    conservative_rows: Literal["recorded", "combo"] = "recorded"
    """Of mixtures with imagined rows: the gap of recorded ones, or the soft maximum of imagined ones instead."""
    behaviour_temperature: NotNegative | None = None
    """Of choices, when exploring: they are drawn from softmax(Q / it), 0 for greedy ones; T unless said."""
    epsilon_start: Share = 0.0
    """Of choices, when exploring: chance of a uniform one at first."""
    epsilon_end: Share = 0.0
    """That chance from `epsilon_steps` on, and where nothing is played."""
    epsilon_steps: CountOrZero = 50_000
    """Environment steps over which it moves."""

    @model_validator(mode="after")
    def _gap_fits_critic(self) -> CQLConfig:
        if self.target_gap and not self.cql_alpha:
            raise ValueError("target_gap tunes cql_alpha from where it stands, which must be above 0")
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
        if spec.discrete:
            self._choose_greedily(config, spec)
        else:
            super().__init__(config, spec)
            self.cloning_weight = config.bc_weight
        if config.policy == "sac":
            del self.target_policy  # targets are drawn from the policy itself
            self.temperature = Multiplier(spec.n_agents)
            # It steps with the policy, and so has fewer steps for the same schedule.
            steps = math.ceil(config.cosine_steps / config.policy_every)
            self.optimize("temperature", lr=config.lr, name="temperature", cosine_steps=steps)
        if config.target_gap:
            self.multiplier = Multiplier(1, config.cql_alpha)
            self.optimize("multiplier", lr=config.lr, name="multiplier")

    def _choose_greedily(self, config: CQLConfig, spec: Spec) -> None:
        Algorithm.__init__(self, config, spec)
        if config.policy == "sac":
            raise DataError("cql on discrete actions acts greedily on its critic: policy = sac is for continuous ones.")
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

    def make_policy(self) -> AgentPolicy:
        """Deterministic policies, or those of soft actor-critic."""
        if self.config.policy == "sac":
            return Actor(act_dims=self.spec.act_dims, discrete=False, **self.shape)
        return super().make_policy()

    def refuse_split(self) -> None:
        """One multiplier for the team reads the gaps of all agents."""
        super().refuse_split()
        if self.config.target_gap:
            raise DataError(
                "With target_gap one multiplier weighs the gaps of all agents: such an update cannot be split by agent."
            )

    @property
    def judged(self) -> int:
        """The draws of all three kinds; choices are outputs of one network."""
        return 1 if self.spec.discrete else 3 * self.config.cql_samples

    @classmethod
    def couples_agents(cls, config: CQLConfig) -> str:
        """One multiplier reads all gaps; joint draws and counterfactual weights take sums over the team."""
        if config.target_gap:
            return "target_gap"
        return "" if config.cql_actions == "own" else f"cql_actions = {config.cql_actions}"

    def critic_penalty(self, batch: Batch, features: Features, q: Tensor, terms: Terms) -> Tensor | float:
        """The gap between the soft maximum of Q and Q of the data's action."""
        level = self.discrete_level if self.spec.discrete else self.continuous_level
        if self.config.conservative_rows == "combo" and batch.synthetic is not None:
            # Where nothing is imagined, recorded rows are what Q is held down on.
            down = torch.where(batch.synthetic.any(), batch.synthetic, ~batch.synthetic)
            gaps = self.over_rows(level(batch, features).sum(0), batch, down) - self.over_recorded(q.sum(0), batch)
        else:
            gaps = self.over_recorded((level(batch, features) - q).sum(0), batch)
        if self.config.cql_actions == "counterfactual":
            gaps = gaps * self.weights(batch, features.detach())
        gap = self.mean(gaps, batch)
        terms.metrics["loss/gap"] = gap.detach()
        if not self.config.target_gap:
            return self.config.cql_alpha * gap
        alpha: Tensor = self.multiplier().sum()
        terms.metrics["gap/weight"] = alpha.detach()
        terms.losses["multiplier"] = alpha * (len(q) * self.config.target_gap - gap.detach())
        return alpha.detach() * gap

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
        reads = (features, self.inputs(batch.next_obs, batch.next_history))
        here, there = (self.middle(read) for read in reads)
        shape = (count, *here.shape)
        shown = present_now(batch)
        if shown is not None:
            # Drawn joint actions hold zeros for absent agents, as recorded ones do, who add nothing to their density.
            present = present & shown.unsqueeze(-1)
            here, there = here * present, there * present
        uniform = self.uniform(shape, -1, 1) * present
        width = present.sum(-1)
        flat = (-math.log(2.0) * width).expand(count, *here.shape[:-1])
        if self.config.policy == "sac":
            parts = [self.drawn(read, shown, count) for read in reads]
            actions, log_density = (torch.cat(part) for part in zip((uniform, flat), *parts, strict=True))
            return actions, log_density
        shaken = self.normal((2, *shape)) * present
        around = torch.stack([here, there]).unsqueeze(1) + noise * shaken
        bell = -0.5 * shaken.square().sum(-1) - (math.log(noise) + 0.5 * math.log(2 * math.pi)) * width
        return torch.cat([uniform, around.flatten(0, 1).clamp(-1, 1)]), torch.cat([flat, bell.flatten(0, 1)])

    def drawn(self, features: Features, mask: PerAgent | None, count: int) -> Draws:
        """Draws from the policies of soft actor-critic, with their log density; zeros of absent agents."""
        choice = self.stochastic(features)
        shape = (count, *choice.mean.shape)
        wide = TanhNormal(choice.mean.expand(shape), choice.log_std.expand(shape), choice.present)
        actions, log_density = wide.sample_with_log_prob(noise=self.normal_like(wide.mean))
        return where_present(actions, mask), log_density if mask is None else log_density * mask

    def stochastic(self, features: Features) -> TanhNormal:
        """The policies of soft actor-critic."""
        choice: TanhNormal = self.policy(features)
        return choice

    def middle(self, features: Features) -> Acts:
        """What policies do that explore nothing."""
        actions: Acts = self.stochastic(features).mode() if self.config.policy == "sac" else self.policy(features)
        return actions

    @torch.no_grad()
    def weights(self, batch: Batch, features: Features) -> PerAgent:
        """Each agent's share in the counterfactual gap; the shares sum to the number of agents that are there."""
        distance = self.distance(self.middle(features), batch.actions) / self.config.cql_noise**2
        scores = -self.config.sharpness * distance
        if batch.mask is None:
            return torch.softmax(scores, dim=-1) * self.spec.n_agents
        scores = scores.masked_fill(~batch.mask, torch.finfo(scores.dtype).min)
        return torch.softmax(scores, dim=-1) * batch.mask.sum(-1, keepdim=True)

    @torch.no_grad()
    def target(self, batch: Batch) -> PerAgent:
        """TD3's target, or that of a drawn action; for choices double Q-learning's (van Hasselt et al., 2016)."""
        if self.config.policy == "sac":
            choice = self.stochastic(self.inputs(batch.next_obs, batch.next_history))
            actions = choice.sample(noise=self.normal_like(choice.mean))
            features = self.target_inputs(batch.next_obs, batch.next_history)
            next_q = self.target_critic(features, where_present(actions, present_next(batch))).amin(0)
            return bellman.td_target(batch.rewards, batch.terminations, next_q, self.config.gamma).clamp(max=self.best)
        if not self.spec.discrete:
            return super().target(batch)
        greedy = self.choices(self.inputs(batch.next_obs, batch.next_history), batch.next_avail_actions).mode()
        features = self.target_inputs(batch.next_obs, batch.next_history)
        next_q = self.target_critic(features, greedy).amin(0)
        return bellman.td_target(batch.rewards, batch.terminations, next_q, self.config.gamma).clamp(max=self.best)

    def policy_loss(self, batch: Batch, features: Features, terms: Terms) -> Tensor:
        """TD3+BC's policy loss or soft actor-critic's, whose temperature steps here; a greedy policy needs none."""
        if self.spec.discrete:
            return features.new_zeros(())
        if self.config.policy == "td3":
            return super().policy_loss(batch, features, terms)
        choice = self.stochastic(features)
        actions, log_probs = choice.sample_with_log_prob(noise=self.normal_like(choice.mean))
        q, slope = self.slope(features, batch.actions, actions, copies=2)
        distance = self.cloning_weight * self.over_recorded(self.distance(actions, batch.actions), batch)
        kept = distance + self.temperature().detach() * log_probs
        # The usual aim: an entropy of -1 nat for each action entry.
        lacking = masked_mean(log_probs.detach() - self.policy.present.sum(-1), batch.mask, dim=0)
        terms.losses["temperature"] = -(self.temperature() * lacking).sum()
        self.actor_loss = self.mean(kept - q, batch).detach()
        return self.mean(kept - (slope * actions).sum(-1), batch)

    @torch.no_grad()
    def act(
        self,
        obs: Obs,
        *,
        history: History | None = None,
        avail_actions: AvailActions | None = None,
        explore: bool = False,
    ) -> Tensor:
        """The policy's actions; for choices the greedy ones, or if `explore` drawn from a softmax, some uniformly."""
        if self.config.policy == "sac":
            drawn = self.stochastic(self.inputs(obs, history))
            return drawn.sample(self.generator) if explore else drawn.mode()
        if not self.spec.discrete:
            return super().act(obs, history=history, explore=explore)
        choice = self.choices(self.inputs(obs, history), avail_actions)
        return self.explored(choice, avail_actions) if explore else choice.mode()

    def explored(self, choice: Categorical, avail_actions: AvailActions | None) -> PerAgent:
        """Choices drawn from softmax(Q / `behaviour_temperature`), and with the chance epsilon uniformly."""
        config, steps = self.config, self.environment_steps if self.plays else None
        softness = config.cql_temperature if config.behaviour_temperature is None else config.behaviour_temperature
        drawn = choice.mode()
        if softness:
            relative = softness / config.cql_temperature
            drawn = (choice if relative == 1.0 else choice.tempered(relative)).sample(self.generator)
        if not (config.epsilon_start or config.epsilon_end):
            return drawn
        epsilon = linear(config.epsilon_start, config.epsilon_end, config.epsilon_steps, steps)
        return epsilon_greedy(drawn, avail_actions, self.present, epsilon, self.generator)

    def choices(self, features: Features, avail_actions: AvailActions | None) -> Categorical:
        """softmax(Q_1 / T) over the available choices."""
        q = self.critic.each_choice(features)[0]
        allowed = self.present.expand_as(q) if avail_actions is None else avail_actions & self.present
        return Categorical(q / self.config.cql_temperature, allowed)

    def allowed(self, q: Tensor, avail_actions: AvailActions | None) -> Tensor:
        """Q with choices that cannot be made at minus infinity."""
        can = self.present if avail_actions is None else avail_actions & self.present
        return q.masked_fill(~can, -torch.inf)
