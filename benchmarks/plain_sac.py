"""A plain soft actor-critic of one agent in one file, as people copy it: its own networks, replay and loop.

The yardstick of `masac` in benchmarks/soft.py; it shares nothing with the library but the seeds of evaluation episodes.
"""

from __future__ import annotations

import copy
import itertools
import time

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from offline_marl.environments.episodes import episode_seeds

GAMMA, TAU, BATCH, WIDTH = 0.99, 0.005, 256, 256
POLICY_LR, CRITIC_LR, POLICY_EVERY = 3e-4, 1e-3, 2


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, outputs)
    )


class SAC:
    """Policy, twin critics and temperature, with one update on a batch."""

    def __init__(self, obs: int, act: int) -> None:
        self.aim = -float(act)
        self.actor = network(obs, 2 * act)
        self.critics = nn.ModuleList([network(obs + act, 1), network(obs + act, 1)])
        self.targets = copy.deepcopy(self.critics)
        self.log_temperature = torch.zeros(1, requires_grad=True)
        self.critic_adam = torch.optim.Adam(self.critics.parameters(), lr=CRITIC_LR)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=POLICY_LR)
        self.temperature_adam = torch.optim.Adam([self.log_temperature], lr=CRITIC_LR)
        self.updates = 0

    def draw(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(obs).chunk(2, -1)
        log_std = -5 + 3.5 * (torch.tanh(log_std) + 1)
        normal = torch.distributions.Normal(mean, log_std.exp())
        raw = normal.rsample()
        actions = torch.tanh(raw)
        return actions, (normal.log_prob(raw) - torch.log(1 - actions.square() + 1e-6)).sum(-1)

    @torch.no_grad()
    def act(self, obs: np.ndarray, explore: bool) -> np.ndarray:
        seen = torch.as_tensor(obs, dtype=torch.float32)
        return (self.draw(seen)[0] if explore else torch.tanh(self.actor(seen).chunk(2, -1)[0])).numpy()

    def least(self, critics: nn.ModuleList, obs: Tensor, actions: Tensor) -> Tensor:
        pair = torch.cat([obs, actions], -1)
        return torch.min(critics[0](pair), critics[1](pair)).squeeze(-1)

    def update(self, obs: Tensor, actions: Tensor, rewards: Tensor, later: Tensor, ended: Tensor) -> None:
        with torch.no_grad():
            following, log_prob = self.draw(later)
            value = self.least(self.targets, later, following) - self.log_temperature.exp() * log_prob
            target = rewards + GAMMA * (1 - ended) * value
        pair = torch.cat([obs, actions], -1)
        loss = sum(nn.functional.mse_loss(critic(pair).squeeze(-1), target) for critic in self.critics)
        step(self.critic_adam, loss)
        if self.updates % POLICY_EVERY == 0:
            for _ in range(POLICY_EVERY):
                own, log_prob = self.draw(obs)
                q = self.least(self.critics, obs, own)
                step(self.actor_adam, (self.log_temperature.exp().detach() * log_prob - q).mean())
                lacking = log_prob.detach().mean() + self.aim
                step(self.temperature_adam, (-self.log_temperature.exp() * lacking).sum())
        with torch.no_grad():
            for target_p, p in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                target_p.lerp_(p, TAU)
        self.updates += 1


def step(adam: torch.optim.Adam, loss: Tensor) -> None:
    adam.zero_grad()
    loss.backward()
    adam.step()


def train(task: str, seed: int, steps: int, warmup: int, episodes: int) -> tuple[np.ndarray, float]:
    """Learn in an environment of Gymnasium.

    Returns:
        Returns of the evaluation episodes at the end, and the seconds that learning took.
    """
    begun = time.perf_counter()
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    env = gymnasium.make(task)
    width, act = env.observation_space.shape[0], env.action_space.shape[0]
    scale = env.action_space.high
    learner = SAC(width, act)
    rows = {"obs": width, "actions": act, "rewards": 1, "later": width, "ended": 1}
    kept = {name: torch.zeros(steps, columns) for name, columns in rows.items()}
    obs, _ = env.reset(seed=seed)
    for count in range(steps):
        actions = draw.uniform(-1, 1, act) if count < warmup else learner.act(obs, explore=True)
        later, reward, terminated, truncated, _ = env.step((actions * scale).astype(np.float32))
        for name, value in zip(rows, (obs, actions, [reward], later, [terminated]), strict=True):
            kept[name][count] = torch.as_tensor(np.asarray(value, np.float32))
        obs = env.reset()[0] if terminated or truncated else later
        if count >= warmup:
            index = torch.from_numpy(draw.integers(0, count + 1, BATCH))
            batch = {name: values[index] for name, values in kept.items()}
            learner.update(
                *(batch[name].squeeze(-1) if rows[name] == 1 and name != "actions" else batch[name] for name in rows)
            )
    seconds = time.perf_counter() - begun
    returns = []
    for start in episode_seeds(0, episodes):
        obs, _ = env.reset(seed=start)
        total = 0.0
        for _ in itertools.count():
            obs, reward, terminated, truncated, _ = env.step(
                (learner.act(obs, explore=False) * scale).astype(np.float32)
            )
            total += float(reward)
            if terminated or truncated:
                break
        returns.append(total)
    env.close()
    return np.array(returns), seconds
