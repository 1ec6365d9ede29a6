"""Quantizers of vector observations: learned codes (VQ), a fixed lattice (FSQ), or bins of each coordinate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from offline_marl.core.types import DataError
from offline_marl.networks.tokenizer import AutoencodingTokenizer, Obs, Tokenizer, Tokens

EPSILON = 1e-5
"""Smooths the sizes of codes, so that one that was hardly used is not divided by zero."""


class VectorQuantizer(AutoencodingTokenizer):
    """Tokens are the nearest of V learned codes (van den Oord et al., 2017), which follow what is assigned to them.

    Codes are moving averages: size n_v <- d n_v + (1 - d) count_v and sum s_v <- d s_v + (1 - d) sum z, code
    s_v / n_v with n_v smoothed. The first batch gives the codes their places; one whose size falls below
    `least_size` is put where an encoder output of the batch is. Loss: mean |reconstruction - obs| +
    `commitment` |z - code|^2, gradients passing the choice of the code straight through.

    Args:
        obs_dims: True width of each agent's observation.
        tokens: K.
        vocabulary: V.
        slot: Width of a code.
        hidden: Widths of the hidden layers.
        decay: d.
        commitment: Weight of the second loss.
        least_size: Moving number of assignments in a batch below which a code is dead.
        squash: See `Tokenizer`.
    """

    codes: Tensor
    sizes: Tensor
    sums: Tensor
    placed: Tensor

    def __init__(
        self,
        obs_dims: Sequence[int],
        tokens: int,
        vocabulary: int,
        slot: int,
        hidden: Sequence[int],
        decay: float = 0.99,
        commitment: float = 10.0,
        least_size: float = 0.1,
        squash: bool = False,
    ) -> None:
        super().__init__(obs_dims, tokens, vocabulary, slot, hidden, squash)
        self.decay, self.commitment, self.least_size = decay, commitment, least_size
        self.register_buffer("codes", torch.zeros(vocabulary, slot))
        self.register_buffer("sizes", torch.ones(vocabulary))
        self.register_buffer("sums", torch.zeros(vocabulary, slot))
        self.register_buffer("placed", torch.tensor(False))

    @torch.no_grad()
    def encode(self, obs: Obs) -> Tokens:
        """The nearest code of each slot."""
        return self._nearest(self.slots(obs))

    @property
    def table(self) -> Annotated[Tensor, "choice slot"]:
        """The codes."""
        return self.codes

    def learn(
        self, obs: Obs, counts: Annotated[Tensor, "*lead agent"], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Reconstruction and commitment; the codes move."""
        slots = self.slots(obs)
        flat = slots.detach()[counts].flatten(0, 1)
        if not bool(self.placed) and len(flat):
            self._place(flat, torch.ones_like(self.sizes, dtype=torch.bool), generator)
            self.placed.fill_(True)
        tokens = self._nearest(slots)
        codes = self.codes[tokens]
        commitment = (slots - codes).square().mean((-2, -1))
        straight = slots + (codes - slots).detach()
        weights = counts.to(obs.dtype) / counts.sum().clamp(min=1)
        losses = {
            "reconstruction": (self.error(self.squashed(obs), self.write(straight)) * weights).sum(),
            "commitment": self.commitment * (commitment * weights).sum(),
        }
        if len(flat):
            self._follow(flat, tokens[counts].flatten(), generator)
        return losses

    @torch.no_grad()
    def _nearest(self, slots: Annotated[Tensor, "*lead slot"]) -> Annotated[Tensor, "*lead"]:
        flat = slots.flatten(0, -2)
        # |z - e|^2 without |z|^2, which is alike for all codes.
        distances = torch.addmm(self.codes.square().sum(-1), flat, self.codes.T, alpha=-2.0)
        return distances.argmin(-1).view(slots.shape[:-1])

    @torch.no_grad()
    def _follow(
        self, slots: Annotated[Tensor, "place slot"], tokens: Annotated[Tensor, "place"], generator: torch.Generator
    ) -> None:
        counts = torch.zeros_like(self.sizes).index_add_(0, tokens, torch.ones_like(tokens, dtype=slots.dtype))
        sums = torch.zeros_like(self.sums).index_add_(0, tokens, slots)
        self.sizes.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        total = self.sizes.sum()
        smooth = (self.sizes + EPSILON) / (total + self.vocabulary * EPSILON) * total
        self.codes.copy_(self.sums / smooth.unsqueeze(-1))
        self._place(slots, self.sizes < self.least_size, generator)

    def _place(
        self, slots: Annotated[Tensor, "place slot"], dead: Annotated[Tensor, "code"], generator: torch.Generator
    ) -> None:
        """Put these codes (bool) where encoder outputs are, each drawn by itself, with the size of a code in use."""
        drawn = torch.randint(len(slots), (self.vocabulary,), generator=generator, device=generator.device)
        places = slots[drawn.to(slots.device)]
        self.codes.copy_(torch.where(dead.unsqueeze(-1), places, self.codes))
        self.sums.copy_(torch.where(dead.unsqueeze(-1), places, self.sums))
        self.sizes.masked_fill_(dead, 1.0)


class FiniteScalarQuantizer(AutoencodingTokenizer):
    """Tokens are points of a fixed lattice (Mentzer et al., 2023): each number of a slot is rounded to some levels.

    Nothing is learned but encoder and decoder, by the mean absolute error alone, rounding passed straight through.

    Args:
        obs_dims: True width of each agent's observation.
        tokens: K.
        levels: Of each number of a slot; their product is V.
        hidden: Widths of the hidden layers.
        squash: See `Tokenizer`.
    """

    levels: Tensor
    strides: Tensor

    def __init__(
        self,
        obs_dims: Sequence[int],
        tokens: int,
        levels: Sequence[int],
        hidden: Sequence[int],
        squash: bool = False,
    ) -> None:
        if not levels or min(levels) < 2:
            raise DataError(f"A lattice has two levels or more in every direction, not {list(levels)}.")
        counts = torch.tensor(list(levels))
        super().__init__(obs_dims, tokens, int(counts.prod()), len(levels), hidden, squash)
        self.register_buffer("levels", counts, persistent=False)
        strides = torch.cat([torch.ones(1, dtype=torch.int64), counts.cumprod(0)[:-1]])
        self.register_buffer("strides", strides, persistent=False)

    @torch.no_grad()
    def encode(self, obs: Obs) -> Tokens:
        """The nearest lattice point of each slot, as one number."""
        steps = (self._rounded(self.slots(obs)) + self._half).round().long()
        return (steps * self.strides).sum(-1)

    @property
    def table(self) -> Annotated[Tensor, "choice slot"]:
        """The points of the lattice, of numbers from -1 on."""
        tokens = torch.arange(self.vocabulary, device=self.levels.device).unsqueeze(-1)
        steps = tokens.div(self.strides, rounding_mode="floor") % self.levels
        return (steps - self._half) / self._half

    def learn(
        self, obs: Obs, counts: Annotated[Tensor, "*lead agent"], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Reconstruction alone."""
        rounded = self._rounded(self.slots(obs)) / self._half
        weights = counts.to(obs.dtype) / counts.sum().clamp(min=1)
        return {"reconstruction": (self.error(self.squashed(obs), self.write(rounded)) * weights).sum()}

    @property
    def _half(self) -> Tensor:
        return (self.levels / 2).floor()

    def _rounded(self, slots: Tensor) -> Tensor:
        """Whole numbers from -floor(L / 2) on, L of them; even L are shifted so that 0 is one of them."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        shift = torch.atanh(offset / half)
        bounded = torch.tanh(slots + shift) * half - offset
        return bounded + (bounded.round() - bounded).detach()


class BinTokenizer(Tokenizer):
    """Tokens are the bins of an observation's coordinates, of which each has its own range; nothing is learned.

    Args:
        obs_dims: True width of each agent's observation.
        vocabulary: Bins of each coordinate.
        low: Least value, `agent obs`, on the scale on which it is told; what lies beyond is in the outermost bin.
        high: Largest value.
        squash: See `Tokenizer`.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        obs_dims: Sequence[int],
        vocabulary: int,
        low: Annotated[Tensor, "agent obs"],
        high: Annotated[Tensor, "agent obs"],
        squash: bool = False,
    ) -> None:
        super().__init__(obs_dims, max(obs_dims), vocabulary, squash)
        self.register_buffer("low", low.clone())
        self.register_buffer("high", torch.maximum(high, low + EPSILON))

    @torch.no_grad()
    def encode(self, obs: Obs) -> Tokens:
        """The bin of each coordinate."""
        share = (self.squashed(obs) - self.low) / (self.high - self.low)
        # Before they are whole numbers, of which the huge wrap around.
        inside = (share * self.vocabulary).nan_to_num().clamp(0, self.vocabulary - 1)
        return inside.floor().long() * self.present

    def decode(self, tokens: Tokens) -> Obs:
        """The centre of each bin."""
        share = (tokens + 0.5) / self.vocabulary
        return self.stretched(torch.lerp(self.low, self.high, share.to(self.low.dtype))) * self.present

    def blend(self, odds: Annotated[Tensor, "*lead agent token choice"]) -> Obs:
        """The mean of the bins' centres."""
        shares = (torch.arange(self.vocabulary, device=odds.device) + 0.5) / self.vocabulary
        if not self.squash:
            return torch.lerp(self.low, self.high, odds @ shares) * self.present
        centres = self.stretched(torch.lerp(self.low.unsqueeze(-1), self.high.unsqueeze(-1), shares))
        return (odds * centres).sum(-1) * self.present

    def learn(
        self, obs: Obs, counts: Annotated[Tensor, "*lead agent"], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Nothing to learn."""
        return {}
