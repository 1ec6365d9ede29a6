"""Action distributions: a tanh-squashed normal, and a categorical that heeds available actions."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from offline_marl.core.axes import PerAgent

BORDER = 1.0 - 1e-5
"""Actions are pulled this far inside [-1, 1] before tanh is inverted, where its inverse is infinite."""


class TanhNormal:
    """tanh of a diagonal normal, so that actions stay in (-1, 1).

    Args:
        mean: Mean before the squashing.
        log_std: Log standard deviation before the squashing.
        present: False on padded action entries; they add nothing to a log-probability and are zero.
    """

    def __init__(
        self,
        mean: Annotated[Tensor, "*lead agent act"],
        log_std: Annotated[Tensor, "*lead agent act"],
        present: Annotated[Tensor, "agent act"],
    ) -> None:
        self.mean = mean
        self.log_std = log_std
        self.present = present

    def log_prob(self, actions: Annotated[Tensor, "*lead agent act"]) -> PerAgent:
        """Log density of each agent's action, change of variables included (Haarnoja et al., 2018, appendix C)."""
        inside = actions.clamp(-BORDER, BORDER)
        raw = torch.atanh(inside)
        normal = -0.5 * ((raw - self.mean) * torch.exp(-self.log_std)).square() - self.log_std
        density = normal - 0.5 * math.log(2 * math.pi) - torch.log1p(-inside.square())
        return (density * self.present).sum(-1)

    def mode(self) -> Annotated[Tensor, "*lead agent act"]:
        """The squashed mean."""
        return torch.tanh(self.mean) * self.present

    def sample(self, generator: torch.Generator | None = None) -> Annotated[Tensor, "*lead agent act"]:
        """A draw; gradients reach the parameters through it."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return torch.tanh(self.mean + torch.exp(self.log_std) * noise) * self.present


class Categorical:
    """Choice among the actions that are allowed.

    Args:
        logits: Unnormalised log-probabilities.
        allowed: Bool; choices that are not allowed have probability zero.
    """

    def __init__(
        self, logits: Annotated[Tensor, "*lead agent choice"], allowed: Annotated[Tensor, "*lead agent choice"]
    ) -> None:
        floor = torch.finfo(logits.dtype).min
        self.log_probs = torch.log_softmax(logits.masked_fill(~allowed, floor), dim=-1)

    def log_prob(self, actions: PerAgent) -> PerAgent:
        """Log-probability of each agent's choice."""
        return self.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def mode(self) -> PerAgent:
        """The likeliest choice."""
        return self.log_probs.argmax(-1)

    def sample(self, generator: torch.Generator | None = None) -> PerAgent:
        """A draw, by the Gumbel-max rule."""
        uniform = torch.rand(
            self.log_probs.shape, generator=generator, device=self.log_probs.device, dtype=self.log_probs.dtype
        )
        tiny = torch.finfo(uniform.dtype).tiny
        waits = -torch.log(uniform.clamp(min=tiny))
        return (self.log_probs - torch.log(waits.clamp(min=tiny))).argmax(-1)
