"""Input features of agents' networks: embedded history, standardised observations, agent id.

The history encoder by attention is MOMA-PPO's (Barde et al., 2024): embedding, one self-attention head, then soft
attention over time. A GRU over the same pairs, and observations side by side, are the alternatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from offline_marl.core.acting.history import newest
from offline_marl.core.axes import Features
from offline_marl.core.types import DataError, History, Obs
from offline_marl.networks.ensembles import StackedLinear
from offline_marl.networks.recurrent import RecurrentEncoder

MemoryKind = Literal["none", "attention", "gru"]
"""What reads the past: nothing, `HistoryEncoder` or `RecurrentEncoder`."""


def refuse_gru_without_window(memory: MemoryKind, window: int) -> None:
    """Let nobody who asks for a GRU train without a past.

    Raises:
        ValueError: The memory is a GRU, over a window of 0.
    """
    if memory == "gru" and not window:
        raise ValueError(
            "history_encoder = gru reads the last `window` steps, which are none: give a window, such as 10"
        )


def sinusoids(length: int, width: int) -> Annotated[Tensor, "time feature"]:
    """Sinusoidal positions (Vaswani et al., 2017, section 3.5); even columns sine, odd columns cosine."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(length).unsqueeze(-1) * rates
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(angles)
    table[:, 1::2] = torch.cos(angles)[:, : width // 2]
    return table


class HistoryEncoder(nn.Module):
    """An encoder of each agent's last `window` (obs, action) pairs.

    x_t = f_t E + b + position_t; h = LayerNorm(x + softmax(q k' / sqrt(width)) v); the result is the
    sum of h_t weighted by softmax_t(tanh(h_t W) . u). Queries, keys and values are linear in x, and x
    is linear in the few numbers of a frame, so their products with E are taken once per update on the
    weights instead of once per frame: the same function for a fraction of the arithmetic.

    Args:
        members: One encoder per agent, or one for all.
        frame_features: Padded width of a pair.
        window: Number of pairs.
        width: Width of the embedding.
        fan_in: True width of each member's pair.
    """

    positions: Tensor
    clock: Tensor

    def __init__(
        self, members: int, frame_features: int, window: int, width: int = 128, fan_in: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.width = width
        self.embed = StackedLinear(members, frame_features, width, fan_in)
        self.query_key_value = StackedLinear(members, width, 3 * width)
        self.scale = nn.Parameter(torch.ones(members, 1, width))
        self.shift = nn.Parameter(torch.zeros(members, 1, width))
        self.score = StackedLinear(members, width, width)
        self.seeker = nn.Parameter((torch.rand(members, width, 1) * 2 - 1) / math.sqrt(width))
        self.register_buffer("positions", sinusoids(window, width), persistent=False)
        self.register_buffer("clock", torch.eye(window), persistent=False)

    def forward(self, frames: Annotated[Tensor, "member row window step"]) -> Annotated[Tensor, "member row feature"]:
        """The embedding of each row's window."""
        members, rows, window, _ = frames.shape
        clock = self.clock.expand(members, rows, window, window)
        marked = torch.cat([frames, clock], dim=-1)
        basis, query, key, value = self._folded()
        flat = marked.flatten(1, 2)
        asked = torch.bmm(flat, torch.bmm(query, key.transpose(1, 2)) / math.sqrt(self.width))
        pairs = marked.flatten(0, 1)
        weights = torch.softmax(torch.bmm(asked.view_as(pairs), pairs.transpose(1, 2)), dim=-1)
        heard = torch.bmm(weights, pairs).view_as(flat)
        mixed = torch.bmm(torch.cat([flat, heard], dim=-1), torch.cat([basis, value], dim=1))
        normal = nn.functional.layer_norm(mixed, (self.width,))
        scores = torch.bmm(torch.tanh(self._score(normal)), self.seeker).view(members * rows, 1, window)
        summed = torch.bmm(torch.softmax(scores, dim=-1), normal.view(members * rows, window, self.width))
        # The weights sum to 1, so scaling and shifting the sum is scaling and shifting each h_t.
        return torch.addcmul(self.shift, summed.view(members, rows, self.width), self.scale)

    def _score(self, normal: Tensor) -> Tensor:
        """W (scale * normal + shift) + b, the scale and shift taken on the weights."""
        weight, bias = self.score.weight, self.score.bias
        return torch.baddbmm(torch.baddbmm(bias, self.shift, weight), normal, self.scale.transpose(1, 2) * weight)

    def _folded(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Maps from a frame beside its one-hot time to x and to its query, key and value."""
        members = len(self.embed.weight)
        steps = self.positions.expand(members, -1, -1) + self.embed.bias
        basis = torch.cat([self.embed.weight, steps], dim=1)
        product = torch.bmm(basis, self.query_key_value.weight)
        frame_features = self.embed.weight.shape[1]
        timed = product[:, frame_features:] + self.query_key_value.bias
        query, key, value = torch.cat([product[:, :frame_features], timed], dim=1).chunk(3, dim=-1)
        return basis, query, key, value


def make_encoder(
    memory: MemoryKind,
    members: int,
    frame_features: int,
    window: int,
    width: int = 128,
    fan_in: Sequence[int] | None = None,
) -> HistoryEncoder | RecurrentEncoder | None:
    """The encoder of `window` (obs, action) pairs; None for a memory of none, and for a window of 0."""
    if memory == "none" or not window:
        return None
    if memory == "gru":
        return RecurrentEncoder(members, frame_features, width, fan_in)
    return HistoryEncoder(members, frame_features, window, width, fan_in)


class AgentInputs(nn.Module):
    """The features every network of an agent reads: [history embedding, past obs, obs, agent id].

    Args:
        obs_dims: True observation width of each agent.
        act_dims: True action width, or number of choices, of each agent.
        window: Past (obs, action) pairs to embed; 0 for none.
        shared: One encoder for all agents, who then also read a one-hot of their index.
        embedding: Width of the history embedding.
        memory: What embeds the pairs; `none` embeds none, whatever the window.
        frame_stack: Observations side by side, the present one among them.
    """

    mean: Tensor
    scale: Tensor
    identity: Tensor

    def __init__(
        self,
        obs_dims: Sequence[int],
        act_dims: Sequence[int],
        *,
        window: int = 0,
        shared: bool = False,
        embedding: int = 128,
        memory: MemoryKind = "attention",
        frame_stack: int = 1,
    ) -> None:
        super().__init__()
        n_agents, self.obs_dim = len(obs_dims), max(obs_dims)
        self.shared = shared
        pairs = [obs + act for obs, act in zip(obs_dims, act_dims, strict=True)]
        members, fan_in = (1, [max(pairs)]) if shared else (n_agents, pairs)
        self.encoder = make_encoder(memory, members, self.obs_dim + max(act_dims), window, embedding, fan_in)
        self.embedded = window if self.encoder is not None else 0
        """Pairs that the encoder reads."""
        self.stacked = frame_stack - 1
        """Past observations that are read as they are."""
        self.window = max(self.embedded, self.stacked)
        """Pairs that the history must hold."""
        extra = (embedding if self.embedded else 0) + (n_agents if shared else 0)
        self.width = self.obs_dim * frame_stack + extra
        """Padded width of the features."""
        self.fan_in = [dim * frame_stack + extra for dim in obs_dims]
        """True width of each agent's features."""
        self.register_buffer("mean", torch.zeros(n_agents, self.obs_dim))
        self.register_buffer("scale", torch.ones(n_agents, self.obs_dim))
        self.register_buffer("identity", torch.eye(n_agents), persistent=False)

    @property
    def reach(self) -> str:
        """The setting that decides how far the history goes back."""
        stacks = self.stacked > self.embedded
        return f"frame_stack of {self.stacked + 1}" if stacks else f"window of {self.window}"

    def standardize(self, mean: Annotated[Tensor, "agent obs"], std: Annotated[Tensor, "agent obs"]) -> None:
        """Subtract `mean` and divide by `std` from now on; both are saved with the parameters."""
        self.mean.copy_(mean)
        self.scale.copy_(std.clamp(min=1e-6).reciprocal())

    def forward(self, obs: Obs, history: History | None = None) -> Features:
        """Features of each agent; `history` is required where the window is not 0."""
        parts = [(obs - self.mean) * self.scale]
        if self.window:
            if history is None:
                raise DataError(
                    f"This team reads a history of {self.window} pairs, and none was given: `actor()` keeps it for you."
                )
            parts = [*self._past(history), *parts]
        if self.shared:
            parts.append(self.identity.expand(*obs.shape[:-1], -1))
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    def _past(self, history: History) -> list[Features]:
        """The embedding of the newest pairs, and observations before the present one, the oldest first."""
        seen, done = history[..., : self.obs_dim], history[..., self.obs_dim :]
        happened = history.ne(0).any(-1, keepdim=True)
        centred = (seen - self.mean.unsqueeze(1)) * self.scale.unsqueeze(1) * happened
        parts = []
        if self.encoder is not None:
            frames = newest(torch.cat([centred, done], dim=-1), self.embedded)
            assert frames is not None
            parts.append(self._embed(frames))
        if self.stacked:
            parts.append(centred[..., -self.stacked :, :].flatten(-2))
        return parts

    def _embed(self, frames: Annotated[Tensor, "*lead agent window step"]) -> Features:
        assert self.encoder is not None
        *lead, n_agents, window, step = frames.shape
        frames = frames.reshape(-1, n_agents, window, step)
        embedded: Tensor
        if self.shared:
            embedded = self.encoder(frames.flatten(0, 1).unsqueeze(0)).view(len(frames), n_agents, -1)
        else:
            embedded = self.encoder(frames.transpose(0, 1)).transpose(0, 1)
        return embedded.reshape(*lead, n_agents, -1)
