"""Gated recurrent units of many members as one batched product a step: weights `[member, in, 3 * width]`.

Gates as `torch.nn.GRU` has them (Cho et al., 2014, the reset gate after the product).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from offline_marl.networks.ensembles import MemberRows, StackedLinear

MemberSteps = Annotated[Tensor, "member row time feature"]
MemberState = Annotated[Tensor, "member row width"]
StepMask = Annotated[Tensor, "*member row time"]
"""Bool per step, `[row, time]` for all members or `[member, row, time]`."""
CLOSED = 1e4
"""Added to the update gate's argument it leaves the state exactly as it was, for the sigmoid of it is 1."""


class StackedGRU(nn.Module):
    """Gated recurrent units, one per member.

    r, z = sigmoid(x W + b + h V + c), n = tanh(x W_n + b_n + r (h V_n + c_n)), h' = (1 - z) n + z h, the gates
    side by side in the order r, z, n. The products with the inputs of all steps are one.

    Args:
        members: Number of independent units.
        in_features: Padded input width.
        width: Width of the state.
        fan_in: True input width of each member; see `StackedLinear`.
    """

    def __init__(self, members: int, in_features: int, width: int, fan_in: Sequence[int] | None = None) -> None:
        super().__init__()
        self.width = width
        self.read = StackedLinear(members, in_features, 3 * width, fan_in)
        self.recall = StackedLinear(members, width, 3 * width)

    def forward(
        self,
        x: MemberSteps,
        state: MemberState | None = None,
        reset: StepMask | None = None,
        skip: StepMask | None = None,
    ) -> tuple[MemberSteps, MemberState]:
        """The states after each step, and the last of them.

        Args:
            x: What each step reads; of fewer rows of members, the first members serve.
            state: Before the first step; zeros if not given.
            reset: Steps before which the state is set to zero, as where an episode begins within a segment.
            skip: Steps that leave the state as it is, as those of an agent who is away; reset comes first.
        """
        states = list(self._states(x, state, reset, skip))
        return torch.stack(states, dim=2), states[-1]

    def last(
        self,
        x: MemberSteps,
        state: MemberState | None = None,
        reset: StepMask | None = None,
        skip: StepMask | None = None,
    ) -> MemberState:
        """The state after the last step alone; see `forward`."""
        return list(self._states(x, state, reset, skip))[-1]

    def step(self, x: MemberRows, state: MemberState | None = None) -> MemberState:
        """The state after one step from `state`, or from zeros."""
        return self._follow(self.read(x), self.begin(x) if state is None else state)

    def begin(self, x: Tensor) -> MemberState:
        """The state before the first step, zeros, for inputs `member row ...`."""
        return x.new_zeros(*x.shape[:2], self.width)

    def _states(
        self, x: MemberSteps, state: MemberState | None, reset: StepMask | None, skip: StepMask | None
    ) -> Iterator[MemberState]:
        members, rows, time, _ = x.shape
        # Time before rows, so that each step's rows lie together.
        read = self.read(x.transpose(1, 2).flatten(1, 2)).view(members, time, rows, -1)
        if skip is not None:
            update = torch.zeros(3 * self.width, device=x.device, dtype=x.dtype)
            update[self.width : 2 * self.width] = CLOSED
            read = read + skip.transpose(-1, -2).unsqueeze(-1) * update
        state = self.begin(x) if state is None else state
        for step, gates in enumerate(read.unbind(1)):
            if reset is not None:
                state = state.masked_fill(reset[..., step].unsqueeze(-1), 0.0)
            state = self._follow(gates, state)
            yield state

    def _follow(self, read: MemberRows, state: MemberState) -> MemberState:
        """The next state, from the input's share of the gates."""
        recalled = self.recall(state)
        both = 2 * self.width
        reset, update = torch.sigmoid(read[..., :both] + recalled[..., :both]).chunk(2, dim=-1)
        new = torch.tanh(torch.addcmul(read[..., both:], reset, recalled[..., both:]))
        return torch.lerp(new, state, update)
