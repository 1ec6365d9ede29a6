"""Policy networks, one per agent: squashed, clipped and deterministic continuous ones, and categorical ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from offline_marl.core.axes import Features
from offline_marl.networks.distributions import Categorical, ClippedNormal, TanhNormal, unpadded
from offline_marl.networks.ensembles import AgentMLP, StackedLinear

LOG_STD = (-6.0, 0.0)
WIDE_LOG_STD = (-5.0, 2.0)
"""Between which `soft_std` lays log-std."""


class AgentPolicy(nn.Module):
    """Base of policies: a network per agent, and a mask of the action entries that an agent really has.

    Args:
        in_features: Padded width of the features.
        hidden: Widths of the hidden layers.
        act_dims: True action width, or number of choices, of each agent.
        outputs: Numbers that the network makes for each action entry.
        fan_in: True feature width of each agent.
        shared: One set of weights for all agents.
        layer_norm: Normalise the hidden layers.
        activation: What follows each hidden layer.
    """

    present: Tensor

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        act_dims: Sequence[int],
        *,
        outputs: int = 1,
        fan_in: Sequence[int] | None = None,
        shared: bool = False,
        layer_norm: bool = False,
        activation: Literal["relu", "silu", "tanh"] = "relu",
    ) -> None:
        super().__init__()
        width = max(act_dims)
        self.net = AgentMLP(
            len(act_dims),
            in_features,
            hidden,
            outputs * width,
            shared=shared,
            fan_in=fan_in,
            layer_norm=layer_norm,
            activation=activation,
        )
        present = torch.arange(width) < torch.tensor(list(act_dims)).unsqueeze(-1)
        self.register_buffer("present", present, persistent=False)
        self.full = len(set(act_dims)) == 1
        """Whether no entry is padding."""

    @property
    def mask(self) -> Annotated[Tensor, "agent act"] | None:
        """`present`, or None where it says nothing."""
        return None if self.full else self.present


class Actor(AgentPolicy):
    """A stochastic policy per agent: pi_i(a_i | features_i).

    Continuous: tanh-squashed normal whose log-std depends on the input and is held in [-6, 0] (`bounded_log_std`), or
    lies in [-5, 2] by a tanh. Discrete: categorical over the allowed choices.

    Args:
        in_features: Padded width of the features.
        hidden: Widths of the hidden layers.
        act_dims: True action width, or number of choices, of each agent.
        discrete: Whether actions are indices.
        soft_std: Whether log-std is bounded by a tanh, as policies need whose entropy is to be kept.
        shape: The rest of `AgentPolicy`'s arguments.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        act_dims: Sequence[int],
        *,
        discrete: bool,
        soft_std: bool = False,
        **shape: Any,
    ) -> None:
        super().__init__(in_features, hidden, act_dims, outputs=1 if discrete else 2, **shape)
        self.discrete, self.soft_std = discrete, soft_std and not discrete

    def forward(
        self, features: Features, avail_actions: Annotated[Tensor, "*lead agent choice"] | None = None
    ) -> TanhNormal | Categorical:
        """The distribution of each agent's action."""
        out: Tensor = self.net(features).squeeze(0)  # of one copy; a row picked would cost a copy of its gradient
        if self.discrete:
            allowed = self.present.expand_as(out) if avail_actions is None else avail_actions & self.present
            return Categorical(out, allowed)
        mean, log_std = out.chunk(2, dim=-1)
        if self.soft_std:
            low, high = WIDE_LOG_STD
            return TanhNormal(mean, low + 0.5 * (high - low) * (torch.tanh(log_std) + 1), self.mask)
        return TanhNormal(mean, bounded_log_std(log_std), self.mask)


class GaussianActor(AgentPolicy):
    """A normal policy per agent, its draws clipped to [-1, 1].

    It begins with means near 0 whatever it reads: the last layer's weights are drawn ten times smaller, its biases
    are 0. Log-std is held in [-6, 0].

    Args:
        in_features: Padded width of the features.
        hidden: Widths of the hidden layers.
        act_dims: True action width of each agent.
        state_std: Whether log-std depends on the input; otherwise it is one number per action entry.
        shape: The rest of `AgentPolicy`'s arguments.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        act_dims: Sequence[int],
        *,
        state_std: bool = True,
        **shape: Any,
    ) -> None:
        super().__init__(in_features, hidden, act_dims, outputs=2 if state_std else 1, **shape)
        last = self.net.stack.layers[-1]
        assert isinstance(last, StackedLinear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()
        members = 1 if self.net.shared else len(act_dims)
        self.log_std = None if state_std else nn.Parameter(torch.full((members, max(act_dims)), -0.5))

    def forward(
        self, features: Features, avail_actions: Annotated[Tensor, "*lead agent choice"] | None = None
    ) -> ClippedNormal:
        """The distribution of each agent's action; `avail_actions` has nothing to say here."""
        out: Tensor = self.net(features).squeeze(0)
        mean, log_std = out.chunk(2, dim=-1) if self.log_std is None else (out, self.log_std.expand_as(out))
        return ClippedNormal(mean, bounded_log_std(log_std), self.mask)


class DeterministicActor(AgentPolicy):
    """A deterministic policy per agent: a_i = tanh(f_i(features_i))."""

    def forward(self, features: Features) -> Annotated[Tensor, "*lead agent act"]:
        """Actions in (-1, 1); zero on padding."""
        out: Tensor = self.net(features)
        return unpadded(torch.tanh(out.squeeze(0)), self.mask)


def bounded_log_std(log_std: Tensor) -> Tensor:
    """Clamped to `LOG_STD`; a slope that would bring a value outside back in still passes.

    Of a plain clamp none does: an entry that begins above it would stay at a deviation of 1 for good.
    """
    bounded: Tensor = _Bound.apply(log_std)  # type: ignore[no-untyped-call]
    return bounded


class _Bound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_std: Tensor) -> Tensor:
        bounded = log_std.clamp(*LOG_STD)
        ctx.save_for_backward(log_std - bounded)
        return bounded

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (excess,) = ctx.saved_tensors
        # A step goes down the slope, so one of the excess's own sign leads back in.
        return grad.masked_fill(excess * grad < 0, 0.0)
