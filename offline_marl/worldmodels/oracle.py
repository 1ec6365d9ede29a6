"""The real simulator as a world model, set to the data's states: the upper bound of what imagination can give.

It is the `perfect_wm` of MOMA-PPO's code. It never disagrees with itself, so nothing is penalised or cut.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from offline_marl.core.types import Batch, DataError, History, Metrics, Obs
from offline_marl.worldmodels.base import Prediction, WorldModel, WorldModelConfig, worldmodels
from offline_marl.worldmodels.facts import Facts


@runtime_checkable
class Restorable(Protocol):
    """An environment of many copies that can be put into recorded states."""

    copies: int

    def restore(self, state: Any) -> Any:
        """Start one episode in each state, in the first copies."""
        ...

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any]:
        """What follows: what is seen, rewards, terminations, truncations."""
        ...


class OracleConfig(WorldModelConfig):
    """Nothing beyond the common fields."""


@worldmodels.register("oracle")
class Oracle(WorldModel):
    """Knows what will happen, because it makes it happen."""

    Config = OracleConfig
    fitted = False

    def __init__(self, config: OracleConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        self.env: Restorable | None = None

    def attach(self, env: object) -> None:
        """Use these copies.

        Raises:
            DataError: The environment cannot be put into a recorded state.
        """
        if not isinstance(env, Restorable):
            raise DataError("This environment cannot be put into recorded states, so that it has no oracle.")
        self.env = env

    @torch.no_grad()
    def step(
        self, obs: Obs, actions: Tensor, history: History | None = None, state: Tensor | None = None
    ) -> Prediction:
        """The simulator's own next step from `state`, `row state`.

        Raises:
            DataError: There is no state, or no environment.
        """
        if state is None or self.env is None:
            raise DataError("The oracle needs the states of its starts, and an environment.")
        self.env.restore(state.cpu().numpy())
        seen, rewards, terminations, _ = self.env.step(actions.cpu().numpy())
        over = torch.from_numpy(np.ascontiguousarray(terminations)).to(obs.device)
        return Prediction(
            next_obs=torch.from_numpy(seen.obs).to(obs.device),
            rewards=torch.from_numpy(rewards).to(obs.device),
            terminations=over.unsqueeze(-1).expand(rewards.shape),
            spread=None,
            next_state=torch.from_numpy(seen.state).to(obs.device),
        )

    def update(self, batch: Batch) -> Metrics:
        """Nothing to learn.

        Raises:
            DataError: Always.
        """
        raise DataError("The oracle is the simulator itself: there is nothing to fit.")
