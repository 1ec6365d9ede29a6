"""A policy per agent, continuous or discrete, behind one interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from offline_marl.core.axes import Features
from offline_marl.networks.distributions import Categorical, TanhNormal
from offline_marl.networks.ensembles import AgentMLP

LOG_STD = (-6.0, 0.0)


class Actor(nn.Module):
    """Each agent's action distribution given its own features.

    Continuous: tanh-squashed normal whose log-std depends on the input and is clamped to [-6, 0].
    Discrete: categorical over the allowed choices.

    Args:
        in_features: Padded width of the features.
        hidden: Widths of the hidden layers.
        act_dims: True action width, or number of choices, of each agent.
        discrete: Whether actions are indices.
        fan_in: True feature width of each agent.
        shared: One set of weights for all agents.
        layer_norm: Normalise the hidden layers.
    """

    present: Tensor

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        act_dims: Sequence[int],
        *,
        discrete: bool,
        fan_in: Sequence[int] | None = None,
        shared: bool = False,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.discrete = discrete
        width = max(act_dims)
        outputs = width if discrete else 2 * width
        self.net = AgentMLP(
            len(act_dims), in_features, hidden, outputs, shared=shared, fan_in=fan_in, layer_norm=layer_norm
        )
        present = torch.arange(width) < torch.tensor(list(act_dims)).unsqueeze(-1)
        self.register_buffer("present", present, persistent=False)

    def forward(
        self, features: Features, avail_actions: Annotated[Tensor, "*lead agent choice"] | None = None
    ) -> TanhNormal | Categorical:
        """The distribution of each agent's action."""
        out = self.net(features)[0]
        if self.discrete:
            allowed = self.present.expand_as(out) if avail_actions is None else avail_actions & self.present
            return Categorical(out, allowed)
        mean, log_std = out.chunk(2, dim=-1)
        return TanhNormal(mean, log_std.clamp(*LOG_STD), self.present)


class DeterministicActor(nn.Module):
    """Each agent's action given its own features: tanh of a network's output.

    Args:
        in_features: Padded width of the features.
        hidden: Widths of the hidden layers.
        act_dims: True action width of each agent.
        fan_in: True feature width of each agent.
        shared: One set of weights for all agents.
        layer_norm: Normalise the hidden layers.
    """

    present: Tensor

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        act_dims: Sequence[int],
        *,
        fan_in: Sequence[int] | None = None,
        shared: bool = False,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        width = max(act_dims)
        self.net = AgentMLP(
            len(act_dims), in_features, hidden, width, shared=shared, fan_in=fan_in, layer_norm=layer_norm
        )
        present = torch.arange(width) < torch.tensor(list(act_dims)).unsqueeze(-1)
        self.register_buffer("present", present, persistent=False)

    def forward(self, features: Features) -> Annotated[Tensor, "*lead agent act"]:
        """Actions in (-1, 1); zero on padding."""
        out: Tensor = self.net(features)
        return torch.tanh(out[0]) * self.present
