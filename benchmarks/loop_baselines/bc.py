"""Behaviour cloning, an agent at a time."""

from __future__ import annotations

from torch import Tensor

from offline_marl.core.types import Batch

from .base import Loop, Setup, log_prob, mean_loss


class LoopBC(Loop):
    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.actor = self.mlps(self.features, 2 * self.act_dim)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        losses = []
        for i in self.agents:
            features = self.encode(self.encoder, i, batch.obs, batch.history)
            losses.append(-log_prob(self.actor[i], features, batch.actions[:, i]).mean())
            self.step(losses[i], self.actor[i], *self.encoder[i : i + 1])
        return {"loss/actor": mean_loss(losses)}
