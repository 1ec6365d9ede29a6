"""A small noisy linear world of two agents, whose dynamics are known: agent 1 also sees agent 0's first coordinate."""

from __future__ import annotations

import torch

from offline_marl.core.types import Batch, Spec
from offline_marl.worldmodels.facts import Facts, measure

SPEC = Spec(obs_dims=(2, 2), act_dims=(1, 1))
NOISE = torch.tensor([0.1, 0.2, 0.4])
REWARD_NOISE = 0.3


def rows(count: int, seed: int, noise: float = 1.0, reach: float = 1.0) -> Batch:
    """Joint x = (p, v, q), joint u; p' = p + .5 v, v' = .8 v + u0, q' = q + .5 u1 - .25 p; ends where v' > 1.5.

    Args:
        count: Rows.
        seed: Of all draws.
        noise: Multiplies the deviation of the noise.
        reach: Multiplies the deviation of x.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x = reach * draw(count, 3)
    u = torch.rand(count, 2, generator=generator) * 2 - 1
    p, v, q = x.unbind(-1)
    after = torch.stack([p + 0.5 * v, 0.8 * v + u[:, 0], q + 0.5 * u[:, 1] - 0.25 * p], dim=-1)
    after = after + noise * NOISE * draw(count, 3)
    rewards = torch.stack([2.0 * p, 5.0 - u[:, 1]], dim=-1) + noise * REWARD_NOISE * draw(count, 2)
    ended = (after[:, 1] > 1.5).unsqueeze(-1).expand(-1, 2)
    return Batch(seen(x), u.unsqueeze(-1), rewards, seen(after), ended, torch.zeros_like(ended))


def seen(x: torch.Tensor) -> torch.Tensor:
    """Agent 0 sees (p, v), agent 1 sees (q, p)."""
    return x[..., [0, 1, 2, 0]].unflatten(-1, (2, 2))


def facts(batch: Batch) -> Facts:
    return measure(SPEC, batch.obs, batch.next_obs, batch.rewards, batch.terminations)


def drawn(batch: Batch, members: int, size: int, generator: torch.Generator) -> Batch:
    index = torch.randint(len(batch), (members, size), generator=generator)
    return batch.map(lambda value: value[index])
