"""TD3+BC (Fujimoto and Gu, 2021): TD3 on recorded data, its policy held near the data's actions.

Critic: r + gamma min_k Q'_k(o', a~), a~ = pi'(o') + clipped noise (TD3, Fujimoto et al., 2018).
Policy, every second update: max lambda Q_1(o, pi(o)) - |pi(o) - a|^2, lambda = alpha / mean |Q_1(o, pi(o))|,
each agent's own; the distance is the mean over its action entries, as in the published code.
`critic = independent`: one learner per agent. `critic = centralised` (MA-TD3+BC): each agent's critic
reads all observations and actions, the others' as recorded in the policy's term (MADDPG, Lowe et al., 2017).
Departs from the paper: critic and policy step at the same parameters, so that one backward serves. Of mixtures with
imagined rows, the distance is that from the recorded ones alone.
Papers: arXiv 2106.06860 (TD3+BC), arXiv 1802.09477 (TD3), arXiv 1706.02275 (MADDPG).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from offline_marl.algorithms.base import AlgorithmConfig, algorithms, cleared, masked_mean, present_next
from offline_marl.algorithms.split import IndependentAlgorithm, Terms
from offline_marl.core.axes import Features, PerAgent
from offline_marl.core.fields import Count, NotNegative
from offline_marl.core.types import AvailActions, Batch, DataError, History, Metrics, Needs, Obs, Spec
from offline_marl.losses import bellman
from offline_marl.networks.actors import AgentPolicy, DeterministicActor
from offline_marl.networks.critics import Critic
from offline_marl.networks.exploration import gaussian_noise
from offline_marl.networks.targets import frozen_copy

Acts = Annotated[Tensor, "*lead agent act"]


class TD3BCConfig(AlgorithmConfig):
    """Common fields and those of TD3+BC.

    Critic: sum_k (Q_k(o, a) - r - `gamma` (1 - terminated) min_k Q'_k(o', a~))^2, where
    a~ = clip(pi'(o') + clip(e, -`noise_clip`, `noise_clip`), -1, 1) and e is normal of deviation `target_noise`.
    Policy, at every `policy_every`-th update: |pi(o) - a|^2 - lambda Q_1(o, pi(o)), where
    lambda = `alpha` / mean |Q_1(o, pi(o))|.
    """

    critic: Literal["independent", "centralised"] = "independent"
    """Each agent's critic reads its own observation and action, or everybody's."""
    alpha: NotNegative = 2.5
    """Weight of the value beside the cloning term, in units of its own mean size."""
    policy_every: Count = 2
    """Updates of the critic for each of the policy and the targets."""
    target_noise: NotNegative = 0.2
    """Deviation of the noise on the target policy's actions."""
    noise_clip: NotNegative = 0.5
    """Largest size of that noise."""
    explore_noise: NotNegative = 0.1
    """Deviation of the noise on actions when exploring."""


@algorithms.register("td3-bc")
class TD3BC(IndependentAlgorithm):
    """TD3 whose deterministic policies maximise Q less the squared distance from the recorded action."""

    Config = TD3BCConfig
    needs = Needs(actions=frozenset({"continuous"}), recorded="some")
    config: TD3BCConfig
    cloning_weight: float = 1.0
    """Of the distance from the data's actions."""
    actor_loss: Tensor

    def __init__(self, config: TD3BCConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.policy = self.make_policy()
        self.critic = Critic(
            act_dims=spec.act_dims, discrete=False, centralised=config.critic == "centralised", **self.shape
        )
        self.target_policy, self.target_critic = frozen_copy(self.policy), frozen_copy(self.critic)
        self.target_inputs = frozen_copy(self.inputs)
        # Of the policy's last step, so that each update reports it.
        self.register_buffer("actor_loss", torch.zeros(()))
        self.optimize("policy", "critic", lr=config.lr)

    def make_policy(self) -> AgentPolicy:
        """The policies: deterministic here."""
        return DeterministicActor(act_dims=self.spec.act_dims, **self.shape)

    def losses(self, batch: Batch) -> Terms:
        """The critic's loss, and at every `policy_every`-th update the policy's."""
        batch = cleared(batch, self.inputs.mean)
        features = self.inputs(batch.obs, batch.history)
        q = self.critic(features, batch.actions)
        critic_loss = self.mean((q - self.target(batch)).square().sum(0), batch)
        terms = Terms(metrics={"loss/critic": critic_loss.detach(), "q/mean": self.mean(q.detach(), batch)})
        loss = critic_loss + self.critic_penalty(batch, features, q, terms)
        if self.form():
            loss = loss + self.policy_loss(batch, features, terms)
        terms.losses[""] = loss
        terms.metrics["loss/actor"] = self.actor_loss.clone()
        return terms

    def form(self) -> bool:
        """Whether the next update moves the policy, too."""
        return self.updates % self.config.policy_every == 0

    def conclude(self, metrics: Metrics) -> Metrics:
        """Move the targets where the policy has moved; its last loss stays among the metrics."""
        if (self.updates - 1) % self.config.policy_every == 0:
            self.actor_loss = metrics["loss/actor"].clone()
            self.update_targets(self.config.tau)
        return {**metrics, "loss/actor": self.actor_loss.clone()}

    def refuse_split(self) -> None:
        """A centralised critic reads what all agents do."""
        super().refuse_split()
        if self.config.critic == "centralised":
            raise DataError(
                "With critic = centralised each agent's critic reads all agents: such an update is not split by agent "
                "here; critic = independent is the one that can be."
            )

    @torch.no_grad()
    def target(self, batch: Batch) -> PerAgent:
        """The critic's target, with clipped double Q and a smoothed target policy."""
        features = self.target_inputs(batch.next_obs, batch.next_history)
        actions = self.target_policy(features)
        noise = self.normal(actions.shape, std=self.config.target_noise)
        noise = noise.clamp(-self.config.noise_clip, self.config.noise_clip) * self.policy.present
        next_q = self.target_critic(features, where_present((actions + noise).clamp(-1, 1), present_next(batch))).amin(
            0
        )
        return bellman.td_target(batch.rewards, batch.terminations, next_q, self.config.gamma).clamp(max=self.best)

    def critic_penalty(self, batch: Batch, features: Features, q: Tensor, terms: Terms) -> Tensor | float:
        """What is added to the critic's loss: nothing here."""
        return 0.0

    def policy_loss(self, batch: Batch, features: Features, terms: Terms) -> Tensor:
        """What climbs the policy's objective; its value is kept as `actor_loss`."""
        actions = self.policy(features)
        q, slope = self.slope(features, batch.actions, actions)
        weight = self.config.alpha / masked_mean(q.abs(), batch.mask, dim=0).clamp(min=1e-8)
        distance = self.cloning_weight * self.over_recorded(self.distance(actions, batch.actions), batch)
        self.actor_loss = self.mean(distance - weight * q, batch).detach()
        return self.mean(distance - weight * (slope * actions).sum(-1), batch)

    def slope(self, features: Features, actions: Acts, own_actions: Acts, copies: int = 1) -> tuple[PerAgent, Acts]:
        """Q_1 of each agent's `own_actions` among the others' `actions`, and its gradient by `own_actions`.

        Of several `copies` the least Q. Taken apart from the graph, so that climbing the critic leaves the critic
        alone and computes no gradient of its weights.
        """
        leaf = own_actions.detach().requires_grad_()
        values = self.critic(features.detach(), actions, leaf, copies=copies)
        q = values[0] if copies == 1 else values.amin(0)
        (gradient,) = torch.autograd.grad(q.sum(), leaf)
        return q.detach(), gradient

    def distance(self, actions: Acts, others: Acts) -> PerAgent:
        """Mean squared difference over each agent's true action entries."""
        present = self.policy.present
        return ((actions - others).square() * present).sum(-1) / present.sum(-1)

    @torch.no_grad()
    def act(
        self,
        obs: Obs,
        *,
        history: History | None = None,
        avail_actions: AvailActions | None = None,
        explore: bool = False,
    ) -> Tensor:
        """Each agent's action, with Gaussian noise if `explore`."""
        actions: Tensor = self.policy(self.inputs(obs, history))
        if explore:
            actions = gaussian_noise(actions, self.config.explore_noise, self.policy.present, self.generator)
        return actions


def where_present(actions: Acts, present: PerAgent | None) -> Acts:
    """Actions of the agents that are there; zeros for the others, as in the data."""
    return actions if present is None else actions * present.unsqueeze(-1)
