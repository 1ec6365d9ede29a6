"""OMIGA: local values looped over agents, then mixed; the published order policy, critic, value."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from offline_marl.core.types import Batch

from .base import GAMMA, Loop, Setup, log_prob

ALPHA, MOST, MIXER_WIDTH = 10.0, 10.0, 64


class LoopOMIGA(Loop):
    clip = 1.0

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        n = len(self.agents)
        self.actor = self.mlps(self.features, 2 * self.act_dim)
        self.critic = [self.mlps(self.features + self.act_dim, 1)]
        self.value = self.mlps(self.features, 1)
        self.mixer = nn.Sequential(nn.Linear(n * self.obs_dim, MIXER_WIDTH), nn.ReLU(), nn.Linear(MIXER_WIDTH, n + 1))
        self.optimize([self.mixer])
        self.target_critic, self.target_value = copy.deepcopy(self.critic), copy.deepcopy(self.value)
        self.target_mixer, self.target_encoder = copy.deepcopy(self.mixer), copy.deepcopy(self.encoder)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        n, state = len(self.agents), batch.obs.flatten(1)
        with torch.no_grad():
            weights = self.target_mixer(state)[:, :n].abs()
            advantages = weights * self.q(self.target_encoder, self.target_critic[0], batch)
            kept = self.exponents(advantages, weights, batch).exp()
        cloned = []
        for i in self.agents:
            features = self.encode(self.encoder, i, batch.obs, batch.history)
            cloned.append(-kept[:, i] * log_prob(self.actor[i], features, batch.actions[:, i]))
        actor_loss = torch.stack(cloned).mean()
        self.step(actor_loss, *self.actor, *self.encoder)

        with torch.no_grad():
            next_v = self.v(self.target_encoder, self.target_value, batch.next_obs, batch.next_history)
            next_team = mixed(self.target_mixer, next_v, batch.next_obs.flatten(1))
            target = batch.rewards.mean(-1) + GAMMA * ~batch.terminations.all(-1) * next_team
        q = mixed(self.mixer, self.q(self.encoder, self.critic[0], batch), state)
        critic_loss = (q - target).square().mean()
        self.step(critic_loss, *self.critic[0], self.mixer, *self.encoder)

        z = self.exponents(advantages, weights, batch)
        v = self.v(self.encoder, self.value, batch.obs, batch.history)
        most = z.detach().max().clamp(min=-1.0)
        value_loss = (torch.exp(z - most) + torch.exp(-most) * weights * v / ALPHA).mean()
        self.step(value_loss, *self.value, *self.encoder)

        self.follow(self.target_critic[0], self.critic[0])
        self.follow([*self.target_value, self.target_mixer], [*self.value, self.mixer])
        self.follow(self.target_encoder, self.encoder)
        losses = {"loss/value": value_loss, "loss/actor": actor_loss, "loss/critic": critic_loss}
        return {name: loss.detach() for name, loss in losses.items()}

    def exponents(self, weighted_q: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        v = self.v(self.encoder, self.value, batch.obs, batch.history)
        return ((weighted_q - weights * v) / ALPHA).clamp(-MOST, MOST)

    def q(self, encoder: nn.ModuleList, critic: nn.ModuleList, batch: Batch) -> Tensor:
        found = []
        for i in self.agents:
            features = self.encode(encoder, i, batch.obs, batch.history)
            found.append(critic[i](torch.cat([features, batch.actions[:, i]], -1)))
        return torch.cat(found, -1)

    def v(self, encoder: nn.ModuleList, value: nn.ModuleList, obs: Tensor, history: Tensor | None) -> Tensor:
        return torch.cat([value[i](self.encode(encoder, i, obs, history)) for i in self.agents], -1)


def mixed(mixer: nn.Module, values: Tensor, state: Tensor) -> Tensor:
    out: Tensor = mixer(state)
    return (out[:, :-1].abs() * values).sum(-1) + out[:, -1]
