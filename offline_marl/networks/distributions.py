"""Action distributions: normals squashed or clipped to [-1, 1], and a categorical that heeds available actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from offline_marl.core.axes import PerAgent

BORDER = 1.0 - 1e-5
"""Actions are pulled this far inside [-1, 1] before tanh is inverted, where its inverse is infinite."""
NORMAL_ENTROPY = 0.5 * (1 + math.log(2 * math.pi))
"""Differential entropy of a normal of deviation 1."""


def unpadded(
    entries: Annotated[Tensor, "*lead agent act"], present: Annotated[Tensor, "agent act"] | None
) -> Annotated[Tensor, "*lead agent act"]:
    """Zero the padding; without a mask there is none, and nothing is multiplied."""
    return entries if present is None else entries * present


class TanhNormal:
    """tanh of a diagonal normal, so that actions stay in (-1, 1).

    Args:
        mean: Mean before the squashing.
        log_std: Log standard deviation before the squashing.
        present: False on padded action entries, which add nothing to a log-probability and are zero; None where all
            agents have all entries.
    """

    def __init__(
        self,
        mean: Annotated[Tensor, "*lead agent act"],
        log_std: Annotated[Tensor, "*lead agent act"],
        present: Annotated[Tensor, "agent act"] | None = None,
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
        return unpadded(density, self.present).sum(-1)

    def mode(self) -> Annotated[Tensor, "*lead agent act"]:
        """The squashed mean."""
        return unpadded(torch.tanh(self.mean), self.present)

    def sample(
        self, generator: torch.Generator | None = None, noise: Tensor | None = None
    ) -> Annotated[Tensor, "*lead agent act"]:
        """A draw, or what standard normal `noise` makes; gradients reach the parameters through it."""
        if noise is None:
            noise = torch.empty_like(self.mean).normal_(generator=generator)
        return unpadded(torch.tanh(self.mean + torch.exp(self.log_std) * noise), self.present)

    def sample_with_log_prob(
        self, generator: torch.Generator | None = None, noise: Tensor | None = None
    ) -> tuple[Annotated[Tensor, "*lead agent act"], PerAgent]:
        """As `sample`, and the log density, taken before the squashing, where no digit is lost; gradients pass both."""
        if noise is None:
            noise = torch.empty_like(self.mean).normal_(generator=generator)
        raw = self.mean + torch.exp(self.log_std) * noise
        normal = -0.5 * noise.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        slopes = 2 * (math.log(2) - raw - torch.nn.functional.softplus(-2 * raw))  # log(1 - tanh^2)
        return unpadded(torch.tanh(raw), self.present), unpadded(normal - slopes, self.present).sum(-1)

    def entropy(self) -> PerAgent:
        """Differential entropy of each agent's action: the normal's, plus the mean of log(1 - tanh^2).

        That mean is taken by the trapezoid rule over five deviations to each side, which converges exponentially for
        a smooth function under a normal weight (Trefethen and Weideman, 2014); there is no closed form.
        """
        at = torch.linspace(-5.0, 5.0, 21, dtype=self.mean.dtype, device=self.mean.device)
        weights = torch.exp(-0.5 * at.square()) * (0.5 / math.sqrt(2 * math.pi))
        raw = (self.mean.unsqueeze(-1) + torch.exp(self.log_std).unsqueeze(-1) * at).abs()
        # log(1 - tanh^2 x), in a form that neither overflows nor loses digits far out.
        slopes = 2 * (math.log(2) - raw - torch.nn.functional.softplus(-2 * raw))
        return unpadded(self.log_std + NORMAL_ENTROPY + slopes @ weights, self.present).sum(-1)


class ClippedNormal:
    """A diagonal normal whose draws are clipped to [-1, 1], so that each border holds the mass beyond it.

    The likelihood of what was really done, not of the draw before the clipping, has the same mean policy gradient
    and less variance (Fujita and Maeda, 2018), and is all that can be said of recorded actions.

    Args:
        mean: Mean before the clipping.
        log_std: Log standard deviation before the clipping.
        present: False on padded action entries, which add nothing to a log-probability and are zero; None where all
            agents have all entries.
    """

    def __init__(
        self,
        mean: Annotated[Tensor, "*lead agent act"],
        log_std: Annotated[Tensor, "*lead agent act"],
        present: Annotated[Tensor, "agent act"] | None = None,
    ) -> None:
        self.mean = mean
        self.log_std = log_std
        self.present = present

    def log_prob(self, actions: Annotated[Tensor, "*lead agent act"]) -> PerAgent:
        """Log density of each agent's action inside, log of the mass beyond where it lies on the border."""
        density: Tensor = _ClippedLogProb.apply(self.mean, self.log_std, actions)  # type: ignore[no-untyped-call]
        return unpadded(density, self.present).sum(-1)

    def mode(self) -> Annotated[Tensor, "*lead agent act"]:
        """The clipped mean."""
        return unpadded(self.mean.clamp(-1, 1), self.present)

    def sample(self, generator: torch.Generator | None = None) -> Annotated[Tensor, "*lead agent act"]:
        """A draw."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return unpadded((self.mean + torch.exp(self.log_std) * noise).clamp(-1, 1), self.present)

    def entropy(self) -> PerAgent:
        """Differential entropy of each agent's draw before the clipping."""
        return unpadded(self.log_std + NORMAL_ENTROPY, self.present).sum(-1)

    def excess(self) -> PerAgent:
        """Sum of squares of how far each agent's means lie outside [-1, 1]."""
        return unpadded(torch.nn.functional.softshrink(self.mean, 1.0).square(), self.present).sum(-1)


class _ClippedLogProb(torch.autograd.Function):
    """Log-likelihoods of a clipped normal with their slopes in closed form, which hold in the tails.

    Torch's own slope of log_ndtr, in single precision, is 7 % off at -1000. Both sides of the choice are finite
    everywhere, so that the one not taken adds no NaN.
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
        log_precision = -log_std
        precision, offsets = torch.exp(log_precision), actions - mean
        distances, inside = offsets * precision, actions.abs() < 1
        density = torch.addcmul(log_precision - 0.5 * math.log(2 * math.pi), distances, distances, value=-0.5)
        # On a border, action * distance is how far outwards it lies.
        inwards = -actions * distances
        ctx.save_for_backward(precision, offsets, distances, inside, inwards, actions)
        return torch.where(inside, density, torch.special.log_ndtr(inwards))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        precision, offsets, distances, inside, inwards, actions = ctx.saved_tensors
        # Density over mass of what lies beyond; erfcx is exp(x^2) erfc(x), which takes what under- and overflows out.
        rate = math.sqrt(2 / math.pi) / torch.special.erfcx(inwards * -math.sqrt(0.5))
        by_distance = grad * torch.where(inside, distances, actions * rate)  # towards the mean
        return by_distance * precision, by_distance * offsets * precision - grad * inside, None


def gumbel(
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Standard Gumbel noise, -log(-log u): the largest of logits that it is added to is a draw of their softmax.

    Args:
        shape: Of the noise.
        generator: Draws it.
        device: Where it is made; the generator's unless said.
        dtype: Its precision.
    """
    place = device if device is not None or generator is None else generator.device
    uniform = torch.rand(tuple(shape), generator=generator, device=place, dtype=dtype)
    tiny = torch.finfo(uniform.dtype).tiny
    waits = -torch.log(uniform.clamp(min=tiny))
    return -torch.log(waits.clamp(min=tiny))


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

    def tempered(self, temperature: float) -> Categorical:
        """The choice whose logits are divided by a temperature; what is not allowed stays so."""
        return Categorical(self.log_probs / temperature, self.log_probs > torch.finfo(self.log_probs.dtype).min / 2)

    def log_prob(self, actions: PerAgent) -> PerAgent:
        """Log-probability of each agent's choice."""
        return self.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def mode(self) -> PerAgent:
        """The likeliest choice."""
        return self.log_probs.argmax(-1)

    def sample(self, generator: torch.Generator | None = None) -> PerAgent:
        """A draw, by the Gumbel-max rule."""
        noise = gumbel(self.log_probs.shape, generator, device=self.log_probs.device, dtype=self.log_probs.dtype)
        return (self.log_probs + noise).argmax(-1)

    def entropy(self) -> PerAgent:
        """Entropy of each agent's choice."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)
