"""OMAR (Pan et al., 2022): conservative Q-learning whose policies also chase the best action that a search finds.

Policy: min (1 - w) (-Q_1(o, pi(o))) + w |pi(o) - a*|^2 + 0.001 mean pi(o)^2, a* the better by Q_1 of pi(o)
and the winner of a cross-entropy search: draws from a normal, clipped to the box, refitted to the elites.
The distance is the mean over an agent's action entries.
Departs from the published code: it runs on any device, and batched over rows, agents and draws; the
conservative gap corrects by log densities, not densities; pi(o) joins the first round's draws, so it can
be an elite too; the elites' deviation is that of the population; targets are smoothed and the policy is delayed as
in TD3, which `target_noise = 0` and `policy_every = 1` take away. The policy loss is OMAR's own: no distance from the
recorded action (`bc_weight = 0`), and Q is not divided by its size.
Paper: arXiv 2111.11188.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, model_validator

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.cql import CQL, CQLConfig
from offline_marl.algorithms.split import Terms
from offline_marl.algorithms.td3_bc import Acts
from offline_marl.core.axes import Features
from offline_marl.core.fields import Count, NotNegative, Positive, Share
from offline_marl.core.types import Batch, Needs
from offline_marl.losses import conservative


class OMARConfig(CQLConfig):
    """Fields of conservative Q-learning and those of the search.

    Policy, with w = `search_weight`: -(1 - w) Q_1(o, pi(o)) + w |pi(o) - a*|^2 + `regularization` |pi(o)|^2, squares
    being means over an agent's action entries. The search for a* begins with a normal of mean `search_mean` and
    deviation `search_std`; each of `search_iterations` rounds draws `search_samples` actions, clips them to [-1, 1]
    and refits the normal to the `search_elites` of highest Q_1 so far.
    """

    bc_weight: NotNegative = 0.0
    """Weight of the squared distance from the recorded action in the policy's loss; 0 is OMAR's own."""
    search_weight: Share = 0.9
    """Share of the found action in the policy's loss (the paper's tau); the rest climbs the critic."""
    search_iterations: Count = 2
    """Rounds of draws."""
    search_samples: Annotated[int, Field(ge=2)] = 20
    """Draws a round."""
    search_elites: Count = 5
    """Best draws kept, to refit the normal and into the next round."""
    search_mean: float = 0.0
    """Mean of the first round's normal."""
    search_std: Positive = 2.0
    """Deviation of the first round's normal."""
    regularization: NotNegative = 1e-3
    """Weight of the policy's mean squared action."""

    @model_validator(mode="after")
    def _policies_are_searched_around(self) -> OMARConfig:
        if self.policy == "sac":
            raise ValueError("omar pulls deterministic policies to what its search finds: policy = sac is cql's")
        return self


@algorithms.register("omar")
class OMAR(CQL):
    """Conservative Q-learning whose policies are also drawn to the best action of a cross-entropy search over Q_1."""

    Config = OMARConfig
    needs = Needs(actions=frozenset({"continuous"}), recorded="some")
    config: OMARConfig

    def policy_loss(self, batch: Batch, features: Features, terms: Terms) -> torch.Tensor:
        """What climbs the policy's objective; its value is kept as `actor_loss`."""
        weight = self.config.search_weight
        actions = self.policy(features)
        q, slope = self.slope(features, batch.actions, actions)
        best = self.search(features.detach(), batch.actions, actions.detach(), q)
        chase = weight * self.distance(actions, best) + self.config.regularization * self.distance(actions, 0 * best)
        if self.cloning_weight:
            chase = chase + self.cloning_weight * self.over_recorded(self.distance(actions, batch.actions), batch)
        self.actor_loss = self.mean(chase - (1 - weight) * q, batch).detach()
        return self.mean(chase - (1 - weight) * (slope * actions).sum(-1), batch)

    @torch.no_grad()
    def search(self, features: Features, others: Acts, own_actions: Acts, q: torch.Tensor) -> Acts:
        """The best action by Q_1 among each agent's `own_actions` and all that the search drew."""
        config, present = self.config, self.policy.present
        mean = torch.full_like(own_actions, config.search_mean)
        std = torch.full_like(own_actions, config.search_std)
        kept, kept_q = own_actions.unsqueeze(-2), q.unsqueeze(-1)
        for _ in range(config.search_iterations):
            noise = self.normal((config.search_samples, *own_actions.shape))
            drawn = (mean + std * noise).clamp(-1, 1) * present
            drawn_q = self.critic(features, others, drawn, copies=1)[0]
            pool = torch.cat([drawn.movedim(0, -2), kept], dim=-2)
            pool_q = torch.cat([drawn_q.movedim(0, -1), kept_q], dim=-1)
            kept, kept_q = conservative.elites(pool, pool_q, min(config.search_elites, pool.shape[-2]))
            mean, std = kept.mean(-2), kept.std(-2, correction=0)
        return kept[..., 0, :]
