"""Conservative Q-learning: the draws are batched as rows, the features repeated for each."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from offline_marl.core.types import Batch

from .td3_bc import LoopTD3BC, PerAgent, act, q_values

DRAWS, NOISE = 10, 0.2


class LoopCQL(LoopTD3BC):
    def restrain(self, i: int, features: PerAgent, actions: PerAgent, q: list[Tensor], batch: Batch) -> Tensor:
        many, others = repeated(features, DRAWS), repeated(actions, DRAWS)
        weighted: list[list[Tensor]] = [[], []]
        for drawn, log_density in self.draws(i, features[i], batch):
            for twin, values in enumerate(q_values(self.critic, i, many, {**others, i: drawn})):
                weighted[twin].append((values - log_density).view(len(batch), DRAWS))
        levels = [torch.logsumexp(torch.cat(found, 1), 1) - math.log(3 * DRAWS) for found in weighted]
        return (levels[0] - q[0]).mean() + (levels[1] - q[1]).mean()

    @torch.no_grad()
    def draws(self, i: int, features: Tensor, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Uniform actions, noisy ones around the policy's here and at the next step, with their log densities."""
        shape = (len(batch) * DRAWS, self.act_dim)
        found = [(self.uniform(*shape), torch.full(shape[:1], self.act_dim * math.log(0.5)))]
        for read in (features, self.encode(self.encoder, i, batch.next_obs, batch.next_history)):
            noise = NOISE * self.normal(*shape)
            log_density = -0.5 * (noise / NOISE).square() - math.log(NOISE * math.sqrt(2 * math.pi))
            centre = act(self.policy[i], read).repeat_interleave(DRAWS, 0)
            found.append(((centre + noise).clamp(-1, 1), log_density.sum(-1)))
        return found


def repeated(rows: PerAgent, times: int) -> PerAgent:
    return {i: tensor.repeat_interleave(times, 0) for i, tensor in rows.items()}
