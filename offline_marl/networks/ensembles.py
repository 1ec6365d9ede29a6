"""Stacks of alike networks as one batched product a layer: weights `[member, in, out]`.

Agents, twin critics and ensemble members are members of one module, never a Python loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from offline_marl.networks import blocks

MemberRows = Annotated[Tensor, "member row feature"]
SMOOTH: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "tanh": nn.Tanh}
"""Activations that cannot work in place."""


class StackedLinear(nn.Module):
    """Linear layers, one per member, applied as one batched product.

    Args:
        members: Number of independent layers.
        in_features: Padded input width.
        out_features: Output width.
        fan_in: True input width of each member; decides the spread of the initial weights, which is
            uniform in +-1/sqrt(fan_in) as in `nn.Linear`. Padded inputs are zero, so their weights
            never matter.
    """

    def __init__(self, members: int, in_features: int, out_features: int, fan_in: Sequence[int] | None = None) -> None:
        super().__init__()
        widths = torch.tensor([in_features] * members if fan_in is None else list(fan_in), dtype=torch.float32)
        bound = widths.clamp(min=1).rsqrt().view(members, 1, 1)
        self.weight = nn.Parameter((torch.rand(members, in_features, out_features) * 2 - 1) * bound)
        self.bias = nn.Parameter((torch.rand(members, 1, out_features) * 2 - 1) * bound)

    def forward(self, x: MemberRows) -> MemberRows:
        """Map `member row in` to `member row out`; of fewer rows of members, the first members serve."""
        if len(x) == len(self.weight):  # a slice costs a copy of all gradients
            return torch.baddbmm(self.bias, x, self.weight)
        return torch.baddbmm(self.bias[: len(x)], x, self.weight[: len(x)])

    def beside(self, x: MemberRows, extra: Annotated[Tensor, "member more*row extra"]) -> MemberRows:
        """As if each of several blocks of `extra` columns stood beside `x`, whose product is taken only once."""
        count, rows, width = x.shape
        same = torch.baddbmm(self.bias[:count], x, self.weight[:count, :width])
        varied = torch.bmm(extra, self.weight[:count, width:])
        return varied.view(count, -1, rows, varied.shape[-1]).add_(same.unsqueeze(1)).view_as(varied)


class StackedLayerNorm(nn.Module):
    """Layer normalisation with a scale and a shift per member (Ba et al., 2016)."""

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(members, 1, features))
        self.shift = nn.Parameter(torch.zeros(members, 1, features))

    def forward(self, x: MemberRows) -> MemberRows:
        """Normalise over the last axis, then scale and shift."""
        normal = nn.functional.layer_norm(x, x.shape[-1:])
        count = len(x)
        return torch.addcmul(self.shift[:count], normal, self.scale[:count])


class StackedMLP(nn.Module):
    """Multi-layer perceptrons, one per member.

    Args:
        members: Number of independent networks.
        in_features: Padded input width.
        hidden: Widths of the hidden layers.
        out_features: Output width.
        fan_in: True input width of each member.
        layer_norm: Normalise each hidden layer before its activation.
        activation: What follows each hidden layer.
    """

    def __init__(
        self,
        members: int,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        fan_in: Sequence[int] | None = None,
        layer_norm: bool = False,
        activation: Literal["relu", "silu", "tanh"] = "relu",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width, true_width = in_features, fan_in
        for features in hidden:
            layers.append(StackedLinear(members, width, features, true_width))
            if layer_norm:
                layers.append(StackedLayerNorm(members, features))
            layers.append(nn.ReLU(inplace=True) if activation == "relu" else SMOOTH[activation]())
            width, true_width = features, None
        layers.append(StackedLinear(members, width, out_features, true_width))
        self.layers = nn.Sequential(*layers)
        self.activation = activation

    def forward(
        self, x: MemberRows, extra: Annotated[Tensor, "member more*row extra"] | None = None, many: bool = False
    ) -> MemberRows:
        """Map `member row in` to `member row out`.

        Args:
            x: The input of the first members, all of them or fewer.
            extra: Its last columns, if they come in several blocks for the same rows of `x`.
            many: Whether there are so many rows that they may go block by block, with sums in another order.
        """
        if many and blocks.pays(x, (x if extra is None else extra).shape[1]):
            return blocks.run(self.parameters_by_layer(), self.activation, x, extra)
        first, *others = self.layers
        assert isinstance(first, StackedLinear)
        out: Tensor = first(x) if extra is None else first.beside(x, extra)
        for layer in others:
            out = layer(out)
        return out

    def parameters_by_layer(self) -> list[blocks.Layer]:
        """Weights and biases of each layer, with what follows them in its normalisation."""
        layers: list[blocks.Layer] = []
        for layer in self.layers:
            if isinstance(layer, StackedLinear):
                layers.append(blocks.Layer(layer.weight, layer.bias))
            elif isinstance(layer, StackedLayerNorm):
                layers[-1].scale, layers[-1].shift = layer.scale, layer.shift
        return layers


class AgentMLP(nn.Module):
    """A network per agent, or one that all agents share, in several independent copies.

    Args:
        n_agents: Number of agents.
        in_features: Padded input width.
        hidden: Widths of the hidden layers.
        out_features: Output width.
        copies: Independent repetitions (2 for twin critics).
        shared: One set of weights for all agents.
        fan_in: True input width of each agent.
        layer_norm: Normalise the hidden layers.
        activation: What follows each hidden layer.
    """

    def __init__(
        self,
        n_agents: int,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        copies: int = 1,
        shared: bool = False,
        fan_in: Sequence[int] | None = None,
        layer_norm: bool = False,
        activation: Literal["relu", "silu", "tanh"] = "relu",
    ) -> None:
        super().__init__()
        self.copies = copies
        self.shared = shared
        widths = None if fan_in is None else [max(fan_in)] * copies if shared else list(fan_in) * copies
        members = copies if shared else copies * n_agents
        self.stack = StackedMLP(members, in_features, hidden, out_features, widths, layer_norm, activation)

    def forward(
        self,
        x: Annotated[Tensor, "*lead agent feature"],
        extra: Annotated[Tensor, "*more *lead agent extra"] | None = None,
        copies: int | None = None,
        many: bool = False,
    ) -> Annotated[Tensor, "copy *more *lead agent out"]:
        """Map `*lead agent in` to `copy *lead agent out`.

        Args:
            x: The input, or its first columns.
            extra: Its last columns, with further axes in front: what `x` adds to the first layer is
                computed once for all of them.
            copies: Only the first so many copies.
            many: Whether rows may go block by block, as many draws for each row of data do.
        """
        count = self.copies if copies is None else copies
        lead = x.shape[:-2] if extra is None else extra.shape[:-2]
        out: Tensor = self.stack(self._members(x, count), None if extra is None else self._members(extra, count), many)
        if self.shared:
            return out.view(count, *lead, x.shape[-2], -1)
        n_agents = x.shape[-2]
        return out.view(count, n_agents, -1, out.shape[-1]).transpose(1, 2).view(count, *lead, n_agents, -1)

    def _members(self, x: Annotated[Tensor, "*lead agent feature"], copies: int) -> MemberRows:
        if self.shared:
            return x.reshape(1, -1, x.shape[-1]).expand(copies, -1, -1)
        members = x.reshape(-1, *x.shape[-2:]).transpose(0, 1)
        if copies > 1:
            members = members.expand(copies, -1, -1, -1).reshape(-1, *members.shape[1:])
        return members
