"""Memory of policies with recurrent units: the state that they carry from step to step of an episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from offline_marl.core.acting.history import WindowMemory
from offline_marl.core.axes import PerAgent
from offline_marl.core.types import History, Obs

States = Annotated[Tensor, "copy agent width"]

Advance = Callable[[Obs, History | None, States], States]
"""The states after a step, of what was seen, the window before it and the states before it."""


@dataclass(slots=True)
class Carry:
    """States of recurrent units before a step; a policy leaves those after it here, so that no step is made twice."""

    states: States
    after: States | None = None
    obs: Obs | None = None
    """What `after` was made of."""


class CarriedMemory:
    """States of recurrent units beside a window of (obs, action) pairs.

    Args:
        window: The pairs, if the policy reads any.
        states: Before the first step.
        advance: The policy's recurrent units, one step on.
    """

    def __init__(self, window: WindowMemory, states: States, advance: Advance) -> None:
        self.window, self.advance = window, advance
        self.carry = Carry(states)

    def read(self) -> Mapping[str, Any]:
        """The window, as `history`, and the states, as `carry`."""
        return {**self.window.read(), "carry": self.carry}

    def remember(self, obs: Obs, actions: Tensor, rewards: PerAgent) -> None:
        """Carry the states over the step, and push its pair into the window."""
        after = self.carry.after
        if after is None or self.carry.obs is not obs:
            after = self.advance(obs, self.window.history, self.carry.states)
        self.window.remember(obs, actions, rewards)
        self.carry = Carry(after)

    def state_dict(self) -> dict[str, Any]:
        """States and window, which weights that have moved since would not make again."""
        return {"states": self.carry.states, "history": self.window.history}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the saved ones."""
        like = self.carry.states
        history = state["history"]
        self.carry = Carry(state["states"].to(like.device, like.dtype))
        self.window.history = None if history is None else history.to(like.device)
