"""Gated recurrent units of many members as batched products over members: weights `[member, in, 3 * width]`.

Gates as `torch.nn.GRU` has them (Cho et al., 2014, the reset gate after the product).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from offline_marl.networks.ensembles import MemberRows, StackedLinear

MemberSteps = Annotated[Tensor, "member row time feature"]
MemberState = Annotated[Tensor, "member row width"]
StepMask = Annotated[Tensor, "*member row time"]
"""Bool per step, `[row, time]` for all members or `[member, row, time]`."""
CLOSED = 1e4
"""Added to the update gate's argument it leaves the state exactly as it was, for the sigmoid of it is 1."""


class _Gates(NamedTuple):
    """Tensors of the reset gate, of the update gate and of the new state."""

    reset: Tensor
    update: Tensor
    new: Tensor


class StackedGRU(nn.Module):
    """Gated recurrent units, one per member.

    r = sigmoid(x W_r + b_r + h V_r + c_r), z likewise, n = tanh(x W_n + b_n + r (h V_n + c_n)) and
    h' = (1 - z) n + z h, the columns of W, b, V and c in the order r, z, n. The inputs of all steps meet each gate's
    weights in one product; a product of its own for each gate spares copies of parts of wider ones.

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
        weights, bias = self._recalling(len(x))
        return self._follow(self._shares(x), state, weights, bias)

    def begin(self, x: Tensor) -> MemberState:
        """The state before the first step, zeros, for inputs `member row ...`."""
        return x.new_zeros(*x.shape[:2], self.width)

    def _states(
        self, x: MemberSteps, state: MemberState | None, reset: StepMask | None, skip: StepMask | None
    ) -> Iterator[MemberState]:
        members, rows, time, _ = x.shape
        # Time before rows, so that each step's rows lie together.
        shares = self._shares(x.transpose(1, 2).flatten(1, 2))
        shares = _Gates(*(share.view(members, time, rows, self.width) for share in shares))
        if skip is not None:
            shares.update.add_(skip.transpose(-1, -2).unsqueeze(-1), alpha=CLOSED)
        weights, bias = self._recalling(members)
        for step, share in enumerate(zip(*(share.unbind(1) for share in shares), strict=True)):
            if reset is not None and state is not None:
                state = state.masked_fill(reset[..., step].unsqueeze(-1), 0.0)
            state = self._follow(_Gates(*share), state, weights, bias)
            yield state

    def _shares(self, x: MemberRows) -> _Gates:
        """What inputs add to the argument of each gate; of r and z with both biases."""
        count, outside = len(x), self.recall.bias[..., : 2 * self.width]
        biases = self.read.bias + nn.functional.pad(outside, (0, self.width))
        pairs = zip(_parted(biases[:count]), _parted(self.read.weight[:count]), strict=True)
        return _Gates(*(torch.baddbmm(bias, x, weight) for bias, weight in pairs))

    def _recalling(self, count: int) -> tuple[_Gates, Tensor]:
        """Weights of the first members' states, and the bias of what the reset gate lets through."""
        return _parted(self.recall.weight[:count]), self.recall.bias[:count, :, 2 * self.width :]

    def _follow(self, share: _Gates, state: MemberState | None, weights: _Gates, bias: Tensor) -> MemberState:
        """The next state."""
        if state is None:  # zeros, whose products need not be taken
            reset, update = torch.sigmoid(share.reset), torch.sigmoid(share.update)
            new = torch.tanh(torch.addcmul(share.new, reset, bias))
            return torch.lerp(new, torch.zeros_like(new), update)
        reset = torch.sigmoid(torch.baddbmm(share.reset, state, weights.reset))
        update = torch.sigmoid(torch.baddbmm(share.update, state, weights.update))
        new = torch.tanh(torch.addcmul(share.new, reset, torch.baddbmm(bias, state, weights.new)))
        return torch.lerp(new, state, update)


class RecurrentEncoder(nn.Module):
    """An encoder of each agent's last `window` (obs, action) pairs: a GRU's state after them, from zeros before.

    Pairs of zeros, as before an episode begins, are no steps: they leave the state as it is.

    Args:
        members: One encoder per agent, or one for all.
        frame_features: Padded width of a pair.
        width: Width of the state.
        fan_in: True width of each member's pair.
    """

    def __init__(
        self, members: int, frame_features: int, width: int = 128, fan_in: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.gru = StackedGRU(members, frame_features, width, fan_in)

    def forward(self, frames: Annotated[Tensor, "member row window step"]) -> Annotated[Tensor, "member row feature"]:
        """The state after each row's window."""
        return self.gru.last(frames, skip=frames.eq(0).all(-1))


def _parted(columns: Tensor) -> _Gates:
    return _Gates(*columns.chunk(3, dim=-1))
