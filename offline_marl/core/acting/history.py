"""History windows of past (obs, action) pairs, and the memory that a policy acts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from offline_marl.core.axes import PerAgent
from offline_marl.core.types import History, Memory, Obs, Policy, RememberingPolicy, Spec


def pairs(obs: Obs, actions: Tensor, spec: Spec) -> Tensor:
    """(obs, action) pairs as networks read them, `*lead agent step`; a discrete action is one-hot."""
    done = torch.nn.functional.one_hot(actions, spec.act_dim) if spec.discrete else actions
    return torch.cat([obs, done.to(obs.dtype)], dim=-1)


def push(history: History | None, obs: Obs, actions: Tensor, spec: Spec) -> History | None:
    """The history one step later: the oldest pair is dropped, this step's is appended; None stays None."""
    if history is None:
        return None
    return torch.cat([history[..., 1:, :], pairs(obs, actions, spec).unsqueeze(-2)], dim=-2)


def newest(history: History | None, window: int) -> History | None:
    """The last `window` pairs of a history that may be longer; None for a window of 0."""
    return None if history is None or not window else history[..., -window:, :]


def windows(
    before: Annotated[Tensor, "row agent window step"], steps: Annotated[Tensor, "row time agent step"]
) -> History:
    """The history of each step of segments, `[row, time, agent, window, step]`, from what came before the first.

    Args:
        before: The last pairs before the segments; zeros where there were none.
        steps: Pairs of the segments' own steps.
    """
    window, time = before.shape[2], steps.shape[1]
    whole = torch.cat([before.transpose(1, 2), steps], dim=1)
    return whole.unfold(1, window, 1)[:, :time].movedim(-1, -2)


class WindowMemory:
    """The memory of a policy that reads a history window: each agent's last `window` (obs, action) pairs.

    Args:
        spec: Widths of the pairs.
        window: Pairs that are kept; 0 for none.
        copies: Episodes side by side.
        device: Where the pairs lie.
        history: Pairs of the steps before, in episodes that are under way; without them zeros, as at every beginning.
    """

    def __init__(
        self, spec: Spec, window: int, copies: int, device: torch.device | str = "cpu", history: History | None = None
    ) -> None:
        self.spec = spec
        shape = (copies, spec.n_agents, window, spec.step_dim)
        begun = torch.zeros(shape, device=device) if history is None and window else history
        self.history: History | None = newest(begun, window)

    def read(self) -> Mapping[str, Any]:
        """The window, as `history`."""
        return {"history": self.history}

    def remember(self, obs: Obs, actions: Tensor, rewards: PerAgent) -> None:
        """Push the newest pair in and the oldest out."""
        self.history = push(self.history, obs, actions, self.spec)

    def state_dict(self) -> dict[str, Any]:
        """The window."""
        return {"history": self.history}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the episodes of a saved window."""
        if self.history is not None:
            self.history = state["history"].to(self.history.device)


def begin_memory(
    policy: Policy, spec: Spec, copies: int, device: torch.device | str = "cpu", history: History | None = None
) -> Memory:
    """The policy's own memory if it has a `begin`, else a window of `policy.window` pairs.

    Args:
        policy: Acts from the memory.
        spec: Widths of what the team sees and does.
        copies: Episodes side by side.
        device: Where the policy reads.
        history: Pairs of the steps before, in episodes that are under way, such as imagined continuations of data.
    """
    if isinstance(policy, RememberingPolicy):
        return policy.begin(copies, history)
    return WindowMemory(spec, policy.window, copies, device, history)
