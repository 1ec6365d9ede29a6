"""Tokenizers of vector observations: what they have in common, and what those with an encoder and a decoder have.

`encode` turns an agent's standardised observation into K tokens of V choices, `decode` turns them back. All agents
share one vocabulary; where they differ in width or kind, networks read a one-hot of the agent as well. The kinds are
in quantizers.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

Obs = Annotated[Tensor, "*lead agent obs"]
Tokens = Annotated[Tensor, "*lead agent token"]


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


def _mlp(in_features: int, hidden: Sequence[int], out_features: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(in_features, width), nn.GELU()]
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))
