"""MAIQL's mathematics the plain way: a loop over agents, an optimiser per module, every loss encodes anew.

The yardstick of speed.py. One network object per agent and per twin, three backward passes an update in
the order value, policy, critic, and the history encoder run again for each of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from offline_marl.core.types import Batch, Spec
from offline_marl.networks.memory import sinusoids

WIDTH = 128


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, outputs))


class Encoder(nn.Module):
    def __init__(self, step: int, window: int) -> None:
        super().__init__()
        self.embed = nn.Linear(step, WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)
        self.score = nn.Linear(WIDTH, WIDTH)
        self.seeker = nn.Linear(WIDTH, 1, bias=False)
        self.register_buffer("positions", sinusoids(window, WIDTH))

    def forward(self, history: Tensor) -> Tensor:
        x = self.embed(history) + self.positions
        weights = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(WIDTH), -1)
        hidden = self.norm(x + weights @ self.value(x))
        return (torch.softmax(self.seeker(torch.tanh(self.score(hidden))), 1) * hidden).sum(1)


class LoopMAIQL:
    def __init__(self, spec: Spec, window: int) -> None:
        self.agents = range(spec.n_agents)
        self.window = window
        features = spec.obs_dim + (WIDTH if window else 0)
        joint_obs, joint_act = spec.n_agents * spec.obs_dim, spec.n_agents * spec.act_dim

        def each(make: object) -> nn.ModuleList:
            return nn.ModuleList([make() for _ in self.agents])  # type: ignore[operator]

        def critic_set() -> nn.ModuleDict:
            return nn.ModuleDict(
                {
                    "q1": each(lambda: mlp(features + spec.act_dim, 1)),
                    "q2": each(lambda: mlp(features + spec.act_dim, 1)),
                    "mix1": mlp(joint_obs + joint_act, spec.n_agents + 1),
                    "mix2": mlp(joint_obs + joint_act, spec.n_agents + 1),
                }
            )

        def encoders() -> nn.ModuleList:
            return each(lambda: Encoder(spec.obs_dim + spec.act_dim, window)) if window else nn.ModuleList()

        self.critic, self.target = critic_set(), critic_set()
        self.encoder, self.target_encoder = encoders(), encoders()
        self.value = each(lambda: mlp(features, 1))
        self.value_mixer = mlp(joint_obs, spec.n_agents + 1)
        self.actor = each(lambda: mlp(features, 2 * spec.act_dim))
        modules = [*self.value, self.value_mixer, *self.actor, *self.critic.values(), *self.encoder]
        self.modules = {module: torch.optim.Adam(module.parameters(), lr=3e-4) for module in modules}

    def features(self, encoder: nn.ModuleList, obs: Tensor, history: Tensor | None) -> list[Tensor]:
        if not self.window:
            return [obs[:, i] for i in self.agents]
        assert history is not None
        return [torch.cat([encoder[i](history[:, i]), obs[:, i]], -1) for i in self.agents]

    def mixed(self, mixer: nn.Module, values: list[Tensor], x: Tensor) -> Tensor:
        out = mixer(x)
        return (out[:, :-1] * torch.cat(values, -1)).sum(-1) + out[:, -1]

    def q(self, nets: nn.ModuleDict, features: list[Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        pairs = [torch.cat([features[i], batch.actions[:, i]], -1) for i in self.agents]
        x = torch.cat([batch.obs.flatten(1), batch.actions.flatten(1)], -1)
        first = self.mixed(nets["mix1"], [nets["q1"][i](pairs[i]) for i in self.agents], x)
        return first, self.mixed(nets["mix2"], [nets["q2"][i](pairs[i]) for i in self.agents], x)

    def v(self, obs: Tensor, history: Tensor | None) -> Tensor:
        features = self.features(self.encoder, obs, history)
        return self.mixed(self.value_mixer, [self.value[i](features[i]) for i in self.agents], obs.flatten(1))

    def log_prob(self, batch: Batch) -> Tensor:
        features = self.features(self.encoder, batch.obs, batch.history)
        total = torch.zeros(len(batch))
        for i in self.agents:
            mean, log_std = self.actor[i](features[i]).chunk(2, -1)
            log_std = log_std.clamp(-6, 0)
            action = batch.actions[:, i].clamp(-1 + 1e-5, 1 - 1e-5)
            normal = torch.distributions.Normal(mean, log_std.exp()).log_prob(torch.atanh(action))
            total = total + (normal - torch.log(1 - action.square())).sum(-1)
        return total

    def step(self, loss: Tensor, *modules: nn.Module) -> None:
        for module in modules:
            self.modules[module].zero_grad()
        loss.backward()
        for module in modules:
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            self.modules[module].step()

    def update(self, batch: Batch) -> None:
        with torch.no_grad():
            past = self.features(self.target_encoder, batch.obs, batch.history)
            q = torch.minimum(*self.q(self.target, past, batch))
        error = q - self.v(batch.obs, batch.history)
        loss = (torch.where(error < 0, 0.3, 0.7) * error.square()).mean()
        self.step(loss, *self.value, self.value_mixer, *self.encoder)

        with torch.no_grad():
            past = self.features(self.target_encoder, batch.obs, batch.history)
            advantage = torch.minimum(*self.q(self.target, past, batch)) - self.v(batch.obs, batch.history)
        weights = torch.exp(3 * advantage).clamp(max=100)
        self.step(-(weights * self.log_prob(batch)).mean(), *self.actor, *self.encoder)

        with torch.no_grad():
            next_v = self.v(batch.next_obs, batch.next_history)
            goal = batch.rewards.mean(-1) + 0.99 * (~batch.terminations.all(-1)) * next_v
        first, second = self.q(self.critic, self.features(self.encoder, batch.obs, batch.history), batch)
        loss = (first - goal).square().mean() + (second - goal).square().mean()
        self.step(loss, *self.critic.values(), *self.encoder)

        with torch.no_grad():
            for ours, theirs in ((self.target, self.critic), (self.target_encoder, self.encoder)):
                for target, source in zip(ours.parameters(), theirs.parameters(), strict=True):
                    target.mul_(0.995).add_(0.005 * source)
