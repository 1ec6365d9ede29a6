"""Values of every choice of each agent along the steps of episodes: layers, with or without a recurrent unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from offline_marl.core.axes import Features
from offline_marl.networks.ensembles import MemberRows, StackedLayerNorm, StackedLinear
from offline_marl.networks.recurrent import StackedGRU

Steps = Annotated[Tensor, "row time agent feature"]
States = Annotated[Tensor, "*lead agent width"]
"""States of recurrent units; of width 0 where there are none."""


class ChoiceValues(nn.Module):
    """A number for each choice of each agent, from what it has seen since its episode began, or now alone.

    Linear layers with ReLU, of all widths but the last; a gated recurrent unit of the last width, or one layer more;
    a linear layer to the choices.

    Args:
        in_features: Padded width of the features.
        hidden: Widths of the hidden layers; the last one is the recurrent unit's.
        act_dims: Number of choices of each agent.
        recurrent: Whether there is a recurrent unit.
        fan_in: True feature width of each agent.
        shared: One set of weights for all agents.
        layer_norm: Normalise the hidden layers before the recurrent unit.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        act_dims: Sequence[int],
        *,
        recurrent: bool = True,
        fan_in: Sequence[int] | None = None,
        shared: bool = False,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.shared, self.n_agents = shared, len(act_dims)
        members = 1 if shared else self.n_agents
        widths = None if fan_in is None else [max(fan_in)] if shared else list(fan_in)
        layers: list[nn.Module] = []
        *before, last = hidden
        for width in before if recurrent else hidden:
            layers.append(StackedLinear(members, in_features, width, widths))
            if layer_norm:
                layers.append(StackedLayerNorm(members, width))
            layers.append(nn.ReLU(inplace=True))
            in_features, widths = width, None
        self.layers = nn.Sequential(*layers)
        self.unit = StackedGRU(members, in_features, last, widths) if recurrent else None
        self.head = StackedLinear(members, last, max(act_dims))

    @property
    def width(self) -> int:
        """Width of an agent's state."""
        return 0 if self.unit is None else self.unit.width

    def forward(
        self, features: Steps, reset: Annotated[Tensor, "row time"] | None = None
    ) -> tuple[Annotated[Tensor, "row time agent choice"], Annotated[Tensor, "row time agent width"]]:
        """Values at each step of segments, and the states after it.

        Args:
            features: Segments, whose first step begins with a state of zeros.
            reset: Bool: steps before which the state is zero again, as the first ones of episodes within a segment.
        """
        rows, time = features.shape[:2]
        if self.unit is None:
            return self.step(features, None)
        hidden = self._hidden(self._members(features))
        inputs = hidden.view(len(hidden), -1, time, hidden.shape[-1])
        if reset is not None and self.shared:
            reset = reset.unsqueeze(1).expand(-1, self.n_agents, -1).flatten(0, 1)
        states, _ = self.unit(inputs, None, reset)
        values = self.head(states.flatten(1, 2))
        return self._agents(values, rows, time), self._agents(states.flatten(1, 2), rows, time)

    def step(self, features: Features, states: States | None) -> tuple[Annotated[Tensor, "*lead agent choice"], States]:
        """Values of one step of each row, and the states after it.

        Args:
            features: `*lead agent feature`.
            states: Before the step; zeros if not given.
        """
        lead = features.shape[:-2]
        hidden = self._hidden(self._members(features.reshape(-1, 1, *features.shape[-2:])))
        if self.unit is not None:
            before = None if states is None else self._members(states.reshape(-1, 1, *states.shape[-2:]))
            hidden = self.unit.step(hidden, before)
        values = self._agents(self.head(hidden), -1, 1).reshape(*lead, self.n_agents, -1)
        if self.unit is None:
            return values, features.new_zeros(*lead, self.n_agents, 0)
        return values, self._agents(hidden, -1, 1).reshape(*lead, self.n_agents, self.width)

    def begin(self, copies: int, like: Tensor) -> States:
        """States of zeros, as before the first step, of so many episodes."""
        return torch.zeros(copies, self.n_agents, self.width, dtype=like.dtype, device=like.device)

    def _hidden(self, x: MemberRows) -> MemberRows:
        out: Tensor = self.layers(x)
        return out

    def _members(self, x: Steps) -> MemberRows:
        """Rows of each member, an agent's steps side by side."""
        if self.shared:
            return x.transpose(1, 2).reshape(1, -1, x.shape[-1])
        return x.permute(2, 0, 1, 3).flatten(1, 2)

    def _agents(self, x: MemberRows, rows: int, time: int) -> Steps:
        """`row time agent number` of what members made."""
        if self.shared:
            return x.view(rows, self.n_agents, time, x.shape[-1]).transpose(1, 2)
        return x.view(self.n_agents, rows, time, x.shape[-1]).permute(1, 2, 0, 3)


def one_hot(actions: Annotated[Tensor, "*lead"], choices: int, dtype: torch.dtype) -> Annotated[Tensor, "*lead choice"]:
    """Choices as vectors; nothing is read on the host, as torch's own function does on a CPU to look for wrong ones."""
    return (actions.unsqueeze(-1) == torch.arange(choices, device=actions.device)).to(dtype)
