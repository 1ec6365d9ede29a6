"""Mixers of per-agent values into a team value: a sum, weights that depend on the joint state, or QMIX's two layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from offline_marl.networks.ensembles import StackedMLP

MixerKind = Literal["unconstrained", "monotonic", "vdn"]


class Mixer(nn.Module):
    """Team value sum_j w_j(x) v_j + b(x), where x is the joint state, with the joint action for a Q.

    `unconstrained` is MAIQL's published mixer: weights of any sign. `monotonic` takes their absolute
    value, so that raising one agent's value never lowers the team's (the constraint of QMIX, Rashid
    et al., 2018, on one mixing layer). `vdn` is the plain sum (Sunehag et al., 2018) and has no
    parameters.

    Args:
        kind: Which of the three.
        n_agents: Number of values to mix.
        in_features: Width of x.
        hidden: Widths of the hidden layers.
        copies: Independent mixers, one for each copy of the values.
        activation: What follows each hidden layer.
    """

    def __init__(
        self,
        kind: MixerKind,
        n_agents: int,
        in_features: int,
        hidden: Sequence[int],
        copies: int = 1,
        activation: Literal["relu", "silu", "tanh"] = "relu",
    ) -> None:
        super().__init__()
        self.kind = kind
        self.n_agents = n_agents
        self.net = (
            None if kind == "vdn" else StackedMLP(copies, in_features, hidden, n_agents + 1, activation=activation)
        )

    def forward(
        self,
        values: Annotated[Tensor, "copy batch agent"],
        x: Annotated[Tensor, "batch feature"],
        present: Annotated[Tensor, "batch agent"] | None = None,
    ) -> Annotated[Tensor, "copy batch"]:
        """Mix each copy's values with its own weights; those of absent agents add nothing."""
        if present is not None:
            values = values * present
        if self.net is None:
            return values.sum(-1)
        weights, bias = self._weigh(self.net, x, len(values))
        return (weights * values).sum(-1) + bias

    def coefficients(
        self, x: Annotated[Tensor, "batch feature"]
    ) -> tuple[Annotated[Tensor, "batch agent"], Annotated[Tensor, "batch"]]:
        """w_j(x), what the team's value gains where agent j's does by one, and b(x); of the first copy."""
        if self.net is None:
            return x.new_ones(len(x), self.n_agents), x.new_zeros(len(x))
        weights, bias = self._weigh(self.net, x, 1)
        return weights[0], bias[0]

    def _weigh(self, net: StackedMLP, x: Tensor, copies: int) -> tuple[Tensor, Tensor]:
        """Weights `copy batch agent` and biases `copy batch`."""
        out: Tensor = net(x.expand(copies, *x.shape))
        weights, bias = torch.split(out, [self.n_agents, 1], dim=-1)
        return weights.abs() if self.kind == "monotonic" else weights, bias.squeeze(-1)


class MonotonicMixer(nn.Module):
    """QMIX's mixing network, Q_tot = |w_2(x)| . elu(|W_1(x)| q + b_1(x)) + b_2(x) (Rashid et al., 2018, section 4.2).

    Hypernetworks of the joint state x make weights and biases. Weights are taken by their absolute value, so that
    Q_tot never falls where one agent's value rises and each agent's best choice is part of the team's best.

    Args:
        n_agents: Number of values to mix.
        in_features: Width of x.
        width: Units of the mixing layer.
        hidden: Width of the hidden layer of each hypernetwork of weights; 0 leaves them linear.
    """

    def __init__(self, n_agents: int, in_features: int, width: int, hidden: int) -> None:
        super().__init__()
        self.n_agents, self.width = n_agents, width

        def hypernetwork(outputs: int) -> nn.Module:
            if not hidden:
                return nn.Linear(in_features, outputs)
            return nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

        self.first_weights, self.last_weights = hypernetwork(n_agents * width), hypernetwork(width)
        self.first_bias = nn.Linear(in_features, width)
        self.last_bias = nn.Sequential(nn.Linear(in_features, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(
        self,
        values: Annotated[Tensor, "*more *lead agent"],
        x: Annotated[Tensor, "*lead feature"],
        present: Annotated[Tensor, "*lead agent"] | None = None,
    ) -> Annotated[Tensor, "*more *lead"]:
        """Mix the values of each row; those of absent agents add nothing.

        Args:
            values: May have axes before those of x, such as draws of joint actions: each row's weights are made once.
            x: Joint state.
            present: Bool.
        """
        if present is not None:
            values = values * present
        first = self.first_weights(x).abs().unflatten(-1, (self.n_agents, self.width))
        mixed = torch.einsum("...a,...aw->...w", values, first) + self.first_bias(x)
        mixed = nn.functional.elu(mixed) * self.last_weights(x).abs()
        team: Tensor = mixed.sum(-1) + self.last_bias(x).squeeze(-1)
        return team
