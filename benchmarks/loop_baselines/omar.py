"""OMAR: a search for each agent, round by round, its draws batched as rows."""

from __future__ import annotations

import torch
from torch import Tensor

from .cql import LoopCQL, repeated
from .td3_bc import PerAgent, q_values

ROUNDS, DRAWS, ELITES, STD, WEIGHT, REGULARIZATION = 2, 20, 5, 2.0, 0.9, 1e-3


class LoopOMAR(LoopCQL):
    def climb(self, i: int, features: PerAgent, actions: PerAgent, own: Tensor) -> Tensor:
        q = q_values(self.critic[:1], i, features, {**actions, i: own})[0]
        found = self.search(i, features, actions, own.detach(), q.detach())
        chase = WEIGHT * (own - found).square().mean() + REGULARIZATION * own.square().mean()
        return chase - (1 - WEIGHT) * q.mean()

    @torch.no_grad()
    def search(self, i: int, features: PerAgent, actions: PerAgent, own: Tensor, q: Tensor) -> Tensor:
        many, others = repeated(features, DRAWS), repeated(actions, DRAWS)
        mean, std = torch.zeros_like(own), torch.full_like(own, STD)
        kept, kept_q = own.unsqueeze(1), q.unsqueeze(1)
        for _ in range(ROUNDS):
            noise = self.normal(len(own), DRAWS, self.act_dim)
            drawn = (mean.unsqueeze(1) + std.unsqueeze(1) * noise).clamp(-1, 1)
            drawn_q = q_values(self.critic[:1], i, many, {**others, i: drawn.flatten(0, 1)})[0]
            pool = torch.cat([drawn, kept], 1)
            pool_q = torch.cat([drawn_q.view(len(own), DRAWS), kept_q], 1)
            kept_q, best = pool_q.topk(ELITES, 1)
            kept = pool.gather(1, best.unsqueeze(-1).expand(-1, -1, self.act_dim))
            mean, std = kept.mean(1), kept.std(1, correction=0)
        return kept[:, 0]
