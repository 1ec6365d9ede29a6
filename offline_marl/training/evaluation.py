"""Act in the real environment, many episodes side by side, and say how sure the mean is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline_marl.core.seeding import derive
from offline_marl.core.types import Policy, Spec
from offline_marl.datasets.catalog import Reference
from offline_marl.environments.base import Conventions, JointEnv, Seen, State

RESAMPLES = 10_000


@dataclass(frozen=True)
class Score:
    """Returns of evaluation episodes, and what they add up to."""

    returns: npt.NDArray[np.float64]
    """One per episode, averaged over agents."""
    low: float
    """Lower end of the mean's 95 % bootstrap interval."""
    high: float
    reference: Reference | None = None
    conventions: Conventions | None = None
    """What the agents settled on in each episode; None where there is nothing to agree on."""
    random_return: float | None = None
    """What uniform play returned, where it was measured."""
    other_versions: tuple[str, ...] | None = None
    """What played these episodes in another version than the training data; None where that cannot be told."""
    versions: Mapping[str, str] | None = None
    """All that the episodes depended on, the environment's id among it."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def normalized(self) -> tuple[float, float, float] | None:
        """Mean, low and high on the scale where 0 is random and 100 is expert; None without references."""
        if self.reference is None:
            return None
        return tuple(self.reference.normalized(x) for x in (self.mean, self.low, self.high))  # type: ignore[return-value]

    def row(self) -> dict[str, Any]:
        """The figures by name, normalised ones None where there are no references."""
        mean, low, high = self.normalized or (None, None, None)
        agreement = {} if self.conventions is None else {"agreement": float(self.conventions.agreed.mean())}
        return {
            "return": self.mean,
            "return_low": self.low,
            "return_high": self.high,
            "normalized_return": mean,
            "normalized_low": low,
            "normalized_high": high,
            **agreement,
            **({} if self.random_return is None else {"random_return": self.random_return}),
            **({} if self.other_versions is None else {"versions_differ": bool(self.other_versions)}),
            "episodes": len(self.returns),
        }

    def __str__(self) -> str:
        raw = f"return {self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"
        agreed = "" if self.conventions is None else f", agreement {self.conventions.agreed.mean():.2f}"
        beside = "" if self.random_return is None else f", uniform play {self.random_return:.3f}"
        beside += ", other versions than the data's" if self.other_versions else ""
        if self.normalized is None:
            return f"{raw}{agreed}, {len(self.returns)} episodes{beside}"
        mean, low, high = self.normalized
        beside = f"{raw}, {len(self.returns)} episodes{beside}"
        return f"normalized return {mean:.1f} [{low:.1f}, {high:.1f}]{agreed} ({beside})"


@dataclass(frozen=True, slots=True)
class Episodes:
    """What came of episodes."""

    returns: npt.NDArray[np.float64]
    """One per episode, averaged over agents."""
    ends: State | None
    """Last states, where the environment tells them."""


def summarize(
    returns: npt.NDArray[np.float64], reference: Reference | None = None, conventions: Conventions | None = None
) -> Score:
    """Mean and its 95 % percentile-bootstrap interval; the resampling is the same at each call."""
    draws = np.random.default_rng(0).integers(len(returns), size=(RESAMPLES, len(returns)))
    low, high = np.percentile(returns[draws].mean(1), [2.5, 97.5])
    return Score(returns, float(low), float(high), reference, conventions)


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
