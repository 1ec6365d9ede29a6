"""What every world model shares: what a step of it says, its config's common fields, and the registry.

A world model eats the rows of a data set and afterwards stands in for the environment. It knows no data
set, no policy and no loop.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from offline_marl.core.axes import PerAgent
from offline_marl.core.config import Config
from offline_marl.core.learner import Learner
from offline_marl.core.registry import Registry
from offline_marl.core.types import Batch, History, Obs
from offline_marl.networks.targets import frozen_copy
from offline_marl.worldmodels import registry
from offline_marl.worldmodels.facts import TENSORS, Facts

PREFIX = "facts_"

Width = Annotated[int, Field(ge=1)]
PerMember = Annotated[Tensor, "member"]


@dataclass(frozen=True, slots=True)
class Spread:
    """What the elites say apart from each other, in raw units; the uncertainty functions read it."""

    next_obs: Annotated[Tensor, "elite *lead coordinate"]
    """Joint coordinates of the next observation: what several agents see is here once."""
    rewards: Annotated[Tensor, "elite *lead agent"]
    next_obs_std: Annotated[Tensor, "elite *lead coordinate"] | None
    """Each elite's own deviation, the world's noise as it sees it (aleatoric); None for kinds that tell none."""
    rewards_std: Annotated[Tensor, "elite *lead agent"] | None
    scale: Annotated[Tensor, "coordinate"]
    """Deviation of one step's change in the training data, for functions that standardise."""
    reward_scale: Annotated[Tensor, "agent"]
    """Deviation of the rewards in the training data."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One imagined step, in raw units."""

    next_obs: Obs
    rewards: PerAgent
    terminations: PerAgent
    """Bool."""
    spread: Spread | None
    """None where there is nobody to disagree."""
    next_state: Annotated[Tensor, "*lead state"] | None = None
    """The simulator's own state, where the model is the simulator."""


class WorldModelConfig(Config):
    """Fields that every world model has, those of its fit included."""

    lr: Annotated[float, Field(gt=0.0)] = 1e-3
    """Step size of Adam."""
    cosine_steps: Annotated[int, Field(ge=0)] = 0
    """Updates over which the step size falls to 0 along half a cosine; 0 keeps it constant."""
    batch_size: Width = 256
    """Rows of data in one update of each member."""
    hidden: Annotated[tuple[Width, ...], Field(min_length=1)] = (256, 256)
    """Widths of the hidden layers of every network; the published code has four of 1,024."""
    grad_clip: Annotated[float, Field(ge=0.0)] = 1.0
    """Largest gradient norm of each member; 0 leaves gradients alone."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Pull of every parameter towards 0, added to its gradient."""
    window: Annotated[int, Field(ge=0)] = 0
    """Past (obs, action) pairs of the team that the model reads through a history encoder; 0 for none, as published."""
    sampling: Literal["shuffle", "bootstrap"] = "shuffle"
    """Each member sees every training row once a pass, in its own order, or its own draw of rows with replacement."""
    holdout: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the episodes that no member trains on; elites are chosen and the fit is stopped by them."""
    patience: Width = 5
    """Evaluations without improvement of any member after which the fit stops."""
    min_improvement: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    """Share by which a held-out error must fall to count as an improvement."""


class WorldModel(Learner):
    """A learner that predicts what the environment would do.

    Subclasses set `Config`, build networks in `__init__`, name them to `optimize` and to `remember`, and write
    `update`, `step`, `errors` and, where members are chosen from, `choose`.

    Args:
        config: The model's settings.
        facts: What is known of the data it will be fitted to.
    """

    Config: ClassVar[type[WorldModelConfig]] = WorldModelConfig
    fitted: ClassVar[bool] = True
    """Whether the kind is fitted to data at all; a simulator is not."""

    def __init__(self, config: WorldModelConfig, facts: Facts) -> None:
        super().__init__(config.lr, config.cosine_steps, config.grad_clip)
        self.common = config
        self.spec = facts.spec
        self.window = config.window
        self.batch_size = config.batch_size
        self.members = 1
        self.needs = replace(type(self).needs, window=config.window)
        self._remembered: tuple[str, ...] = ()
        self._terminates = facts.terminates
        for name, value in facts.tensors().items():
            self.register_buffer(PREFIX + name, value.clone())

    @property
    def facts(self) -> Facts:
        """What was known of the data, on the device of the model."""
        told = {name: getattr(self, PREFIX + name) for name in TENSORS}
        return Facts(spec=self.spec, terminates=self._terminates, **told)

    @abstractmethod
    def step(
        self,
        obs: Obs,
        actions: Tensor,
        history: History | None = None,
        state: Annotated[Tensor, "*lead state"] | None = None,
    ) -> Prediction:
        """What would happen next, for any leading axes; without gradient.

        Args:
            obs: What the agents see.
            actions: What they do; continuous ones are clamped into [-1, 1].
            history: Pairs before this step, required where the window is not 0.
            state: The simulator's own state, for models that are the simulator.
        """

    def errors(self, batch: Batch) -> PerMember:
        """Error of each member on held-out rows, without gradient: root mean square in standardised units.

        Next observations count in deviations of one step's change, rewards in deviations of theirs; the mean is
        over rows and all of these numbers, so that 1 is about the error of a model that knows the means only.

        Args:
            batch: Rows that every member predicts, lead axis [batch].
        """
        raise NotImplementedError(f"{type(self).__name__} is not fitted, so that nothing is held out.")

    def optimize(self, *modules: str, lr: float) -> None:
        """One fused Adam over the named modules, each a parameter group, with the config's weight decay."""
        super().optimize(*modules, lr=lr)
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.common.weight_decay

    def choose(self, errors: PerMember) -> None:
        """Let the members of least error, the elites, speak from now on."""

    def remember(self, *modules: str) -> None:
        """Keep a copy of the best weights so far of the named modules, as `best_<name>`, saved with the model.

        The first axis of all their parameters and saved buffers is the member.
        """
        self._remembered = modules
        for name in modules:
            setattr(self, f"best_{name}", frozen_copy(getattr(self, name)))

    @torch.no_grad()
    def snapshot(self, members: PerMember) -> None:
        """Remember the present weights of these members (bool) as their best so far."""
        for best, now in self._both():
            chosen = members.to(best.device).view(-1, *[1] * (best.dim() - 1))
            best.copy_(torch.where(chosen, now, best))

    @torch.no_grad()
    def restore_best(self) -> None:
        """Put every member's best weights back; the optimiser goes on from where it was."""
        for best, now in self._both():
            now.copy_(best)

    def _both(self) -> list[tuple[Tensor, Tensor]]:
        pairs: list[tuple[Tensor, Tensor]] = []
        for name in self._remembered:
            best, now = (getattr(self, each).state_dict() for each in (f"best_{name}", name))
            pairs += zip(best.values(), now.values(), strict=True)
        return pairs


worldmodels: Registry[type[WorldModel]] = registry
