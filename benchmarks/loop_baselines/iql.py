"""Implicit Q-learning, an agent at a time, in the order value, policy, critic."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from offline_marl.core.types import Batch

from .base import GAMMA, Loop, Setup, Twins, log_prob, mean_loss

EXPECTILE, TEMPERATURE, MAX_WEIGHT = 0.7, 3.0, 100.0


class LoopIQL(Loop):
    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.actor = self.mlps(self.features, 2 * self.act_dim)
        self.value = self.mlps(self.features, 1)
        self.critic = [self.mlps(self.features + self.act_dim, 1) for _ in range(2)]
        self.target_critic, self.target_encoder = copy.deepcopy(self.critic), copy.deepcopy(self.encoder)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        value_losses, actor_losses, critic_losses = [], [], []
        for i in self.agents:
            encoder = self.encoder[i : i + 1]
            with torch.no_grad():
                q = self.target_q(i, batch)
            value_losses.append(expectile(q - self.v(i, batch.obs, batch.history)).mean())
            self.step(value_losses[i], self.value[i], *encoder)

            with torch.no_grad():
                weights = advantage_weights(self.target_q(i, batch) - self.v(i, batch.obs, batch.history))
            features = self.encode(self.encoder, i, batch.obs, batch.history)
            actor_losses.append(-(weights * log_prob(self.actor[i], features, batch.actions[:, i])).mean())
            self.step(actor_losses[i], self.actor[i], *encoder)

            with torch.no_grad():
                next_v = self.v(i, batch.next_obs, batch.next_history)
                target = batch.rewards[:, i] + GAMMA * ~batch.terminations[:, i] * next_v
            first, second = self.q(self.encoder, self.critic, i, batch)
            critic_losses.append((first - target).square().mean() + (second - target).square().mean())
            self.step(critic_losses[i], *(twin[i] for twin in self.critic), *encoder)
        for ours, theirs in zip(self.target_critic, self.critic, strict=True):
            self.follow(ours, theirs)
        self.follow(self.target_encoder, self.encoder)
        return {
            "loss/value": mean_loss(value_losses),
            "loss/actor": mean_loss(actor_losses),
            "loss/critic": mean_loss(critic_losses),
        }

    def q(self, encoder: nn.ModuleList, critic: Twins, i: int, batch: Batch) -> list[Tensor]:
        features = self.encode(encoder, i, batch.obs, batch.history)
        pair = torch.cat([features, batch.actions[:, i]], -1)
        return [twin[i](pair)[:, 0] for twin in critic]

    def v(self, i: int, obs: Tensor, history: Tensor | None) -> Tensor:
        v: Tensor = self.value[i](self.encode(self.encoder, i, obs, history))[:, 0]
        return v

    def target_q(self, i: int, batch: Batch) -> Tensor:
        return torch.minimum(*self.q(self.target_encoder, self.target_critic, i, batch))


def expectile(error: Tensor) -> Tensor:
    return torch.where(error < 0, 1 - EXPECTILE, EXPECTILE) * error.square()


def advantage_weights(advantages: Tensor) -> Tensor:
    return torch.exp(TEMPERATURE * advantages).clamp(max=MAX_WEIGHT)
