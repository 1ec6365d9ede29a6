"""Base class of ensembles: members that are fitted apart, of which the elites predict."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from offline_marl.core.acting.history import newest, push
from offline_marl.core.axes import PerAgent
from offline_marl.core.types import Batch, History, Obs
from offline_marl.worldmodels.base import Carry, PerMember, Prediction, Rows, WorldModel, WorldModelConfig
from offline_marl.worldmodels.facts import Facts


@dataclass(frozen=True, slots=True)
class ObservedCarry(Carry):
    """Observations and histories of the agents: all that a model without hidden state predicts from."""

    obs: Obs
    history: History | None
    present: PerAgent | None = None
    """Bool, who is there; None where all are."""

    def where(self, alive: Rows) -> ObservedCarry:
        """Itself: dropping rows would cost more than predicting them."""
        return self

    def correct(self, obs: Obs) -> ObservedCarry:
        """The same history behind other observations."""
        return replace(self, obs=obs)


class ObservedStep(NamedTuple):
    """A prediction and the carry after it."""

    prediction: Prediction
    carry: ObservedCarry

    @property
    def next_obs(self) -> Obs:
        """Predicted observations."""
        return self.prediction.next_obs

    @property
    def rewards(self) -> PerAgent:
        """Predicted rewards."""
        return self.prediction.rewards

    @property
    def terminations(self) -> PerAgent:
        """Predicted ends."""
        return self.prediction.terminations


class EnsembleModel(WorldModel):
    """Members that learn apart from rows of their own, `[member, batch]`; the elites predict.

    Subclasses write `predict` and `choose`, and `update` and `errors` with a member axis. The first axis of all
    parameters and saved buffers of remembered modules is the member.

    Args:
        config: The model's settings.
        facts: Coordinates, statistics and borders of the data it will be fitted to.
        members: How many.
    """

    def __init__(self, config: WorldModelConfig, facts: Facts, members: int) -> None:
        super().__init__(config, facts)
        self.members = members

    @abstractmethod
    def predict(self, obs: Obs, actions: Tensor, history: History | None = None) -> Prediction:
        """The next step for any leading axes, without gradient; its `spread` holds every elite's prediction.

        Args:
            obs: What the agents see.
            actions: What they do; continuous ones are clamped into [-1, 1].
            history: Pairs before this step, required where the window is not 0.
        """

    @abstractmethod
    def choose(self, errors: PerMember) -> None:
        """Make the members of least error the elites."""

    def begin(self, starts: Batch) -> ObservedCarry:
        """Observations and histories of the starts, and who is there in them and stays."""
        return ObservedCarry(starts.obs, newest(starts.history, self.window), starts.mask)

    def step(self, carry: ObservedCarry | Obs, actions: Tensor) -> ObservedStep:
        """One prediction; its observations are what the next step is predicted from.

        Args:
            carry: From `begin` or the step before; or observations alone, for one step without a past.
            actions: What the agents do; continuous ones are clamped into [-1, 1].
        """
        before = ObservedCarry(carry, None) if isinstance(carry, Tensor) else carry
        facts, present = self.facts, before.present
        past = facts.filled_history(before.history, present)
        prediction = self.predict(facts.filled(before.obs, present), actions, past)
        seen = before.obs if present is None else before.obs.masked_fill(~present.unsqueeze(-1), 0.0)
        history = push(before.history, seen, actions, self.spec)
        return ObservedStep(prediction, ObservedCarry(prediction.next_obs, history, present))

    @torch.no_grad()
    def snapshot(self, improved: PerMember) -> None:
        """Remember the present weights of the members that improved as their best so far."""
        for best, now in self._weights():
            chosen = improved.to(best.device).view(-1, *[1] * (best.dim() - 1))
            best.copy_(torch.where(chosen, now, best))

    def conclude(self, errors: PerMember) -> None:
        """Put every member's best weights back and choose the elites."""
        super().conclude(errors)
        self.choose(errors)
