"""Multi-agent implicit Q-learning: the values looped over agents, then mixed; the order value, policy, critic."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from offline_marl.core.types import Batch

from .base import GAMMA, Setup, Twins, log_prob
from .iql import LoopIQL, advantage_weights, expectile


class LoopMAIQL(LoopIQL):
    clip = 1.0

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        n = len(self.agents)
        self.q_mixer = nn.ModuleList([self.mlp(n * (self.obs_dim + self.act_dim), n + 1) for _ in range(2)])
        self.v_mixer = self.mlp(n * self.obs_dim, n + 1)
        self.optimize([*self.q_mixer, self.v_mixer])
        self.target_q_mixer = copy.deepcopy(self.q_mixer)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        past = (self.target_encoder, self.target_critic, self.target_q_mixer)
        with torch.no_grad():
            q = torch.minimum(*self.team_q(*past, batch))
        value_loss = expectile(q - self.team_v(batch.obs, batch.history)).mean()
        self.step(value_loss, *self.value, self.v_mixer, *self.encoder)

        with torch.no_grad():
            q = torch.minimum(*self.team_q(*past, batch))
            weights = advantage_weights(q - self.team_v(batch.obs, batch.history))
        total = torch.zeros(len(batch))
        for i in self.agents:
            features = self.encode(self.encoder, i, batch.obs, batch.history)
            total = total + log_prob(self.actor[i], features, batch.actions[:, i])
        actor_loss = -(weights * total).mean()
        self.step(actor_loss, *self.actor, *self.encoder)

        with torch.no_grad():
            next_v = self.team_v(batch.next_obs, batch.next_history)
            target = batch.rewards.mean(-1) + GAMMA * ~batch.terminations.all(-1) * next_v
        first, second = self.team_q(self.encoder, self.critic, self.q_mixer, batch)
        critic_loss = (first - target).square().mean() + (second - target).square().mean()
        self.step(critic_loss, *self.critic[0], *self.critic[1], *self.q_mixer, *self.encoder)

        for ours, theirs in zip(self.target_critic, self.critic, strict=True):
            self.follow(ours, theirs)
        self.follow(self.target_q_mixer, self.q_mixer)
        self.follow(self.target_encoder, self.encoder)
        losses = {"loss/value": value_loss, "loss/actor": actor_loss, "loss/critic": critic_loss}
        return {name: loss.detach() for name, loss in losses.items()}

    def team_q(self, encoder: nn.ModuleList, critic: Twins, mixer: nn.ModuleList, batch: Batch) -> list[Tensor]:
        q = [self.q(encoder, critic, i, batch) for i in self.agents]
        x = torch.cat([batch.obs.flatten(1), batch.actions.flatten(1)], -1)
        return [mixed(mixer[twin], [q[i][twin] for i in self.agents], x) for twin in range(2)]

    def team_v(self, obs: Tensor, history: Tensor | None) -> Tensor:
        return mixed(self.v_mixer, [self.v(i, obs, history) for i in self.agents], obs.flatten(1))


def mixed(mixer: nn.Module, values: list[Tensor], x: Tensor) -> Tensor:
    out: Tensor = mixer(x)
    return (out[:, :-1] * torch.stack(values, -1)).sum(-1) + out[:, -1]
