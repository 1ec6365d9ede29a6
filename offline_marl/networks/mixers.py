"""Mixers of per-agent values into a team value: a sum, or weights that depend on the joint state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

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

    def weights(self, x: Annotated[Tensor, "batch feature"]) -> Annotated[Tensor, "batch agent"]:
        """w_j(x) of the first copy: what the team's value gains where agent j's does by one."""
        if self.net is None:
            return x.new_ones(len(x), self.n_agents)
        return self._weigh(self.net, x, 1)[0][0]

    def _weigh(self, net: StackedMLP, x: Tensor, copies: int) -> tuple[Tensor, Tensor]:
        """Weights `copy batch agent` and biases `copy batch`."""
        out: Tensor = net(x.expand(copies, *x.shape))
        weights = out[..., : self.n_agents]
        return weights.abs() if self.kind == "monotonic" else weights, out[..., -1]
