"""Multi-agent PPO: minibatches picked field by field, policies and values looped over agents, advantages over time.

Its normals are not clipped at the border of the actions: inside of it, nothing differs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from offline_marl.core.types import Batch
from offline_marl.networks.actors import bounded_log_std

from .base import GAMMA, Loop, Setup, mean_loss


class LoopMAPPO(Loop):
    clip = 1.0

    def __init__(self, setup: Setup, epochs: int = 5, minibatch_size: int = 64) -> None:
        super().__init__(setup)
        self.epochs, self.minibatch_size = epochs, minibatch_size
        n = len(self.agents)
        self.actor, self.value = self.mlps(self.features, 2 * self.act_dim), self.mlps(self.features, 1)
        self.v_mixer = self.mlp(n * self.obs_dim, n + 1)
        self.optimize([self.v_mixer])
        for actor in self.actor:
            nn.init.zeros_(actor[-1].bias)
            actor[-1].weight.data.mul_(0.1)
        self.entropy_weight = torch.zeros(())

    def update(self, batch: Batch) -> dict[str, Tensor]:
        flat = batch.flatten()
        with torch.no_grad():
            features = self.encoded(flat.obs, flat.history)
            log_probs = joint_log_prob(self.policies(features), flat.actions)
            v = self.v(features, flat.obs)
            next_v = self.v(self.encoded(flat.next_obs, flat.next_history), flat.next_obs)
            gained = self.advantages(batch, v, next_v)
            target = gained + v
            advantages = (gained - gained.mean()) / (gained.std(correction=0) + 1e-3)
        losses = []
        for _ in range(self.epochs):
            for rows in self.order(len(flat)).split(self.minibatch_size):
                history = None if flat.history is None else flat.history[rows]
                kept = (log_probs[rows], v[rows], advantages[rows], target[rows])
                losses.append(self.improve(flat.obs[rows], history, flat.actions[rows], *kept))
        names = ("loss/actor", "loss/critic", "entropy")
        return {name: mean_loss(list(found)) for name, found in zip(names, zip(*losses, strict=True), strict=True)}

    def improve(
        self,
        obs: Tensor,
        history: Tensor | None,
        actions: Tensor,
        old_log_probs: Tensor,
        old_v: Tensor,
        advantages: Tensor,
        target: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        features = self.encoded(obs, history)
        policies = self.policies(features)
        ratios = (joint_log_prob(policies, actions) - old_log_probs).clamp(max=10).exp()
        actor_loss = -torch.min(ratios * advantages, ratios.clamp(0.8, 1.2) * advantages).mean()
        v = self.v(features, obs)
        held = old_v + (v - old_v).clamp(-0.2, 0.2)
        critic_loss = torch.max((v - target).square(), (held - target).square()).mean()
        entropy, outside = torch.zeros(()), torch.zeros(())
        for policy in policies:
            entropy = entropy + policy.entropy().sum(-1).mean()  # type: ignore[no-untyped-call]
            outside = outside + (policy.mean.abs() - 1).clamp(min=0).square().sum(-1).mean()
        loss = actor_loss + 0.5 * critic_loss - self.entropy_weight * entropy + outside
        self.step(loss, *self.encoder, *self.actor, *self.value, self.v_mixer)
        self.entropy_weight = (self.entropy_weight + 1e-3 * (-2 - entropy.detach())).clamp(min=0)
        return actor_loss, critic_loss, entropy

    def encoded(self, obs: Tensor, history: Tensor | None) -> list[Tensor]:
        return [self.encode(self.encoder, i, obs, history) for i in self.agents]

    def policies(self, features: list[Tensor]) -> list[Normal]:
        out = [self.actor[i](features[i]).chunk(2, -1) for i in self.agents]
        return [Normal(mean, bounded_log_std(log_std).exp(), validate_args=False) for mean, log_std in out]

    def v(self, features: list[Tensor], obs: Tensor) -> Tensor:
        values = torch.cat([self.value[i](features[i]) for i in self.agents], -1)
        out = self.v_mixer(obs.flatten(1))
        found: Tensor = (out[:, :-1] * values).sum(-1) + out[:, -1]
        return found

    def advantages(self, batch: Batch, v: Tensor, next_v: Tensor) -> Tensor:
        rewards = batch.rewards.mean(-1)
        over = (batch.terminations | batch.truncations).all(-1)
        deltas = rewards + GAMMA * ~batch.terminations.all(-1) * next_v.view_as(rewards) - v.view_as(rewards)
        found, running = torch.zeros_like(rewards), torch.zeros(len(rewards))
        for time in reversed(range(rewards.shape[1])):
            running = deltas[:, time] + GAMMA * 0.98 * ~over[:, time] * running
            found[:, time] = running
        return found.flatten()

    def order(self, count: int) -> Tensor:
        return torch.randperm(count)


def joint_log_prob(policies: list[Normal], actions: Tensor) -> Tensor:
    each = [policy.log_prob(actions[:, i]).sum(-1) for i, policy in enumerate(policies)]  # type: ignore[no-untyped-call]
    return torch.stack(each).sum(0)
