"""The real simulator as a world model, set to the data's states: the upper bound of what imagination can give.

It is the `perfect_wm` of MOMA-PPO's code. It never disagrees with itself, so nothing is penalised or cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from offline_marl.core.types import Batch, DataError, Metrics, Obs
from offline_marl.worldmodels.base import Carry, Prediction, Rows, WorldModel, WorldModelConfig, worldmodels
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


@dataclass(frozen=True, slots=True)
class SimulatorCarry(Carry):
    """States that the simulator is put into before it steps.

    Copies are not left running: a restored one has the data's precision, a clock that begins anew and no solver
    state of the step before, so that its numbers differ from those of a running one.
    """

    state: Annotated[Tensor, "row state"]

    def where(self, alive: Rows) -> SimulatorCarry:
        """Itself: every row keeps its copy."""
        return self

    def correct(self, obs: Obs) -> SimulatorCarry:
        """Itself: the simulator's state is what moves."""
        return self


@worldmodels.register("oracle")
class Oracle(WorldModel):
    """The transition function of the environment, restored to the state of each row."""

    Config = OracleConfig
    fitted = False
    needs_state = True
    needs_environment = True
    foresees = frozenset({"state"})

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

    def begin(self, starts: Batch) -> SimulatorCarry:
        """The states of the starts.

        Raises:
            DataError: They hold none.
        """
        if starts.state is None:
            raise DataError("The oracle needs the states of its starts.")
        return SimulatorCarry(starts.state)

    @torch.no_grad()
    def step(self, carry: SimulatorCarry, actions: Tensor) -> tuple[Prediction, SimulatorCarry]:
        """The simulator's own next step from the carried states.

        Raises:
            DataError: There is no environment.
        """
        if self.env is None:
            raise DataError("The oracle needs an environment.")
        device = carry.state.device
        self.env.restore(carry.state.cpu().numpy())
        seen, numbers, terminations, _ = self.env.step(actions.cpu().numpy())
        rewards = torch.from_numpy(numbers).to(device)
        over = torch.from_numpy(np.ascontiguousarray(terminations)).to(device)
        state = torch.from_numpy(seen.state).to(device)
        prediction = Prediction(
            next_obs=torch.from_numpy(seen.obs).to(device),
            rewards=rewards,
            terminations=over.unsqueeze(-1).expand(rewards.shape),
            spread=None,
            next_state=state,
        )
        return prediction, SimulatorCarry(state)

    def update(self, batch: Batch) -> Metrics:
        """Nothing to learn.

        Raises:
            DataError: Always.
        """
        raise DataError("The oracle is the simulator itself: there is nothing to fit.")
