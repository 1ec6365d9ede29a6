"""Multi-agent PPO's mathematics the plain way: a loop over agents, a network and an optimiser for each.

The yardstick of speed_ppo.py: one network object per agent for the policy and for the value, advantages by a loop
over time, minibatches picked field by field, every module's gradient clipped and stepped on its own.
"""

from __future__ import annotations

import torch
from loop_baseline import WIDTH, Encoder, mlp
from torch import Tensor, nn

from offline_marl.core.types import Batch, Spec


class LoopPPO:
    def __init__(self, spec: Spec, window: int, epochs: int = 5, minibatch_size: int = 64) -> None:
        self.agents, self.window = range(spec.n_agents), window
        self.epochs, self.minibatch_size = epochs, minibatch_size
        features = spec.obs_dim + (WIDTH if window else 0)
        self.encoder = [Encoder(spec.obs_dim + spec.act_dim, window) for _ in self.agents] if window else []
        self.actor = [mlp(features, 2 * spec.act_dim) for _ in self.agents]
        self.value = [mlp(features, 1) for _ in self.agents]
        self.mixer = mlp(spec.n_agents * spec.obs_dim, spec.n_agents + 1)
        for actor in self.actor:
            with torch.no_grad():
                actor[-1].weight.mul_(0.1)
                actor[-1].bias.zero_()
        modules = [*self.encoder, *self.actor, *self.value, self.mixer]
        self.optimizers = {module: torch.optim.Adam(module.parameters(), lr=5e-5) for module in modules}
        self.entropy_weight = torch.zeros(())

    def features(self, obs: Tensor, history: Tensor | None) -> list[Tensor]:
        if history is None:
            return [obs[:, i] for i in self.agents]
        return [torch.cat([self.encoder[i](history[:, i]), obs[:, i]], -1) for i in self.agents]

    def policies(self, features: list[Tensor]) -> list[torch.distributions.Normal]:
        found = []
        for i in self.agents:
            mean, log_std = self.actor[i](features[i]).chunk(2, -1)
            found.append(torch.distributions.Normal(mean, log_std.clamp(-6, 0).exp(), validate_args=False))
        return found

    def log_prob(self, policies: list[torch.distributions.Normal], actions: Tensor) -> Tensor:
        return torch.stack([policies[i].log_prob(actions[:, i]).sum(-1) for i in self.agents]).sum(0)

    def v(self, features: list[Tensor], obs: Tensor) -> Tensor:
        out = self.mixer(obs.flatten(1))
        values = torch.cat([self.value[i](features[i]) for i in self.agents], -1)
        return (out[:, :-1] * values).sum(-1) + out[:, -1]

    def advantages(self, batch: Batch, v: Tensor, next_v: Tensor) -> Tensor:
        rewards = batch.rewards.mean(-1)
        alive = (~batch.terminations.all(-1)).float()
        going = alive * (~batch.truncations.all(-1)).float()
        found = torch.zeros_like(rewards)
        running = torch.zeros(len(rewards))
        for t in reversed(range(rewards.shape[1])):
            delta = rewards[:, t] + 0.99 * alive[:, t] * next_v[:, t] - v[:, t]
            running = delta + 0.99 * 0.98 * going[:, t] * running
            found[:, t] = running
        return found

    def update(self, batch: Batch) -> None:
        flat, lead = batch.flatten(), batch.rewards.shape[:2]
        with torch.no_grad():
            features = self.features(flat.obs, flat.history)
            old_v = self.v(features, flat.obs)
            old_log_probs = self.log_prob(self.policies(features), flat.actions)
            next_v = self.v(self.features(flat.next_obs, flat.next_history), flat.next_obs)
            advantages = self.advantages(batch, old_v.view(lead), next_v.view(lead)).flatten()
            returns = advantages + old_v
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-3)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(flat)).split(self.minibatch_size):
                history = None if flat.history is None else flat.history[rows]
                self.improve(
                    flat.obs[rows],
                    history,
                    flat.actions[rows],
                    old_log_probs[rows],
                    old_v[rows],
                    advantages[rows],
                    returns[rows],
                )

    def improve(
        self,
        obs: Tensor,
        history: Tensor | None,
        actions: Tensor,
        old_log_probs: Tensor,
        old_v: Tensor,
        advantages: Tensor,
        returns: Tensor,
    ) -> None:
        features = self.features(obs, history)
        policies = self.policies(features)
        ratios = (self.log_prob(policies, actions) - old_log_probs).clamp(max=10).exp()
        actor_loss = -torch.min(ratios * advantages, ratios.clamp(0.8, 1.2) * advantages).mean()
        entropy = torch.stack([policy.entropy().sum(-1) for policy in policies]).sum(0).mean()
        bound = torch.stack([(policy.mean.abs() - 1).clamp(min=0).square().sum(-1) for policy in policies]).sum(0)
        v = self.v(features, obs)
        clipped = old_v + (v - old_v).clamp(-0.2, 0.2)
        critic_loss = torch.max((v - returns).square(), (clipped - returns).square()).mean()
        loss = actor_loss + 0.5 * critic_loss - self.entropy_weight * entropy + bound.mean()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for module, optimizer in self.optimizers.items():
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
        self.entropy_weight = (self.entropy_weight + 1e-3 * (-2 - entropy.detach())).clamp(min=0)
