"""Value networks, one per agent: twin critics Q(o, a) and state values V(o)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from offline_marl.core.axes import Features, PerAgent
from offline_marl.networks.ensembles import AgentMLP

WIDE = 128
"""Columns that many actions share from which on their product is taken once; fewer are cheaper to repeat."""


class Critic(nn.Module):
    """Action values Q_i of each agent, in independent copies.

    Continuous actions enter the network beside the features; discrete ones pick from its outputs. A
    centralised critic (continuous only) of agent i reads the features of agents i, i+1, ... in
    turn, then the others' actions in that order and its own, so that one set of weights can serve all agents.

    Args:
        in_features: Padded width of the features.
        hidden: Widths of the hidden layers.
        act_dims: True action width, or number of choices, of each agent.
        discrete: Whether actions are indices.
        copies: Independent networks; two for the twin rule.
        centralised: Whether each agent's critic reads all agents.
        fan_in: True feature width of each agent.
        shared: One set of weights for all agents.
        layer_norm: Normalise the hidden layers.
    """

    turns: Tensor

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        act_dims: Sequence[int],
        *,
        discrete: bool,
        copies: int = 2,
        centralised: bool = False,
        fan_in: Sequence[int] | None = None,
        shared: bool = False,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.discrete, self.centralised, self.choices = discrete, centralised and not discrete, max(act_dims)
        n_agents = len(act_dims)
        agents = torch.arange(n_agents)
        self.register_buffer("turns", (agents.unsqueeze(-1) + agents) % n_agents, persistent=False)
        features = list(fan_in) if fan_in is not None else [in_features] * n_agents
        width = in_features + (0 if discrete else self.choices)
        true_widths = [feature + (0 if discrete else act) for feature, act in zip(features, act_dims, strict=True)]
        if self.centralised:
            width, true_widths = n_agents * width, [sum(true_widths)] * n_agents
        self.net = AgentMLP(
            n_agents,
            width,
            hidden,
            self.choices if discrete else 1,
            copies=copies,
            shared=shared,
            fan_in=true_widths,
            layer_norm=layer_norm,
        )

    def forward(
        self, features: Features, actions: Tensor, own_actions: Tensor | None = None, copies: int | None = None
    ) -> Annotated[Tensor, "copy *lead agent"]:
        """Q of the actions given.

        Args:
            features: `*lead agent feature`.
            actions: What all agents do, `*lead agent act` or int64 `*lead agent`.
            own_actions: What each agent does instead, its critic still reading the others' `actions`; may have
                further axes in front, as may `actions`.
            copies: Only the first so many copies.
        """
        mine = actions if own_actions is None else own_actions
        if self.discrete:
            q = self.each_choice(features)[:copies]
            return q.gather(-1, mine.expand(len(q), *mine.shape).unsqueeze(-1)).squeeze(-1)
        # The first layer's product is linear in its columns: what all `own_actions` of a row share (`same`) is
        # multiplied once, and what varies among them is added (`AgentMLP` takes the two apart). Columns lie as in the
        # weights: features of agents i, i+1, ..., the others' actions in that order, its own action last.
        same, varied = [features], [mine]
        if self.centralised:
            same = [features[..., self.turns, :].flatten(-2)]
            others = actions[..., self.turns[:, 1:], :].flatten(-2)
            if others.dim() == features.dim():
                same.append(others)
            else:  # joint draws: the others' actions vary, too
                varied.insert(0, others)
        many = mine.dim() > features.dim()
        if many and sum(part.shape[-1] for part in same) >= WIDE:
            values: Tensor = self.net(torch.cat(same, dim=-1), torch.cat(varied, dim=-1), copies, many)
        else:
            lead = mine.shape[:-1]
            columns = [part.expand(*lead, part.shape[-1]) for part in (*same, *varied)]
            values = self.net(torch.cat(columns, dim=-1), copies=copies, many=many)
        return values.squeeze(-1)

    def each_choice(self, features: Features) -> Annotated[Tensor, "copy *lead agent choice"]:
        """Q of every choice of each agent; for discrete actions."""
        q: Tensor = self.net(features)
        return q


class JointCritic(nn.Module):
    """Action values Q_i(o_1 ... o_n, a_1 ... a_n) of each agent, actions being vectors; choices ride one-hot.

    Agent i's network reads the features and action of agents i, i+1, ... in turn, so that one set of weights can serve
    all agents, and a part of the agents can be asked by their rows of weights alone.

    Args:
        in_features: Padded width of the features.
        hidden: Widths of the hidden layers.
        act_dims: True action width, or number of choices, of each agent.
        alone: Agents whose network reads zeros for all others; the weights there begin, and stay, without effect.
        outputs: Numbers that each network answers, such as one for each choice of its agent; None for one without an
            axis of its own.
        copies: Independent networks.
        fan_in: True feature width of each agent.
        shared: One set of weights for all agents.
        layer_norm: Normalise the hidden layers.
    """

    turns: Tensor
    heard: Tensor

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        act_dims: Sequence[int],
        *,
        alone: Sequence[bool] = (),
        outputs: int | None = None,
        copies: int = 1,
        fan_in: Sequence[int] | None = None,
        shared: bool = False,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        n_agents = len(act_dims)
        agents = torch.arange(n_agents)
        heard = ~torch.tensor(list(alone) or [False] * n_agents).unsqueeze(-1).repeat(1, n_agents)
        heard[:, 0] = True
        self.register_buffer("turns", (agents.unsqueeze(-1) + agents) % n_agents, persistent=False)
        self.register_buffer("heard", heard.unsqueeze(-1), persistent=False)
        self.all_heard, self.several = bool(heard.all()), outputs is not None
        features = list(fan_in) if fan_in is not None else [in_features] * n_agents
        own = [feature + act for feature, act in zip(features, act_dims, strict=True)]
        read = [width if single else sum(own) for width, single in zip(own, alone or [False] * n_agents, strict=True)]
        width = n_agents * (in_features + max(act_dims))
        self.net = AgentMLP(
            n_agents, width, hidden, outputs or 1, copies=copies, shared=shared, fan_in=read, layer_norm=layer_norm
        )

    def forward(
        self, features: Features, actions: Tensor, own_features: Tensor | None = None, own_actions: Tensor | None = None
    ) -> Annotated[Tensor, "copy *lead agent"]:
        """Q of the joint actions, of the agents whose weights these are; with a last axis for several outputs.

        Args:
            features: Of all agents, `*lead agent feature`.
            actions: Of all agents, `*lead agent act`.
            own_features: What each agent asked reads of itself instead, such as what gradients pass through.
            own_actions: What each agent asked does instead, its critic still reading the others' `actions`.
        """
        lay_out = self._lone if len(self.turns) == 1 < self.turns.shape[1] else self._gathered
        columns = lay_out(features, actions, own_features, own_actions)
        if not self.all_heard:
            columns = columns * self.heard
        values: Tensor = self.net(columns.flatten(-2))
        return values if self.several else values.squeeze(-1)

    def _gathered(
        self, features: Features, actions: Tensor, own_features: Tensor | None, own_actions: Tensor | None
    ) -> Annotated[Tensor, "*lead agent other number"]:
        seen, done = features[..., self.turns, :], actions[..., self.turns, :]
        if own_features is not None:
            seen = torch.cat([own_features.unsqueeze(-2), seen[..., 1:, :]], dim=-2)
        if own_actions is not None:
            done = torch.cat([own_actions.unsqueeze(-2), done[..., 1:, :]], dim=-2)
        return torch.cat([seen, done], dim=-1)

    def _lone(
        self, features: Features, actions: Tensor, own_features: Tensor | None, own_actions: Tensor | None
    ) -> Annotated[Tensor, "*lead 1 other number"]:
        """What `_gathered` gives for one agent, whose turns are the team cut in two: two passes instead of five."""
        at = int(self.turns[0, 0])
        seen = features[..., at : at + 1, :] if own_features is None else own_features
        done = actions[..., at : at + 1, :] if own_actions is None else own_actions
        team = torch.cat([features, actions], dim=-1)
        own = torch.cat([seen, done], dim=-1)
        return torch.cat([own, team[..., at + 1 :, :], team[..., :at, :]], dim=-2).unsqueeze(-3)


class Value(nn.Module):
    """State values V_i of each agent.

    Args:
        n_agents: Number of agents.
        in_features: Padded width of the features.
        hidden: Widths of the hidden layers.
        fan_in: True feature width of each agent.
        shared: One set of weights for all agents.
        layer_norm: Normalise the hidden layers.
        activation: What follows each hidden layer.
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
        activation: Literal["relu", "silu", "tanh"] = "relu",
    ) -> None:
        super().__init__()
        self.net = AgentMLP(
            n_agents,
            in_features,
            hidden,
            1,
            shared=shared,
            fan_in=fan_in,
            layer_norm=layer_norm,
            activation=activation,
        )

    def forward(self, features: Features) -> PerAgent:
        """V of each agent's features."""
        values: Tensor = self.net(features)
        return values.squeeze(0).squeeze(-1)
