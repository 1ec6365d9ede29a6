"""VDN the plain way: a torch.nn.GRU for each agent, a Python loop over agents, one backward for the team."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from offline_marl.core.types import Batch, Spec

GAMMA, TAU, LR, CLIP = 0.99, 0.005, 3e-4, 10.0


class AgentQ(nn.Module):
    """One agent's values of its choices."""

    def __init__(self, obs_dim: int, choices: int, width: int) -> None:
        super().__init__()
        self.first, self.unit = nn.Linear(obs_dim, width), nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, choices)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Values at each step of segments `[row, time, obs]`, and the states after it."""
        states, _ = self.unit(torch.relu(self.first(obs)))
        return self.head(states), states

    def ahead(self, next_obs: Tensor, states: Tensor) -> Tensor:
        """Values of what each step led to."""
        seen = torch.relu(self.first(next_obs)).flatten(0, 1).unsqueeze(1)
        after, _ = self.unit(seen, states.flatten(0, 1).unsqueeze(0).contiguous())
        values: Tensor = self.head(after[:, 0])
        return values.unflatten(0, next_obs.shape[:2])


class LoopVDN:
    """VDN of agents with weights of their own, at its default settings, on whole episodes where all are there."""

    def __init__(self, spec: Spec, width: int = 64, lr: float = LR) -> None:
        self.agents = [AgentQ(*each, width) for each in zip(spec.obs_dims, spec.act_dims, strict=True)]
        self.targets = copy.deepcopy(self.agents)
        self.optimizers = [torch.optim.Adam(agent.parameters(), lr=lr) for agent in self.agents]

    def update(self, batch: Batch) -> Tensor:
        """Learn from one batch; returns the loss."""
        q_tot, next_tot = 0.0, 0.0
        for i, (agent, target) in enumerate(zip(self.agents, self.targets, strict=True)):
            q, states = agent(batch.obs[:, :, i])
            q_tot = q_tot + q.gather(-1, batch.actions[:, :, i, None])[..., 0]
            with torch.no_grad():
                best = agent.ahead(batch.next_obs[:, :, i], states).argmax(-1, keepdim=True)
                _, own = target(batch.obs[:, :, i])
                next_tot = next_tot + target.ahead(batch.next_obs[:, :, i], own).gather(-1, best)[..., 0]
        aim = batch.rewards.mean(-1) + GAMMA * ~batch.terminations.all(-1) * next_tot
        loss: Tensor = (q_tot - aim).square().mean() / 2
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for agent, optimizer in zip(self.agents, self.optimizers, strict=True):
            nn.utils.clip_grad_norm_(agent.parameters(), CLIP)
            optimizer.step()
        with torch.no_grad():
            for target, agent in zip(self.targets, self.agents, strict=True):
                for followed, source in zip(target.parameters(), agent.parameters(), strict=True):
                    followed.mul_(1 - TAU).add_(TAU * source)
        return loss.detach()
