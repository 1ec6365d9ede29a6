"""What the loops share: encoders, networks, optimisers, targets and draws."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from offline_marl.core.types import Batch, Spec
from offline_marl.networks.actors import bounded_log_std
from offline_marl.networks.inputs import sinusoids

WIDTH = 128
GAMMA, TAU = 0.99, 0.005

Twins = list[nn.ModuleList]


@dataclass(frozen=True)
class Setup:
    spec: Spec
    window: int = 0
    centralised: bool = False
    hidden: int = 256
    lr: float = 3e-4


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
        seen: Tensor = torch.softmax(self.seeker(torch.tanh(self.score(hidden))), 1) * hidden
        return seen.sum(1)


class Loop(ABC):
    """A learner of agents of equal widths, at the default settings of the algorithm of its name."""

    clip = 0.0

    def __init__(self, setup: Setup) -> None:
        self.setup, self.window = setup, setup.window
        self.agents = list(range(setup.spec.n_agents))
        self.obs_dim, self.act_dim = setup.spec.obs_dim, setup.spec.act_dim
        self.features = self.obs_dim + (WIDTH if self.window else 0)
        self.optimizers: dict[nn.Module, torch.optim.Adam] = {}
        self.encoder = nn.ModuleList(
            [Encoder(self.obs_dim + self.act_dim, self.window) for _ in self.agents if self.window]
        )
        self.optimize(self.encoder)

    @abstractmethod
    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from one batch; returns the losses, means over agents."""

    def mlp(self, inputs: int, outputs: int) -> nn.Sequential:
        width = self.setup.hidden
        first, second = nn.Linear(inputs, width), nn.Linear(width, width)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(width, outputs))

    def mlps(self, inputs: int, outputs: int) -> nn.ModuleList:
        """A network for each agent."""
        found = nn.ModuleList([self.mlp(inputs, outputs) for _ in self.agents])
        self.optimize(found)
        return found

    def optimize(self, modules: Iterable[nn.Module]) -> None:
        for module in modules:
            self.optimizers[module] = torch.optim.Adam(module.parameters(), lr=self.setup.lr)

    def encode(self, encoder: nn.ModuleList, agent: int, obs: Tensor, history: Tensor | None) -> Tensor:
        """What the agent's networks read."""
        if not self.window:
            return obs[:, agent]
        assert history is not None
        return torch.cat([encoder[agent](history[:, agent]), obs[:, agent]], -1)

    def step(self, loss: Tensor, *modules: nn.Module) -> None:
        for module in modules:
            self.optimizers[module].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for module in modules:
            if self.clip:
                nn.utils.clip_grad_norm_(module.parameters(), self.clip)
            self.optimizers[module].step()

    @torch.no_grad()
    def follow(self, targets: Iterable[nn.Module], sources: Iterable[nn.Module]) -> None:
        for ours, theirs in zip(targets, sources, strict=True):
            for target, source in zip(ours.parameters(), theirs.parameters(), strict=True):
                target.mul_(1 - TAU).add_(TAU * source)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape) * 2 - 1


def log_prob(actor: nn.Module, features: Tensor, actions: Tensor) -> Tensor:
    """Log density of a tanh-squashed normal."""
    mean, log_std = actor(features).chunk(2, -1)
    inside = actions.clamp(-1 + 1e-5, 1 - 1e-5)
    normal = torch.distributions.Normal(mean, bounded_log_std(log_std).exp())
    density: Tensor = normal.log_prob(torch.atanh(inside)) - torch.log(1 - inside.square())  # type: ignore[no-untyped-call]
    return density.sum(-1)


def mean_loss(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean().detach()
