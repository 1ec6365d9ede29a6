"""Values per agent: Q of an action, twice over, and V of a state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from offline_marl.core.axes import Features, PerAgent
from offline_marl.networks.ensembles import AgentMLP


class Critic(nn.Module):
    """Q of each agent, in independent copies.

    Continuous actions enter the network beside the features; discrete ones pick from its outputs.

    Args:
        in_features: Padded width of the features.
        hidden: Widths of the hidden layers.
        act_dims: True action width, or number of choices, of each agent.
        discrete: Whether actions are indices.
        copies: Independent networks; two for the twin rule.
        fan_in: True feature width of each agent.
        shared: One set of weights for all agents.
        layer_norm: Normalise the hidden layers.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        act_dims: Sequence[int],
        *,
        discrete: bool,
        copies: int = 2,
        fan_in: Sequence[int] | None = None,
        shared: bool = False,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.discrete = discrete
        width = max(act_dims)
        widths = list(fan_in) if fan_in is not None else [in_features] * len(act_dims)
        if not discrete:
            widths = [features + act for features, act in zip(widths, act_dims, strict=True)]
        self.net = AgentMLP(
            len(act_dims),
            in_features if discrete else in_features + width,
            hidden,
            width if discrete else 1,
            copies=copies,
            shared=shared,
            fan_in=widths,
            layer_norm=layer_norm,
        )

    def forward(self, features: Features, actions: Tensor) -> Annotated[Tensor, "copy *lead agent"]:
        """Q of the actions given, one row of values per copy."""
        if not self.discrete:
            values: Tensor = self.net(torch.cat([features, actions], dim=-1))
            return values.squeeze(-1)
        q: Tensor = self.net(features)
        return q.gather(-1, actions.expand(len(q), *actions.shape).unsqueeze(-1)).squeeze(-1)


class Value(nn.Module):
    """V of each agent.

    Args:
        n_agents: Number of agents.
        in_features: Padded width of the features.
        hidden: Widths of the hidden layers.
        fan_in: True feature width of each agent.
        shared: One set of weights for all agents.
        layer_norm: Normalise the hidden layers.
    """

    def __init__(
        self,
        n_agents: int,
        in_features: int,
        hidden: Sequence[int],
        *,
        fan_in: Sequence[int] | None = None,
        shared: bool = False,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.net = AgentMLP(n_agents, in_features, hidden, 1, shared=shared, fan_in=fan_in, layer_norm=layer_norm)

    def forward(self, features: Features) -> PerAgent:
        """V of each agent's features."""
        values: Tensor = self.net(features)
        return values[0].squeeze(-1)
