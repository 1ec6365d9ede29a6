"""Transformers, several alike as one batched product a layer, with a cache for one step after another.

Pre-norm blocks as in GPT-2: x + attention(norm x), then x + MLP(norm x), a norm at the end. Members are independent
networks that read the same rows; weights are stacked `[member, in, out]`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from offline_marl.networks.ensembles import StackedLayerNorm, StackedLinear

Sequences = Annotated[Tensor, "member row time feature"]
Mask = Annotated[Tensor, "row time time"]
"""Bool, true where a place (second last axis) reads another (last axis)."""


@dataclass(slots=True)
class Cache:
    """Keys and values of the places that were read, in buffers as long as a sequence may grow.

    Args:
        keys: One tensor for each layer, `[member, row, head, place, feature]`.
        values: The same.
        length: Places that are filled.
    """

    keys: list[Tensor]
    values: list[Tensor]
    length: int = 0

    def select(self, rows: Annotated[Tensor, "kept"]) -> Cache:
        """The cache of these rows alone (int64), in this order."""
        keys, values = ([t.index_select(1, rows) for t in tensors] for tensors in (self.keys, self.values))
        return Cache(keys, values, self.length)

    def copy(self) -> Cache:
        """Another cache of the same content, which grows by itself."""
        return Cache([key.clone() for key in self.keys], [value.clone() for value in self.values], self.length)

    @property
    def numbers(self) -> int:
        """How many numbers it holds: 2 layers x members x rows x places x width."""
        return sum(tensor.numel() for tensor in (*self.keys, *self.values))


class StackedAttention(nn.Module):
    """Multi-head attention of queries to a context, which may be the queries' own sequence.

    Args:
        members: Independent networks.
        width: Features of queries, context and output.
        heads: They share the width.
        dropout: Of the attention weights, in training.
    """

    def __init__(self, members: int, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"A width of {width} cannot be shared by {heads} heads: make it a multiple of them.")
        self.heads, self.dropout = heads, dropout
        self.query = StackedLinear(members, width, width)
        self.key_value = StackedLinear(members, width, 2 * width)
        self.out = StackedLinear(members, width, width)

    def project(self, context: Sequences) -> tuple[Tensor, Tensor]:
        """Keys and values of a context, `[member, row, head, place, feature]`."""
        keys, values = linear(self.key_value, context).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(self, queries: Sequences, keys: Tensor, values: Tensor, mask: Mask | None = None) -> Sequences:
        """What each query reads.

        Args:
            queries: Already normalised.
            keys: From `project`.
            values: From `project`.
            mask: Which places a query reads; all unless said. One with a single row serves all rows.
        """
        asked = self._split(linear(self.query, queries))
        members, rows, _, places, _ = asked.shape
        wide = None if mask is None else mask.unsqueeze(-3).expand(rows, 1, *mask.shape[-2:]).repeat(members, 1, 1, 1)
        read = nn.functional.scaled_dot_product_attention(
            asked.flatten(0, 1),
            keys.flatten(0, 1),
            values.flatten(0, 1),
            attn_mask=wide,
            dropout_p=self.dropout if self.training else 0.0,
        )
        joined = read.transpose(1, 2).reshape(members, rows, places, queries.shape[-1])
        return linear(self.out, joined)

    def _split(self, x: Sequences) -> Tensor:
        return x.reshape(*x.shape[:-1], self.heads, x.shape[-1] // self.heads).transpose(2, 3)


class StackedBlock(nn.Module):
    """One layer of a transformer."""

    def __init__(self, members: int, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.before_attention = StackedLayerNorm(members, width)
        self.attention = StackedAttention(members, width, heads, dropout)
        self.before_mlp = StackedLayerNorm(members, width)
        self.widen = StackedLinear(members, width, 4 * width)
        self.narrow = StackedLinear(members, 4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Sequences, mask: Mask | None, cache: tuple[Tensor, Tensor, int] | None = None) -> Sequences:
        """The layer's output; with a cache (keys, values, filled places) new places are added to it and read it all."""
        normal = norm(self.before_attention, x)
        keys, values = self.attention.project(normal)
        if cache is not None:
            all_keys, all_values, filled = cache
            end = filled + keys.shape[3]
            all_keys[:, :, :, filled:end], all_values[:, :, :, filled:end] = keys, values
            keys, values = all_keys[:, :, :, :end], all_values[:, :, :, :end]
        read: Tensor = self.drop(self.attention(normal, keys, values, mask))
        x = x + read
        hidden = nn.functional.gelu(linear(self.widen, norm(self.before_mlp, x)))
        added: Tensor = self.drop(linear(self.narrow, hidden))
        return x + added


class StackedTransformer(nn.Module):
    """Causal transformers over sequences of features.

    Args:
        members: Independent networks.
        width: Features of a place.
        layers: Blocks.
        heads: Of each block.
        places: Longest sequence.
        dropout: Of attention weights and of what blocks add, in training.
    """

    def __init__(self, members: int, width: int, layers: int, heads: int, places: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.members, self.width, self.heads, self.places = members, width, heads, places
        self.positions = nn.Parameter(torch.randn(members, 1, places, width) * 0.02)
        self.blocks = nn.ModuleList(StackedBlock(members, width, heads, dropout) for _ in range(layers))
        self.last_norm = StackedLayerNorm(members, width)
        self.drop = nn.Dropout(dropout)
        _soften(self)

    def forward(self, x: Sequences, mask: Mask | None = None) -> Sequences:
        """Outputs of whole sequences that begin at the first place.

        Args:
            x: Features, without positions.
            mask: Which places a place reads, among those before it and itself; all of them unless said.
        """
        length = x.shape[2]
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        allowed = causal.unsqueeze(0) if mask is None else mask & causal
        x = self.drop(x + self.positions[:, :, :length])
        for block in self.blocks:
            x = block(x, allowed)
        return norm(self.last_norm, x)

    def cache(self, rows: int) -> Cache:
        """An empty cache for so many rows."""
        shape = (self.members, rows, self.heads, self.places, self.width // self.heads)
        keys, values = ([self.positions.new_zeros(shape) for _ in self.blocks] for _ in range(2))
        return Cache(keys, values)

    def extend(
        self,
        x: Sequences,
        cache: Cache,
        blank: Annotated[Tensor, "row"] | None = None,
        unread: Annotated[Tensor, "row"] | None = None,
    ) -> Sequences:
        """Outputs of the places that follow those in the cache, which takes them in.

        Args:
            x: Features, without positions.
            cache: What stands before; it grows.
            blank: How many places at each row's front hold nothing (int64): they are read by no other place, and the
                first position is that of the place behind them.
            unread: How many places at each row's front no other place reads, the blank ones among them; those alone
                unless said.

        Raises:
            ValueError: The sequences would be longer than the positions.
        """
        begin, new = cache.length, x.shape[2]
        end = begin + new
        if end > self.places:
            raise ValueError(f"{begin} places and {new} more do not fit into the {self.places} there are.")
        causal = torch.ones(new, end, dtype=torch.bool, device=x.device).tril(begin).unsqueeze(0)
        mask = None if new == 1 else causal
        if blank is None:
            x = x + self.positions[:, :, begin:end]
        else:
            place = torch.arange(end, device=x.device)
            own = place[begin:].unsqueeze(-1) == place
            read = place >= (blank if unread is None else unread).unsqueeze(-1)
            mask = causal & (read.unsqueeze(1) | own)
            x = x + self.positions[:, 0, (place[begin:] - blank.unsqueeze(-1)).clamp(min=0)]
        for number, block in enumerate(self.blocks):
            x = block(x, mask, (cache.keys[number], cache.values[number], begin))
        cache.length = end
        return norm(self.last_norm, x)


class StackedAggregator(nn.Module):
    """Summaries of a step for each agent, from the tokens of all agents: a Perceiver (Jaegle et al., 2021).

    A learned latent for each agent attends to all tokens, each marked by whose it is and by its place in the step, so
    that tokens are no unordered bag; blocks of self-attention among the latents follow.

    Args:
        members: Independent networks.
        n_agents: Latents, and owners of tokens.
        tokens: Of each agent in a step.
        width: Features.
        heads: Of the attention.
        depth: Blocks among the latents.
        dropout: As in the transformer.
    """

    def __init__(
        self, members: int, n_agents: int, tokens: int, width: int, heads: int, depth: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(members, 1, n_agents, width))
        self.owners = nn.Parameter(torch.randn(members, 1, n_agents, 1, width) * 0.02)
        self.slots = nn.Parameter(torch.randn(members, 1, 1, tokens, width) * 0.02)
        self.of_latents, self.of_tokens = StackedLayerNorm(members, width), StackedLayerNorm(members, width)
        self.attention = StackedAttention(members, width, heads, dropout)
        self.blocks = nn.ModuleList(StackedBlock(members, width, heads, dropout) for _ in range(depth))
        _soften(self)

    def forward(
        self,
        x: Annotated[Tensor, "member row agent token feature"],
        present: Annotated[Tensor, "row agent"] | None = None,
    ) -> Annotated[Tensor, "member row agent feature"]:
        """One summary for each agent.

        Args:
            x: Embeddings of all tokens of a step.
            present: Bool; tokens of absent agents are read by nobody. At least one agent of each row is there.
        """
        members, rows, n_agents, tokens, _ = x.shape
        marked = norm(self.of_tokens, (x + self.owners + self.slots).flatten(2, 3))
        latents = self.latents.expand(members, rows, -1, -1)
        token_mask = latent_mask = None
        if present is not None:
            token_mask = present.repeat_interleave(tokens, dim=-1).unsqueeze(1).expand(rows, n_agents, -1)
            latent_mask = present.unsqueeze(1) | torch.eye(n_agents, dtype=torch.bool, device=x.device)
        read: Tensor = self.attention(norm(self.of_latents, latents), *self.attention.project(marked), token_mask)
        out = latents + read
        for block in self.blocks:
            out = block(out, latent_mask)
        return out


def linear(layer: StackedLinear, x: Sequences) -> Sequences:
    """A stacked layer over sequences."""
    out: Tensor = layer(x.flatten(1, -2))
    return out.reshape(*x.shape[:-1], out.shape[-1])


def norm(layer: StackedLayerNorm, x: Sequences) -> Sequences:
    """A stacked normalisation over sequences."""
    out: Tensor = layer(x.flatten(1, -2))
    return out.reshape(*x.shape[:-1], out.shape[-1])


def _soften(module: nn.Module) -> None:
    """Weights normal with deviation .02, less for what is added many times over, and no biases, as GPT-2 begins."""
    depth = max(sum(isinstance(part, StackedBlock) for part in module.modules()), 1)
    for name, part in module.named_modules():
        if isinstance(part, StackedLinear):
            added = name.endswith(("out", "narrow"))
            nn.init.normal_(part.weight, std=0.02 / (math.sqrt(2 * depth) if added else 1.0))
            nn.init.zeros_(part.bias)
