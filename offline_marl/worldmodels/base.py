"""Base classes of world models: predictions, carries, configs and the registry.

A world model learns from the rows of a data set and afterwards stands in for the environment. It knows no data
set, no policy and no loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from offline_marl.core.axes import PerAgent
from offline_marl.core.config import Config
from offline_marl.core.fields import Count, CountOrZero, InnerShare, NotNegative, Positive
from offline_marl.core.learner import Learner
from offline_marl.core.registry import Registry
from offline_marl.core.types import AvailActions, Batch, Metrics, Obs
from offline_marl.networks.inputs import MemoryKind, refuse_gru_without_window
from offline_marl.networks.targets import frozen_copy
from offline_marl.worldmodels import registry
from offline_marl.worldmodels.facts import BORDERS, TENSORS, Facts, restated

PREFIX = "facts_"

PerMember = Annotated[Tensor, "member"]
Rows = Annotated[Tensor, "row"]
Foreseeable = Literal["state", "avail_actions"]
Phase = Literal["tokenizer", "model"]
Work = Literal["tokenizer", "model", "step"]
"""An update of a phase, or an imagined step of one row."""


@dataclass(frozen=True, slots=True)
class TokenSpread:
    """Doubt of a model whose members tell tokens, of each agent."""

    entropy: PerAgent
    """Mean over the tokens of the next observation of the members' mean entropy, as a share of the largest possible."""
    first_entropy: PerAgent
    """The same of the first token alone, before any other is known."""
    surprisal: PerAgent
    """-log p of the tokens that were drawn, in nats."""
    information: PerAgent
    """Mean over the tokens of the members' disagreement, H[mean p] - mean H[p], in nats (BALD)."""
    reward_deviation: PerAgent | None
    """Deviation of the predicted reward, the environment's noise as the members see it, on the scale of its classes;
    None where rewards are no classes."""
    cycle: PerAgent
    """Share of the tokens that are others when they are decoded and encoded again."""

    def map(self, change: Callable[[PerAgent], PerAgent]) -> TokenSpread:
        """Every doubt changed alike; None stays None."""
        told = {item.name: getattr(self, item.name) for item in fields(self)}
        changed: dict[str, Any] = {name: None if value is None else change(value) for name, value in told.items()}
        return TokenSpread(**changed)


@dataclass(frozen=True, slots=True)
class Spread:
    """Predictions of all elites side by side, in raw units, from which uncertainty is measured."""

    next_obs: Annotated[Tensor, "elite *lead coordinate"]
    """Joint coordinates of the next observation: what several agents see is here once."""
    rewards: Annotated[Tensor, "elite *lead agent"]
    next_obs_std: Annotated[Tensor, "elite *lead coordinate"] | None
    """Each elite's own deviation, the environment's noise as it sees it (aleatoric); None for kinds that tell none."""
    rewards_std: Annotated[Tensor, "elite *lead agent"] | None
    scale: Annotated[Tensor, "coordinate"]
    """Deviation of one step's change in the training data, for functions that standardise."""
    reward_scale: Annotated[Tensor, "agent"]
    """Deviation of the rewards in the training data."""
    tokens: TokenSpread | None = None
    """Of models that tell tokens."""


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
    """Global state, of models that foresee it."""
    next_avail_actions: AvailActions | None = None
    """Bool, true where a discrete choice will be allowed, of models that foresee it."""

    def scatter(self, places: Rows, count: int) -> Prediction:
        """The prediction of all `count` rows, from that of the rows at `places`.

        The others, which are over, get zeros and all choices; nobody reads them.
        """

        def among(values: Tensor, axis: int = 0, fill: bool = False) -> Tensor:
            shape = list(values.shape)
            shape[axis] = count
            return values.new_full(shape, fill).index_copy_(axis, places, values)

        whole: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                whole[item.name] = among(value, fill=item.name == "next_avail_actions")
        if self.spread is not None:
            by_row = ("next_obs", "rewards", "next_obs_std", "rewards_std")
            values = {name: getattr(self.spread, name) for name in by_row}
            scattered: dict[str, Any] = {name: among(value, 1) for name, value in values.items() if value is not None}
            if self.spread.tokens is not None:
                scattered["tokens"] = self.spread.tokens.map(among)
            whole["spread"] = replace(self.spread, **scattered)
        return replace(self, **whole)


class Carry(ABC):
    """State that a world model keeps of a rollout between two steps; its rows are the starts, in their order."""

    @abstractmethod
    def where(self, alive: Rows) -> Carry:
        """The carry from which only these rows (bool) go on; those that ended once are never alive again.

        The next step still gets actions of all rows and predicts all of them, but what it predicts of rows that are
        over is not read. So a carry may drop what it keeps of them (`Prediction.scatter` fills their places), or
        keep it, where masking is cheaper.
        """

    @abstractmethod
    def correct(self, obs: Obs) -> Carry:
        """The carry after what the agents see was corrected, such as to the range of the data.

        Models that predict from what is seen take it up; those whose dynamics are hidden return themselves.
        """


def _renamed(sampling: Any) -> Any:
    # What settings of earlier versions call uniform draws.
    return "uniform" if sampling == "shuffle" else sampling


class WorldModelConfig(Config):
    """Fields that every world model has, those of its fit included."""

    @property
    def rewrites_observations(self) -> bool:
        """Whether recorded and imagined observations look otherwise, so that a policy meets two kinds of them."""
        return False

    lr: Positive = 1e-3
    """Step size of Adam."""
    cosine_steps: CountOrZero = 0
    """Updates over which the step size falls to 0 along half a cosine; 0 keeps it constant."""
    batch_size: Count = 256
    """Rows of data in one update of each member."""
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (256, 256)
    """Widths of the hidden layers of every network; the published code has four of 1,024."""
    grad_clip: NotNegative = 1.0
    """Largest gradient norm of each member; 0 leaves gradients alone."""
    weight_decay: NotNegative = 0.0
    """Pull of every parameter towards 0, added to its gradient."""
    window: CountOrZero = 0
    """Past (obs, action) pairs of the team that the model reads through a history encoder; 0 for none, as published."""
    history_encoder: MemoryKind = "attention"
    """What embeds the last `window` pairs: attention over them, a GRU from a zero state, or nothing."""
    sampling: Annotated[Literal["uniform", "bootstrap"], BeforeValidator(_renamed)] = "uniform"
    """Each batch of a member is its own draw from all training rows, or from a fixed resample of them of its own."""
    holdout: InnerShare = 0.1
    """Share of the episodes that no member trains on; elites are chosen and the fit is stopped by them."""
    patience: Count = 5
    """Evaluations without improvement of any member after which the fit stops."""
    min_improvement: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    """Share by which a held-out error must fall to count as an improvement."""

    @model_validator(mode="after")
    def _a_gru_reads_a_window(self) -> WorldModelConfig:
        refuse_gru_without_window(self.history_encoder, self.window)
        return self

    def unread(self) -> list[str]:
        """Fields that are given and that other fields keep from being read."""
        return []


class WorldModel(Learner):
    """A learner that predicts the environment's next step.

    Subclasses set `Config` and write `begin` and `step`. Those that are fitted build networks in `__init__`, name
    them to `optimize` and to `remember`, and write `update` and `errors`.

    Args:
        config: The model's settings.
        facts: Coordinates, statistics and borders of the data it will be fitted to.
    """

    Config: ClassVar[type[WorldModelConfig]] = WorldModelConfig
    fitted: ClassVar[bool] = True
    """Whether the kind is fitted to data at all; a simulator is not."""
    needs_state: ClassVar[bool] = False
    """Whether starts must hold the global state."""
    needs_environment: ClassVar[bool] = False
    """Whether it works on copies of the environment that the data came from, see `attach`."""
    foresees: ClassVar[frozenset[Foreseeable]] = frozenset()
    """What its predictions hold beside observations, rewards and terminations; of discrete choices, what is allowed."""
    held_out_rows: ClassVar[int | None] = None
    """Most rows on which `errors` are measured during a fit, evenly spaced; None for all."""
    members: int = 1
    """Parts with an error of their own."""
    first_look: int = 0
    """Updates before which held-out errors say nothing, such as those of another part of the model."""
    config: WorldModelConfig

    def __init__(self, config: WorldModelConfig, facts: Facts) -> None:
        super().__init__(config.lr, config.cosine_steps, config.grad_clip)
        self.config = config
        self.spec = facts.spec
        self.window = 0 if config.history_encoder == "none" else config.window
        self.batch_size = config.batch_size
        self.needs = replace(type(self).needs, window=self.window)
        self._remembered: tuple[str, ...] = ()
        self._terminates, self._team_rewards = facts.terminates, facts.team_rewards
        for name, value in facts.tensors().items():
            self.register_buffer(PREFIX + name, value.clone())

    @classmethod
    def first_look_of(cls, config: Any) -> int:
        """The `first_look` of a model with these settings, before there is one."""
        return cls.first_look

    @property
    def facts(self) -> Facts:
        """Those of the data, on the device of the model."""
        tensors = {name: getattr(self, PREFIX + name) for name in TENSORS}
        return Facts(spec=self.spec, terminates=self._terminates, team_rewards=self._team_rewards, **tensors)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Parts that learn one after another in every round of a fit that goes on; see `learn`."""
        return ("model",)

    def learn(self, phase: Phase, batch: Batch) -> Metrics:
        """One update of a part, in a fit that goes on as more is played.

        Args:
            phase: Which part.
            batch: As for `update`.

        Returns:
            What `update` does, `loss/model` among it.
        """
        return self.update(batch)

    def multiplications(self, work: Work) -> float:
        """Multiplications of an update of a phase, or of an imagined step of one row; 0 where the kind tells none."""
        return 0.0

    @torch.no_grad()
    def widen(self, rows: Batch) -> None:
        """Let the borders of the data hold these rows, too; statistics stay those that inputs are standardised by."""
        now, seen = self.facts, restated(self.facts, rows.obs, rows.next_obs, rows.rewards, rows.mask, rows.next_seen)
        for name in BORDERS:
            farther = torch.minimum if name.endswith("low") else torch.maximum
            getattr(self, PREFIX + name).copy_(farther(getattr(now, name), getattr(seen, name)))

    def choose(self, errors: PerMember) -> None:
        """Let the members of least error speak, of kinds in which not all do; nothing unless written."""

    @abstractmethod
    def begin(self, starts: Batch) -> Carry:
        """The carry of imagined episodes that begin in these rows.

        Args:
            starts: Lead axis [row]; its `obs`, `history` of at least `window` pairs, and `state` where it is needed.
        """

    @abstractmethod
    def step(self, carry: Any, actions: Tensor) -> tuple[Prediction, Carry]:
        """The next step of every row, and the carry after it; without gradient, and the carry given stays as it is.

        Args:
            carry: From `begin`, or from the step before.
            actions: What the agents do; continuous ones are clamped into [-1, 1].
        """

    def attach(self, env: object) -> None:
        """Take copies of the environment, of kinds that need one."""
        raise NotImplementedError(f"{type(self).__name__} needs no environment.")

    def errors(self, batch: Batch) -> PerMember:
        """Root mean square error on held-out rows in standardised units: one number, or one a member; without gradient.

        Next observations count in deviations of one step's change, rewards in deviations of theirs; the mean is
        over rows and all of these numbers, so that 1 is about the error of a model that knows the means only.

        Args:
            batch: Rows that every member predicts, lead axis [batch], or segments where the model needs them.
        """
        raise NotImplementedError(f"{type(self).__name__} is not fitted, so that nothing is held out.")

    def describe(self, rows: Batch) -> dict[str, Any]:
        """What a report says of this kind beside what it says of all: plain numbers by name; nothing unless written.

        Args:
            rows: Held-out ones, lead axis [batch].
        """
        return {}

    def optimize(self, *modules: str, lr: float, name: str = "", cosine_steps: int | None = None) -> None:
        """One fused Adam over the named modules, each a parameter group, with the config's weight decay."""
        super().optimize(*modules, lr=lr, name=name, cosine_steps=cosine_steps)
        for group in self.optimizers[name].param_groups:
            group["weight_decay"] = self.config.weight_decay

    def remember(self, *modules: str) -> None:
        """Keep a copy of the best weights so far of the named modules, as `best_<name>`, saved with the model."""
        self._remembered = modules
        for name in modules:
            setattr(self, f"best_{name}", frozen_copy(getattr(self, name)))

    @torch.no_grad()
    def snapshot(self, improved: PerMember) -> None:
        """Remember the present weights as the best so far where the error (bool) improved."""
        if bool(improved.any()):
            for best, now in self._weights():
                best.copy_(now)

    @torch.no_grad()
    def restore_best(self) -> None:
        """Put the best weights back; the optimiser goes on from where it was."""
        for best, now in self._weights():
            now.copy_(best)

    def conclude(self, errors: PerMember) -> None:
        """End a fit, given the least held-out errors: the best weights are put back."""
        self.restore_best()

    def _weights(self) -> list[tuple[Tensor, Tensor]]:
        """Best and present values of every tensor of the remembered modules."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for name in self._remembered:
            best, now = (getattr(self, module).state_dict() for module in (f"best_{name}", name))
            pairs += zip(best.values(), now.values(), strict=True)
        return pairs


worldmodels: Registry[type[WorldModel]] = registry
