"""Base of made-up dynamics that predict from what agents see and a history, for tests of what surrounds a model."""

from __future__ import annotations

from torch import Tensor

from offline_marl.core.acting.history import newest, push
from offline_marl.core.types import Batch, History, Obs, Spec
from offline_marl.worldmodels.base import Prediction
from offline_marl.worldmodels.ensemble_model import ObservedCarry


class Observed:
    """Subclasses write `predict`; what the agents see and did is carried as an ensemble carries it."""

    spec: Spec
    window = 0

    def predict(self, obs: Obs, actions: Tensor, history: History | None = None) -> Prediction:
        raise NotImplementedError

    def begin(self, starts: Batch) -> ObservedCarry:
        return ObservedCarry(starts.obs, newest(starts.history, self.window))

    def step(self, carry: ObservedCarry, actions: Tensor) -> tuple[Prediction, ObservedCarry]:
        prediction = self.predict(carry.obs, actions, carry.history)
        history = push(carry.history, carry.obs, actions, self.spec)
        return prediction, ObservedCarry(prediction.next_obs, history)
