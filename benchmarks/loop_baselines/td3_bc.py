"""TD3+BC in teams: the agents whose features and actions one another's critics read, or each agent alone."""

from __future__ import annotations

import copy
from collections import defaultdict

import torch
from torch import Tensor, nn

from offline_marl.core.types import Batch

from .base import GAMMA, Loop, Setup, Twins

ALPHA, POLICY_EVERY, TARGET_NOISE, NOISE_CLIP = 2.5, 2, 0.2, 0.5

PerAgent = dict[int, Tensor]


class LoopTD3BC(Loop):
    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.teams = [self.agents] if setup.centralised else [[i] for i in self.agents]
        self.policy = self.mlps(self.features, self.act_dim)
        inputs = len(self.teams[0]) * (self.features + self.act_dim)
        self.critic = [self.mlps(inputs, 1) for _ in range(2)]
        self.target_policy, self.target_critic = copy.deepcopy(self.policy), copy.deepcopy(self.critic)
        self.target_encoder = copy.deepcopy(self.encoder)
        self.updates = 0

    def update(self, batch: Batch) -> dict[str, Tensor]:
        turn = self.updates % POLICY_EVERY == 0
        self.updates += 1
        losses: dict[str, list[Tensor]] = defaultdict(list)
        for team in self.teams:
            encoders = [self.encoder[i] for i in team if self.window]
            loss = self.critic_loss(team, batch)
            losses["loss/critic"].append(loss.detach())
            self.step(loss, *(twin[i] for twin in self.critic for i in team), *encoders)
            if turn:
                loss = self.policy_loss(team, batch)
                losses["loss/actor"].append(loss.detach())
                self.step(loss, *(self.policy[i] for i in team), *encoders)
        if turn:
            for ours, theirs in zip(self.target_critic, self.critic, strict=True):
                self.follow(ours, theirs)
            self.follow(self.target_policy, self.policy)
            self.follow(self.target_encoder, self.encoder)
        return {name: torch.stack(found).sum() / len(self.agents) for name, found in losses.items()}

    def critic_loss(self, team: list[int], batch: Batch) -> Tensor:
        features = {i: self.encode(self.encoder, i, batch.obs, batch.history) for i in team}
        actions = {i: batch.actions[:, i] for i in team}
        with torch.no_grad():
            after = {i: self.encode(self.target_encoder, i, batch.next_obs, batch.next_history) for i in team}
            next_actions = {i: self.smoothed(act(self.target_policy[i], after[i])) for i in team}
        loss = torch.zeros(())
        for i in team:
            with torch.no_grad():
                next_q = torch.minimum(*q_values(self.target_critic, i, after, next_actions))
                target = batch.rewards[:, i] + GAMMA * ~batch.terminations[:, i] * next_q
            first, second = q_values(self.critic, i, features, actions)
            loss = loss + (first - target).square().mean() + (second - target).square().mean()
            loss = loss + self.restrain(i, features, actions, [first, second], batch)
        return loss

    def policy_loss(self, team: list[int], batch: Batch) -> Tensor:
        features = {i: self.encode(self.encoder, i, batch.obs, batch.history) for i in team}
        read = {i: features[i].detach() for i in team}
        recorded = {i: batch.actions[:, i] for i in team}
        loss = torch.zeros(())
        for i in team:
            loss = loss + self.climb(i, read, recorded, act(self.policy[i], features[i]))
        return loss

    def restrain(self, i: int, features: PerAgent, actions: PerAgent, q: list[Tensor], batch: Batch) -> Tensor:
        return torch.zeros(())

    def climb(self, i: int, features: PerAgent, actions: PerAgent, own: Tensor) -> Tensor:
        q = q_values(self.critic[:1], i, features, {**actions, i: own})[0]
        weight = ALPHA / q.abs().mean().detach().clamp(min=1e-8)
        return (own - actions[i]).square().mean() - weight * q.mean()

    def smoothed(self, actions: Tensor) -> Tensor:
        noise = (TARGET_NOISE * self.normal(*actions.shape)).clamp(-NOISE_CLIP, NOISE_CLIP)
        return (actions + noise).clamp(-1, 1)


def act(policy: nn.Module, features: Tensor) -> Tensor:
    return torch.tanh(policy(features))


def q_values(critic: Twins, i: int, features: PerAgent, actions: PerAgent) -> list[Tensor]:
    """By agent i's critics, who read its whole team: all features, itself first, and all actions, its own last."""
    team = list(features)
    turns = team[team.index(i) :] + team[: team.index(i)]
    x = torch.cat([features[j] for j in turns] + [actions[j] for j in [*turns[1:], i]], -1)
    return [twin[i](x)[:, 0] for twin in critic]
