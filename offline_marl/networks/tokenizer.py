"""Tokenizers of vector observations: learned codes (VQ), a fixed lattice (FSQ), or bins of each coordinate.

`encode` turns an agent's standardised observation into K tokens of V choices, `decode` turns them back. All agents
share one vocabulary; where they differ in width or kind, networks read a one-hot of the agent as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from offline_marl.core.types import DataError

Obs = Annotated[Tensor, "*lead agent obs"]
Tokens = Annotated[Tensor, "*lead agent token"]

EPSILON = 1e-5
"""Smooths the sizes of codes, so that one that was hardly used is not divided by zero."""


class Tokenizer(nn.Module, ABC):
    """Observations of agents as tokens, and back.

    Args:
        obs_dims: True width of each agent's observation.
        tokens: K, tokens of an observation.
        vocabulary: V, choices of a token.
        squash: Whether numbers are told on the scale asinh x, fine about 0 and coarse far from it.
    """

    def __init__(self, obs_dims: Sequence[int], tokens: int, vocabulary: int, squash: bool = False) -> None:
        super().__init__()
        self.squash = squash
        self.obs_dims = tuple(obs_dims)
        self.n_agents, self.obs_dim = len(obs_dims), max(obs_dims)
        self.tokens, self.vocabulary = tokens, vocabulary
        widths = torch.tensor(list(obs_dims)).unsqueeze(-1)
        self.register_buffer("present", torch.arange(self.obs_dim) < widths, persistent=False)

    present: Tensor
    """Bool `agent obs`, false on padding."""

    @abstractmethod
    def encode(self, obs: Obs) -> Tokens:
        """Int64 tokens of observations; without gradient."""

    @abstractmethod
    def decode(self, tokens: Tokens) -> Obs:
        """Observations of tokens, zero on padding."""

    @abstractmethod
    def learn(
        self, obs: Obs, counts: Annotated[Tensor, "*lead agent"], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Losses by name, whose sum is descended; what learns without gradient steps here.

        Args:
            obs: A batch of observations.
            counts: Bool, whose observations count.
            generator: For what is drawn.
        """

    @abstractmethod
    def blend(self, odds: Annotated[Tensor, "*lead agent token choice"]) -> Obs:
        """What is decoded where each token is the mean of what its choices stand for."""

    @torch.no_grad()
    def describe(self, obs: Obs, counts: Annotated[Tensor, "*lead agent"]) -> dict[str, Any]:
        """How much observations lose, in plain numbers.

        Args:
            obs: Standardised observations.
            counts: Bool, whose observations count.

        Returns:
            Mean absolute errors by agent and coordinate; share of the vocabulary in use; share of tokens that stay
            what they are when they are decoded and encoded again.
        """
        tokens = self.encode(obs)
        back = self.decode(tokens)
        wrong: Tensor = ((obs - back).abs() * counts.unsqueeze(-1)).flatten(0, -3).sum(0)
        rows = counts.flatten(0, -2).sum(0).clamp(min=1).unsqueeze(-1)
        stays = (self.encode(back) == tokens)[counts].double()
        means: list[list[float]] = (wrong / rows).tolist()
        return {
            "error": float((self.error(obs, back) * counts).sum() / counts.sum().clamp(min=1)),
            "error_of_agents": [row[:width] for row, width in zip(means, self.obs_dims, strict=True)],
            "in_use": len(torch.unique(tokens[counts])) / self.vocabulary,
            "fixed_points": float(stays.mean()) if len(stays) else None,
        }

    def squashed(self, obs: Obs) -> Obs:
        """Numbers on the scale on which they are told."""
        return obs.asinh() if self.squash else obs

    def stretched(self, obs: Obs) -> Obs:
        """Numbers as they are, from the scale on which they are told."""
        return obs.sinh() if self.squash else obs

    def error(self, obs: Obs, reconstruction: Obs) -> Annotated[Tensor, "*lead agent"]:
        """Mean absolute difference over each agent's true coordinates."""
        wrong = (obs - reconstruction).abs() * self.present
        return wrong.sum(-1) / self.present.sum(-1).clamp(min=1)


class AutoencodingTokenizer(Tokenizer):
    """A tokenizer whose tokens are read from an encoder's slots and written by a decoder.

    Args:
        obs_dims: True width of each agent's observation.
        tokens: K.
        vocabulary: V.
        slot: Numbers of a slot.
        hidden: Widths of the hidden layers of encoder and decoder.
        squash: See `Tokenizer`.
    """

    def __init__(
        self,
        obs_dims: Sequence[int],
        tokens: int,
        vocabulary: int,
        slot: int,
        hidden: Sequence[int],
        squash: bool = False,
    ) -> None:
        super().__init__(obs_dims, tokens, vocabulary, squash)
        self.slot = slot
        self.encoder = _mlp(self.obs_dim + self.n_agents, hidden, tokens * slot)
        self.decoder = _mlp(tokens * slot + self.n_agents, hidden, self.obs_dim)
        self.register_buffer("identity", torch.eye(self.n_agents), persistent=False)

    identity: Tensor

    def slots(self, obs: Obs) -> Annotated[Tensor, "*lead agent token slot"]:
        """What the encoder writes into its slots."""
        written: Tensor = self.encoder(self._named(self.squashed(obs) * self.present))
        return written.reshape(*written.shape[:-1], self.tokens, self.slot)

    @property
    @abstractmethod
    def table(self) -> Annotated[Tensor, "choice slot"]:
        """What each token stands for in a slot."""

    def decode(self, tokens: Tokens) -> Obs:
        """What the decoder makes of tokens."""
        return self.stretched(self.write(self.table[tokens]))

    def blend(self, odds: Annotated[Tensor, "*lead agent token choice"]) -> Obs:
        """What the decoder makes of slots between those of tokens."""
        return self.stretched(self.write(odds @ self.table))

    def write(self, slots: Annotated[Tensor, "*lead agent token slot"]) -> Obs:
        """What the decoder makes of slots, on the scale on which it tells."""
        out: Tensor = self.decoder(self._named(slots.flatten(-2)))
        return out * self.present

    def _named(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.identity.expand(*x.shape[:-1], -1)], dim=-1)


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


def _mlp(in_features: int, hidden: Sequence[int], out_features: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(in_features, width), nn.GELU()]
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))
