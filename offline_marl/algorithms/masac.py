"""Soft actor-critic (Haarnoja et al., 2018) for a team: stochastic policies that keep their entropy, twin critics.

Critic: r + gamma (1 - terminated) V(o'), V = min_k Q'_k(o', a') - t log pi(a' | o'), a' drawn from pi; for choices the
mean over them (Christodoulou, 2019). Policy: min t log pi(a | o) - min_k Q_k(o, a). The temperature t of each agent
descends t (-log pi(a | o) - aim). `critic = independent`: one learner per agent. `critic = centralised`: each agent's
critic reads all observations and actions, the others' as recorded in the policy's term (MADDPG, Lowe et al., 2017).
`n_step` sums so many recorded rewards, and the policy's entropy at what was seen between, before it bootstraps; an
episode that ends sooner, by termination or by the clock, or an agent that leaves, ends the sum there.
With one agent it is soft actor-critic: critics step first, then the policy at the new critics, then the temperature.
Departs from the paper: the aim for choices is a share of the largest entropy that is available; sums of several
recorded rewards are not corrected for who acted; log-std is laid between -5 and 2 by a tanh; the history encoder learns
from the critics' loss alone. It has nothing that holds it near recorded data: `cql` with `policy = sac` has.
Papers: arXiv 1801.01290 (soft actor-critic), arXiv 1812.05905 (temperature), arXiv 1910.07207 (choices).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from offline_marl.algorithms.base import (
    Algorithm,
    AlgorithmConfig,
    algorithms,
    cleared,
    masked_mean,
    present_next,
    present_now,
)
from offline_marl.core.axes import Features, PerAgent
from offline_marl.core.fields import Count, NotNegative, Positive, Share
from offline_marl.core.types import AvailActions, Batch, Metrics, Needs, Spec
from offline_marl.losses import bellman
from offline_marl.networks.actors import Actor
from offline_marl.networks.choices import one_hot
from offline_marl.networks.critics import Critic, JointCritic
from offline_marl.networks.distributions import Categorical
from offline_marl.networks.multipliers import Multiplier
from offline_marl.networks.targets import frozen_copy

EachChoice = Annotated[Tensor, "copy batch agent choice"]


class MASACConfig(AlgorithmConfig):
    """Common fields and those of soft actor-critic.

    Critic: sum_k (Q_k(o, a) - y)^2, y = r + `gamma` (1 - terminated) (min_k Q'_k(o', a') - t log pi(a' | o')).
    Policy: t log pi(a | o) - min_k Q_k(o, a), a drawn from pi. Temperature, where it is tuned: t descends
    t (-log pi(a | o) - aim), aim = `entropy_per_entry` for each action entry, or `entropy_share` log n of n choices.
    """

    critic: Literal["independent", "centralised"] = "independent"
    """Each agent's critic reads its own observation and action, or everybody's."""
    critic_lr: NotNegative = 0.0
    """Step size of critics and temperatures; 0 is `lr`, the policies'."""
    temperature: Positive = 1.0
    """Weight of the entropy, at the beginning if it is tuned."""
    tune_temperature: bool = True
    """Let each agent's temperature hold its policy's entropy at the aim."""
    entropy_per_entry: float = -1.0
    """Aim of the entropy for each entry of continuous actions, in nats."""
    entropy_share: Share = 0.5
    """Aim of the entropy of choices, as a share of that of uniform ones among those available."""
    n_step: Count = 1
    """Recorded rewards summed before the bootstrap."""
    policy_every: Count = 1
    """Updates of the critics between those of policies, which then take as many steps on one batch."""


@algorithms.register("masac")
class MASAC(Algorithm):
    """Soft actor-critic of each agent, tanh-normal or categorical, with critics of one agent or of all."""

    Config = MASACConfig
    needs = Needs()
    config: MASACConfig
    actor_loss: Tensor

    def __init__(self, config: MASACConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        if config.n_step > 1:
            self.needs = replace(self.needs, view="segments", length=config.n_step)
        self.actor = Actor(act_dims=spec.act_dims, discrete=spec.discrete, soft_std=True, **self.shape)
        self.critic: Critic | JointCritic
        if config.critic == "centralised":
            outputs = spec.act_dim if spec.discrete else None
            self.critic = JointCritic(act_dims=spec.act_dims, outputs=outputs, copies=2, **self.shape)
        else:
            self.critic = Critic(act_dims=spec.act_dims, discrete=spec.discrete, **self.shape)
        self.target_critic, self.target_inputs = frozen_copy(self.critic), frozen_copy(self.inputs)
        self.temperature = Multiplier(spec.n_agents, config.temperature)
        # Of the policies' last step, so that each update reports it.
        self.register_buffer("actor_loss", torch.zeros(()))
        critic_lr = config.critic_lr or config.lr
        self.optimize("critic", lr=critic_lr)
        self.optimize("actor", lr=config.lr, name="actor")
        if config.tune_temperature:
            self.optimize("temperature", lr=critic_lr, name="temperature")
        else:
            self.temperature.requires_grad_(False)

    def update(self, batch: Batch) -> Metrics:
        """One step of the critics, then of policies and temperatures, then of the targets."""
        batch = cleared(batch, self.inputs.mean)
        steps = batch if batch.rewards.dim() == 3 else batch.map(lambda value: value.unsqueeze(1))
        first = steps.map(lambda value: value[:, 0])
        target, entropy = self.target(steps)
        features = self.inputs(first.obs, first.history)
        q = self.q_taken(self.critic, features, first)
        critic_loss = masked_mean((q - target).square().sum(0), first.mask)
        turn = self.updates % self.config.policy_every == 0
        self.descend(critic_loss)
        if turn:
            for _ in range(self.config.policy_every):
                self.step_policies(first)
        self.update_targets(self.config.tau)
        return {
            "loss/critic": critic_loss.detach(),
            "loss/actor": self.actor_loss.clone(),
            "q/mean": masked_mean(q.detach(), first.mask),
            "entropy/next": masked_mean(entropy, first.mask),
            "temperature/mean": self.temperature().detach().mean(),
        }

    def step_policies(self, batch: Batch) -> None:
        """One step of policies at the critics as they are now, and of temperatures."""
        features = self.inputs(batch.obs, batch.history).detach()
        choice = self.actor(features, batch.avail_actions)
        temperature = self.temperature().detach()
        if isinstance(choice, Categorical):
            with torch.no_grad():
                q = self.q_each(self.critic, features, batch).amin(0)
            probs, logs = possible(choice)
            losses = (probs * (temperature.unsqueeze(-1) * logs - q)).sum(-1)
            values, log_probs = losses.detach(), (probs * logs).sum(-1).detach()
        else:
            actions, log_probs = choice.sample_with_log_prob(self.generator)
            q, slope = self.slope(features, batch.actions, actions)
            losses = temperature * log_probs - (slope * actions).sum(-1)
            values, log_probs = (temperature * log_probs - q).detach(), log_probs.detach()
        self.actor_loss = masked_mean(values, batch.mask)
        self.descend(masked_mean(losses, batch.mask), "actor")
        if self.config.tune_temperature:
            lacking = masked_mean(log_probs + self.aim(batch.avail_actions), batch.mask, dim=0)
            self.descend(-(self.temperature() * lacking).sum(), "temperature")

    @torch.no_grad()
    def target(self, steps: Batch) -> tuple[PerAgent, PerAgent]:
        """The critics' target of the first of some steps, and the policy's entropy at what it leads to."""
        rows, time = steps.rewards.shape[:2]
        flat = steps.map(lambda value: value.flatten(0, 1))
        following = replace(flat, obs=flat.next_obs, history=flat.next_history, avail_actions=flat.next_avail_actions)
        following = replace(following, mask=present_next(flat), present=None)
        choice = self.actor(self.inputs(following.obs, following.history), following.avail_actions)
        features = self.target_inputs(following.obs, following.history)
        temperature = self.temperature()
        if isinstance(choice, Categorical):
            probs, logs = possible(choice)
            drawn = choice.sample(self.generator) if self.config.critic == "centralised" else flat.actions
            q = self.q_each(self.target_critic, features, replace(following, actions=drawn)).amin(0)
            next_q, entropy = (probs * q).sum(-1), -(probs * logs).sum(-1)
        else:
            actions, log_probs = choice.sample_with_log_prob(self.generator)
            if following.mask is not None:
                actions = actions * following.mask.unsqueeze(-1)
            next_q, entropy = self.target_critic(features, actions).amin(0), -log_probs
        bonus = (temperature * entropy).view(rows, time, -1)
        follows = torch.ones_like(steps.terminations)
        if steps.mask is not None:
            follows = torch.cat([steps.mask[:, 1:], torch.zeros_like(steps.mask[:, :1])], dim=1)
        next_v = next_q.view(rows, time, -1) + bonus
        target = bellman.n_step_target(
            steps.rewards, steps.terminations, follows, next_v, bonus, self.config.gamma
        ).clamp(max=self.best)
        return target, entropy.view(rows, time, -1)[:, 0]

    def aim(self, avail_actions: AvailActions | None) -> Annotated[Tensor, "*lead agent"]:
        """The entropy that temperatures hold policies at."""
        if not self.spec.discrete:
            return self.config.entropy_per_entry * self.actor.present.sum(-1)
        allowed = self.actor.present if avail_actions is None else avail_actions & self.actor.present
        return self.config.entropy_share * allowed.sum(-1).to(self.best.dtype).log()

    def q_taken(self, critic: Critic | JointCritic, features: Features, batch: Batch) -> Tensor:
        """Q of recorded actions, `copy batch agent`."""
        if not self.spec.discrete:
            q: Tensor = critic(features, batch.actions)
            return q
        each = self.q_each(critic, features, batch)
        return each.gather(-1, batch.actions.expand(len(each), *batch.actions.shape).unsqueeze(-1)).squeeze(-1)

    def q_each(self, critic: Critic | JointCritic, features: Features, batch: Batch) -> EachChoice:
        """Q of every choice of each agent, the others doing what the batch says; those away do nothing."""
        if isinstance(critic, Critic):
            return critic.each_choice(features)
        hot = one_hot(batch.actions, self.spec.act_dim, features.dtype)
        there = present_now(batch)
        if there is not None:
            hot = hot * there.unsqueeze(-1)
        q: Tensor = critic(features, hot, own_actions=torch.zeros_like(hot))
        return q

    def slope(self, features: Features, actions: Tensor, own_actions: Tensor) -> tuple[PerAgent, Tensor]:
        """Least Q of each agent's `own_actions` among the others' `actions`, and its gradient by `own_actions`."""
        leaf = own_actions.detach().requires_grad_()
        q = self.critic(features, actions, own_actions=leaf).amin(0)
        (gradient,) = torch.autograd.grad(q.sum(), leaf)
        return q.detach(), gradient


def possible(choice: Categorical) -> tuple[Tensor, Tensor]:
    """Probabilities of choices and their logarithms, which are 0 where a choice cannot be made."""
    probs = choice.log_probs.exp()
    return probs, choice.log_probs.masked_fill(probs == 0, 0.0)
