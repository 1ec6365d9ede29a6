"""Episodes of a policy in many copies of an environment, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline_marl.core.seeding import derive
from offline_marl.core.types import Policy, Spec
from offline_marl.environments.base import JointEnv, Seen, State


@dataclass(frozen=True, slots=True)
class Episodes:
    """What came of episodes."""

    returns: npt.NDArray[np.float64]
    """One per episode, averaged over agents."""
    ends: State | None
    """Last states, where the environment tells them."""


def episode_seeds(seed: int, count: int) -> list[int]:
    """Distinct seeds for simulators, below 2**31."""
    seeds: dict[int, None] = {}
    number = 0
    while len(seeds) < count:
        seeds[derive(seed, "evaluation", number) % 2**31] = None
        number += 1
    return list(seeds)


@torch.no_grad()
def play(
    policy: Policy, env: JointEnv, seeds: Sequence[int], device: torch.device | str = "cpu", explore: bool = False
) -> Episodes:
    """One episode per seed; deterministic actions unless `explore`."""
    parts = []
    for first in range(0, len(seeds), env.copies):
        parts.append(_play_together(policy, env, seeds[first : first + env.copies], device, explore))
    ends = [part.ends for part in parts if part.ends is not None]
    return Episodes(np.concatenate([part.returns for part in parts]), np.concatenate(ends) if ends else None)


def _play_together(
    policy: Policy, env: JointEnv, seeds: Sequence[int], device: torch.device | str, explore: bool
) -> Episodes:
    seen = env.reset(seeds)
    memory = Memory(env.spec, policy.window, len(seeds), device)
    totals = np.zeros(len(seeds))
    running = np.ones(len(seeds), dtype=bool)
    while running.any():
        obs, avail = seen_tensors(seen, device)
        actions = policy.act(obs, history=memory.history, avail_actions=avail, explore=explore)
        memory.remember(obs, actions)
        seen, rewards, terminations, truncations = env.step(actions.cpu().numpy())
        totals += rewards.mean(1, dtype=np.float64)
        running &= ~(terminations | truncations)
    return Episodes(totals, seen.state)


class Memory:
    """The last `window` (obs, action) pairs of each agent in each copy, zeros before the episode began."""

    def __init__(self, spec: Spec, window: int, copies: int, device: torch.device | str) -> None:
        self.spec = spec
        shape = (copies, spec.n_agents, window, spec.step_dim)
        self.history: Tensor | None = torch.zeros(shape, device=device) if window else None

    def remember(self, obs: Tensor, actions: Tensor) -> None:
        """Push the newest pair in and the oldest out."""
        if self.history is not None:
            done = torch.nn.functional.one_hot(actions, self.spec.act_dim) if self.spec.discrete else actions
            pair = torch.cat([obs, done.to(obs.dtype)], dim=-1).unsqueeze(2)
            self.history = torch.cat([self.history[:, :, 1:], pair], dim=2)


def seen_tensors(seen: Seen, device: torch.device | str) -> tuple[Tensor, Tensor | None]:
    """Observations and available actions as tensors."""
    avail = None if seen.avail_actions is None else torch.from_numpy(seen.avail_actions).to(device)
    return torch.from_numpy(seen.obs).to(device), avail
