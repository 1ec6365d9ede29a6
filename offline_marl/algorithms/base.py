"""Base class of algorithms: common fields, optimiser, target networks, and the registry.

An algorithm eats a Batch and returns Metrics; it knows no data set, no environment and no loop.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from offline_marl.algorithms import registry
from offline_marl.core.acting.actor import TeamActor
from offline_marl.core.acting.history import WindowMemory
from offline_marl.core.acting.inputs import checked
from offline_marl.core.axes import PerAgent, PerTeam
from offline_marl.core.config import Config
from offline_marl.core.fields import Count, CountOrZero, NotNegative, Positive, Share
from offline_marl.core.learner import Learner
from offline_marl.core.registry import Registry
from offline_marl.core.types import AvailActions, Batch, History, Memory, Obs, Spec
from offline_marl.networks.actors import AgentPolicy
from offline_marl.networks.distributions import Categorical, ClippedNormal, TanhNormal
from offline_marl.networks.inputs import AgentInputs, MemoryKind, refuse_gru_without_window
from offline_marl.networks.targets import polyak


class AlgorithmConfig(Config):
    """Fields that every algorithm has; the published values of the MOMA-PPO code where it has them."""

    gamma: Share = 0.99
    """Discount of future rewards."""
    tau: Share = 0.005
    """Fraction of the way that target networks move to their source at each update."""
    lr: Positive = 3e-4
    """Step size of Adam."""
    batch_size: Count = 256
    """Rows of data in one update."""
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (256, 256)
    """Widths of the hidden layers of every network."""
    cosine_steps: CountOrZero = 0
    """Updates over which the step size of all modules, critics too, falls to 0 along half a cosine; 0 for never."""
    layer_norm: bool = False
    """Normalise the hidden layers of actors and critics."""
    grad_clip: NotNegative = 0.0
    """Largest gradient norm of each module; 0 leaves gradients alone."""
    window: CountOrZero = 0
    """Past (obs, action) pairs that each agent reads through the history encoder; the published runs use 10."""
    history_encoder: MemoryKind = "attention"
    """What embeds the last `window` pairs: attention over them, a GRU from a zero state, or nothing."""
    frame_stack: Count = 1
    """Observations that each agent reads side by side, the present one and those before it, whatever the window."""
    share_parameters: bool = False
    """One set of weights for all agents, who then read a one-hot of their index."""
    clip_target: bool = False
    """Let no critic's target exceed the best discounted return-to-go in the data (B3C, 2026)."""
    reward_scale: Positive | Literal["range"] = 1.0
    """Multiplies the rewards that are learnt from; `range` is 1000 / (best return - worst return)."""
    reward_bias: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Added to each reward that is learnt from, after `reward_scale`."""
    standardize_obs: bool = True
    """Standardise observations by the training data's mean and deviation; the published code does not."""

    @model_validator(mode="after")
    def _a_gru_reads_a_window(self) -> AlgorithmConfig:
        refuse_gru_without_window(self.history_encoder, self.window)
        return self


class Algorithm(Learner):
    """A learner of a team's policies.

    Subclasses set `Config` and `needs`, build networks in `__init__`, name them to `optimize`, and
    write `update`. Those with `self.inputs` and `self.actor` inherit `act`.

    Args:
        config: The algorithm's settings.
        spec: Widths and kinds of what the team sees and does.
    """

    Config: ClassVar[type[AlgorithmConfig]] = AlgorithmConfig
    splits_by_agent: ClassVar[bool] = False
    """Whether its update can be computed agent by agent, in several places: see `split.SplitLearner`."""
    imagines_in: ClassVar[str] = "ensemble"
    """Kind of world model that a learner of imagined episodes alone gets unless one is named."""
    config: AlgorithmConfig
    best: Tensor
    best_team: Tensor
    actor: AgentPolicy
    behaviour_temperature: float = 1.0
    """Divides the logits that choices are drawn from when exploring; 0 takes the likeliest."""
    environment_steps: int = 0
    """Environment steps that the run has played; set by the source that plays."""
    plays: bool = False
    """Whether schedules of exploration follow these steps, or are at their end; set by the source that plays."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Put the border before an `act` of the subclass's own."""
        super().__init_subclass__(**options)
        if inspect.isfunction(cls.__dict__.get("act")):
            cls.act = checked(cls.__dict__["act"])  # type: ignore[method-assign]

    def __init__(self, config: AlgorithmConfig, spec: Spec) -> None:
        super().__init__(config.lr, config.cosine_steps, config.grad_clip)
        object.__setattr__(self, "actor", self.make_actor)
        self.spec = spec
        self.config = config
        self.batch_size = config.batch_size
        self.register_buffer("best", torch.full((spec.n_agents,), torch.inf))
        self.register_buffer("best_team", torch.tensor(torch.inf))
        self.inputs = AgentInputs(
            spec.obs_dims,
            spec.act_dims,
            window=config.window,
            shared=config.share_parameters,
            memory=config.history_encoder,
            frame_stack=config.frame_stack,
        )
        self.window = self.inputs.window
        self.needs = replace(type(self).needs, window=self.window)
        self.shape: dict[str, Any] = {
            "in_features": self.inputs.width,
            "hidden": config.hidden,
            "fan_in": self.inputs.fan_in,
            "shared": config.share_parameters,
            "layer_norm": config.layer_norm,
        }

    def begin(self, copies: int, history: History | None = None) -> Memory:
        """The memory that `act` reads in episodes side by side: here the window of (obs, action) pairs.

        Args:
            copies: How many episodes.
            history: Pairs of the steps before, in episodes that are under way.
        """
        return WindowMemory(self.spec, self.window, copies, self.best.device, history)

    def make_actor(
        self, *, agents: Sequence[str] | None = None, action_spaces: Any = None, explore: bool = False
    ) -> TeamActor:
        """The team for a loop of your own, with its memory; `actor()` is the same.

        Args:
            agents: Names of the agents, in the order of the data's agent axis; without them agent_0, agent_1 ...
            action_spaces: Boxes that actions in [-1, 1] are stretched to; see `TeamActor`.
            explore: Draw actions instead of taking the likeliest.
        """
        return TeamActor(self, self.spec, self.best.device, agents=agents, action_spaces=action_spaces, explore=explore)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a network called `actor` is also the door to `make_actor`."""
        super().__setattr__(name, value)
        if name == "actor" and isinstance(value, nn.Module):
            self._open_door(value)

    def __setstate__(self, state: Any) -> None:
        """Take a copy's state."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if "actor" in self._modules:
            self._open_door(self.actor)

    def _open_door(self, network: nn.Module) -> None:
        """Let the network called without features answer as `make_actor`.

        Torch leaves out this attribute of a module, through which compiled calls go, wherever it copies or saves one.
        """

        def call(*features: Any, **given: Any) -> Any:
            if features or "features" in given:
                return network._call_impl(*features, **given)  # type: ignore[no-untyped-call]
            return self.make_actor(**given)

        network._compiled_call_impl = call

    @checked
    @torch.no_grad()
    def act(
        self,
        obs: Obs,
        *,
        history: History | None = None,
        avail_actions: AvailActions | None = None,
        explore: bool = False,
    ) -> Tensor:
        """Each agent's action from its own obs and history: the mode, or a draw if `explore`.

        Returns:
            `*lead agent act` in [-1, 1], or int64 `*lead agent`.

        Raises:
            DataError: The last axes are not the team's, or numbers are not finite; arrays and lists are taken, too.
        """
        choice: TanhNormal | ClippedNormal | Categorical = self.actor(self.inputs(obs, history), avail_actions)
        if not explore or not self.behaviour_temperature:
            return choice.mode()
        if isinstance(choice, Categorical) and self.behaviour_temperature != 1.0:
            choice = choice.tempered(self.behaviour_temperature)
        return choice.sample(self.generator)

    def joint(self, obs: Obs) -> Annotated[Tensor, "*lead state"]:
        """All agents' observations side by side, standardised where the networks' inputs are."""
        return ((obs - self.inputs.mean) * self.inputs.scale).flatten(-2)

    def optimize(self, *modules: str, lr: float, name: str = "", cosine_steps: int | None = None) -> None:
        """One fused Adam over the named modules; the history encoder joins the first optimiser by itself."""
        encoder = () if self.optimizers else ("inputs",)
        super().optimize(*encoder, *modules, lr=lr, name=name, cosine_steps=cosine_steps)

    def update_targets(self, tau: float) -> None:
        """Move every `target_<name>` the fraction `tau` of the way to `<name>`."""
        for name, target in self.named_children():
            if name.startswith("target_"):
                polyak(target, getattr(self, name.removeprefix("target_")), tau)

    follow = update_targets  # by the name that plugins knew it under

    def standardize(self, mean: Annotated[Tensor, "agent obs"], std: Annotated[Tensor, "agent obs"]) -> None:
        """Give every network the statistics of the training data's observations."""
        for module in self.modules():
            if isinstance(module, AgentInputs):
                module.standardize(mean, std)

    def cap_targets(self, best: Annotated[Tensor, "agent"], best_team: Tensor) -> None:
        """Cap every critic's target at these values: each agent's, and the team's mean over agents."""
        self.best.copy_(best)
        self.best_team.copy_(best_team)

    def cautions(self, clock: float | None, updates: int) -> list[str]:
        """What somebody should know who is about to train on such data; nothing unless written.

        Args:
            clock: Mean steps of episodes that the clock alone ends; None where some terminate, or are not recorded.
            updates: That are to be made.
        """
        return []


def masked_mean(values: PerTeam, mask: PerTeam | None, dim: int | None = None) -> Tensor:
    """Mean over the entries that count, of all axes or one; over all of them without a mask."""
    if mask is None:
        return values.mean(dim)
    weights = mask.expand_as(values)
    return values.masked_fill(~weights, 0.0).sum(dim) / weights.sum(dim).clamp(min=1)


def team_rewards(batch: Batch) -> PerTeam:
    """The team's reward: what those earn who are there, over the number of agents, so that it sums to the return."""
    if batch.mask is None:
        return batch.rewards.mean(-1)
    return batch.rewards.masked_fill(~batch.mask, 0.0).sum(-1) / batch.rewards.shape[-1]


def present_next(batch: Batch) -> PerAgent | None:
    """Whether agents are there in the next step: those that are now and do not terminate, unless the batch says it.

    None where nothing speaks of presence: all are there, or terminate together.
    """
    if batch.next_present is not None:
        return batch.next_present
    there = present_now(batch)
    return None if there is None else there & ~batch.terminations


def present_now(batch: Batch) -> PerAgent | None:
    """Whether agents are there, also where their own entries do not count; None where all are."""
    return batch.mask if batch.present is None else batch.present


def present_rows(batch: Batch) -> Annotated[Tensor, "*lead"] | None:
    """Rows in which some agent counts; None without a mask."""
    return None if batch.mask is None else batch.mask.any(-1)


def team_ended(batch: Batch) -> Annotated[Tensor, "*lead"]:
    """Whether every agent that is there terminates."""
    return (batch.terminations if batch.mask is None else batch.terminations | ~batch.mask).all(-1)


def cleared(batch: Batch, mean: Annotated[Tensor, "agent obs"] | None = None) -> Batch:
    """The batch without what stands where agents are absent, now or in the next step: zeros, and every choice allowed.

    So nothing reaches those that are there, whose critics and mixers read all agents.

    Args:
        batch: Any view.
        mean: What networks subtract from observations, so that those of absent agents are zeros to them.
    """
    now, after = present_now(batch), present_next(batch)
    if now is None or after is None:
        return batch

    def kept(name: str, present: PerAgent, absent: float = 0) -> dict[str, Any]:
        value = getattr(batch, name)
        if value is None:
            return {}
        wide = present.view(*present.shape, *[1] * (value.dim() - present.dim()))
        return {name: value.masked_fill(~wide, absent)}

    unseen = batch.obs.new_zeros(()) if mean is None else mean
    changed: dict[str, Any] = {
        "obs": torch.where(now.unsqueeze(-1), batch.obs, unseen),
        "next_obs": torch.where(after.unsqueeze(-1), batch.next_obs, unseen),
    }
    for name in ("actions", "rewards", "history"):
        changed |= kept(name, now)
    changed |= kept("next_history", after)
    return replace(batch, **changed, **kept("avail_actions", now, True), **kept("next_avail_actions", after, True))


def over_rows(values: PerTeam, batch: Batch, rows: Annotated[Tensor, "batch"], whole: Batch | None = None) -> PerTeam:
    """Values weighed so that their mean over the entries that count is that over these rows alone; 0 without any.

    Args:
        values: `batch agent`, or `batch` of the team.
        batch: Its mask says which entries count; a team's where one of its agents does.
        rows: Bool per row.
        whole: The batch of all agents, where `batch` is that of some, and the mean is the whole team's.
    """
    per_agent = values.dim() == batch.rewards.dim()
    counted = torch.ones_like(values, dtype=torch.bool)
    if batch.mask is not None:
        counted = batch.mask if per_agent else batch.mask.any(-1)
    picked = rows.unsqueeze(-1) if per_agent else rows
    all_counted = counted if whole is None or whole.mask is None else whole.mask
    return values * (counted & picked) * (all_counted.sum() / (all_counted & picked).sum().clamp(min=1))


def over_recorded(values: PerTeam, batch: Batch) -> PerTeam:
    """`over_rows` of the recorded rows, which alone show what somebody did: imagined actions are no demonstrations."""
    return values if batch.synthetic is None else over_rows(values, batch, ~batch.synthetic)


algorithms: Registry[type[Algorithm]] = registry
