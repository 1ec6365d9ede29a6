"""Types that pass between the rooms: Batch, Episode, Spec, Needs, Metrics and the Policy protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from pydantic import ValidationError
from torch import Tensor

from offline_marl.core.axes import AxisError, PerAgent, PerTeam, check_fields
from offline_marl.core.config import explain
from offline_marl.core.errors import BadInputError
from offline_marl.core.showing import tensors_line
from offline_marl.core.spec_record import SpecRecord

Metrics = dict[str, Tensor]
"""Detached scalars by name, such as `loss/critic` or `q/mean`; never read on the host inside an update."""

ActionKind = Literal["continuous", "discrete"]
View = Literal["transitions", "segments", "pairs"]
"""Rows alone, cuts with an axis of time, or two cuts each that were compared and the label: see `Batch.preference`."""
Origin = Literal["data", "environment", "model"]

Obs = Annotated[Tensor, "*lead agent obs"]

History = Annotated[Tensor, "*lead agent window step"]
AvailActions = Annotated[Tensor, "*lead agent choice"]


class DataError(BadInputError, ValueError):
    """Input that cannot be used; the message is one sentence for the person who gave it."""


@dataclass(frozen=True, slots=True)
class Spec:
    """Widths and kinds of a team's observations and actions; agents of unequal width are zero-padded to the widest."""

    obs_dims: tuple[int, ...]
    """True observation width of each agent."""
    act_dims: tuple[int, ...]
    """True action width of each agent; for discrete actions the number of its choices."""
    state_dim: int = 0
    """Width of the global state; 0 where the data holds none."""
    action_kind: ActionKind = "continuous"
    """Continuous actions lie in [-1, 1]; discrete ones are indices."""
    window: int = 0
    """Past (obs, action) pairs that each agent also sees."""

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Spec:
        """The spec whose `asdict` went through JSON.

        Raises:
            DataError: It is none.
        """
        if not isinstance(plain, Mapping) or any(not isinstance(name, str) for name in plain):
            raise DataError("The spec should hold named widths.")
        try:
            record = SpecRecord.model_validate(dict(plain))
        except ValidationError as error:
            raise DataError(f"The spec is damaged: {explain(error, SpecRecord.model_fields)}") from None
        return cls(**record.model_dump())

    @property
    def n_agents(self) -> int:
        """Number of agents."""
        return len(self.obs_dims)

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of the agents, in the order of the agent axis."""
        return tuple(f"agent_{i}" for i in range(self.n_agents))

    @property
    def obs_dim(self) -> int:
        """Padded width of `obs`."""
        return max(self.obs_dims)

    @property
    def act_dim(self) -> int:
        """Padded width of continuous `actions`, or the padded number of choices."""
        return max(self.act_dims)

    @property
    def discrete(self) -> bool:
        """Whether actions are indices."""
        return self.action_kind == "discrete"

    @property
    def step_dim(self) -> int:
        """Width of one (obs, action) pair in a history; a discrete action rides there one-hot."""
        return self.obs_dim + self.act_dim

    def present(self, what: Literal["obs", "act"]) -> Annotated[Tensor, "agent width"]:
        """Bool table that is true on the entries an agent really has and false on its padding."""
        dims = self.obs_dims if what == "obs" else self.act_dims
        return torch.arange(max(dims)) < torch.tensor(dims).unsqueeze(-1)


@dataclass(frozen=True, slots=True)
class Needs:
    """Requirements of an algorithm on its batches; compared with the data's Spec before any training."""

    view: View = "transitions"
    origin: Origin = "data"
    """Rows of recorded data, or made by the current policy in the environment or in a world model."""
    actions: frozenset[ActionKind] = frozenset({"continuous", "discrete"})
    state: bool = False
    """Whether a global state is required."""
    window: int = 0
    """History length; set per instance from its config."""
    length: int = 1
    """Counted steps of a segment; 0 for whole episodes, each as long as the longest of its batch.

    Pairs are as long as what was compared, whatever this says.
    """
    burn_in: int = 0
    """Recorded steps before those of a segment, in which a recurrent network warms up.

    A segment then has `burn_in + length` steps and `mask` is true on `length` of them at most. It begins where its
    episode does if fewer steps come before, and the rest stands behind: time 0 is always a real step.
    """
    recorded: Literal["none", "some", "only"] = "none"
    """Whether batches must hold recorded rows beside imagined ones, as for cloning terms, or hold no others."""
    next_actions: bool = False
    """Whether batches hold what is done in the next step."""
    next_obs: bool = True
    """Whether next observations are read at all.

    If not, batches also hold steps of which nobody knows what followed; `Batch.next_seen` is false there.
    """
    joint: bool = False
    """Whether a step counts for an agent only where every agent's target is known, as for one value of the team."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing together."""
        if self.length < 0 or self.burn_in < 0:
            raise DataError(f"A segment has no {self.length} steps after {self.burn_in}: neither is negative.")
        if self.burn_in and (self.view != "segments" or not self.length):
            raise DataError("Only segments of a fixed length have steps to burn in before them.")


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows for one update. `*lead` is [batch], [batch, time] for segments, or [pair, side, time] for compared ones.

    Continuous actions are padded with zeros; discrete ones have no last axis.
    """

    obs: Obs
    """What each agent saw, zero-padded to the widest agent."""
    actions: Tensor
    """What each agent did: float in [-1, 1] `*lead agent act`, or int64 `*lead agent`."""
    rewards: PerAgent
    """A team reward is repeated for each agent."""
    next_obs: Obs
    terminations: PerAgent
    """Bool; stops the bootstrap."""
    truncations: PerAgent
    """Bool; ends the episode without stopping the bootstrap."""
    state: Annotated[Tensor, "*lead state"] | None = None
    next_state: Annotated[Tensor, "*lead state"] | None = None
    history: History | None = None
    """Last `window` (obs, action) pairs before this step, zeros where there are none."""
    next_history: History | None = None
    avail_actions: AvailActions | None = None
    """Bool, true where a discrete choice is allowed."""
    next_avail_actions: AvailActions | None = None
    next_actions: Tensor | None = None
    """As `actions`, of the next step: recorded, or for imagined rows the policy's own; zero where there is none."""
    next_mask: PerAgent | None = None
    """Bool, true where `next_actions` holds an action; false where a recorded episode ends or a row terminates."""
    mask: PerAgent | None = None
    """Bool, true where the entry counts; false for absent agents, padded time and steps that are burnt in. None where
    all entries count and the agents of a row terminate together or not at all."""
    present: PerAgent | None = None
    """Bool, true where an agent is there, whether or not its entry counts; None where `mask` says it."""
    next_present: PerAgent | None = None
    """Bool, true where an agent is there in the next step; None for those that are there and do not terminate."""
    synthetic: Annotated[Tensor, "*lead"] | None = None
    """Bool per row: imagined by a world model."""
    next_seen: PerAgent | None = None
    """Bool, false where an agent's `next_obs` was not recorded or it has left; None where all of it is known.

    Learners that read next observations need not look: `mask` is false where they would have to, and true where a
    termination leaves nothing to read.
    """
    preference: Annotated[Tensor, "pair"] | None = None
    """Of pairs: 1 where the first segment is preferred, 0 where the second is, 1/2 where neither."""
    subject: Annotated[Tensor, "pair"] | None = None
    """Of pairs, int64: the agent whose doings are judged, or -1 for the team."""

    def check(self) -> Batch:
        """Bind axis names across all fields.

        Returns:
            Itself, so that a border can be written `source.sample(needs).check()`.

        Raises:
            AxisError: Two fields disagree about an axis.
        """
        bound = check_fields(self)
        lead = (*bound["*lead"], bound["agent"])
        expected = len(lead) + (1 if self.actions.is_floating_point() else 0)
        if self.actions.shape[: len(lead)] != lead or self.actions.dim() != expected:
            raise AxisError(f"actions have shape {tuple(self.actions.shape)}, but obs has leading axes {lead}.")
        if self.next_actions is not None and self.next_actions.shape != self.actions.shape:
            shapes = f"{tuple(self.next_actions.shape)}, but actions have {tuple(self.actions.shape)}"
            raise AxisError(f"next_actions have shape {shapes}.")
        for name in ("preference", "subject"):
            told = getattr(self, name)
            if told is not None and told.shape != lead[: told.dim()]:
                raise AxisError(f"{name} has shape {tuple(told.shape)}, but obs has leading axes {lead[:-1]}.")
        if (self.next_actions is None) != (self.next_mask is None):
            raise AxisError("next_actions and next_mask come together: one of them is missing.")
        return self

    def __repr__(self) -> str:
        return f"Batch({tensors_line({f.name: getattr(self, f.name) for f in fields(self)})})"

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.obs)

    @property
    def team_terminations(self) -> PerTeam:
        """Bool: the episode is over for all who are there, by a termination."""
        if self.mask is None:
            return self.terminations.all(-1)
        return (self.terminations | ~self.mask).all(-1) & self.mask.any(-1)

    def map(self, function: Any) -> Batch:
        """The batch with `function` applied to each tensor it holds."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: function(value) for name, value in values.items() if value is not None})

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        return self.map(lambda value: value.to(device))

    def flatten(self) -> Batch:
        """All leading axes merged into one: segments become transitions, of which nothing is said."""
        lead = self.rewards.dim() - 1
        if lead == 1:
            return self
        return replace(self, preference=None, subject=None).map(lambda value: value.flatten(0, lead - 1))

    def with_next_actions(self, last: Tensor, next_mask: PerAgent) -> Batch:
        """Segments `[batch, time]` with the actions of the steps that follow.

        Args:
            last: Actions after their last step.
            next_mask: Where an action follows.
        """
        following = torch.cat([self.actions[:, 1:], last.unsqueeze(1)], dim=1)
        absent = ~next_mask.unsqueeze(-1) if following.is_floating_point() else ~next_mask
        return replace(self, next_actions=following.masked_fill(absent, 0), next_mask=next_mask)

    @staticmethod
    def stack(batches: Sequence[Batch], dim: int) -> Batch:
        """Batches of one shape along a new axis, such as the steps of segments along time.

        Raises:
            DataError: The batches do not hold the same fields.
        """
        return Batch._join(batches, lambda tensors: torch.stack(tensors, dim))

    @staticmethod
    def cat(batches: Sequence[Batch]) -> Batch:
        """Rows of several batches, one after another.

        Raises:
            DataError: The batches do not hold the same fields.
        """
        return Batch._join(batches, torch.cat)

    @staticmethod
    def _join(batches: Sequence[Batch], join: Callable[[list[Tensor]], Tensor]) -> Batch:
        field_names = [{f.name for f in fields(batch) if getattr(batch, f.name) is not None} for batch in batches]
        if any(names != field_names[0] for names in field_names):
            odd = sorted(field_names[0].union(*field_names) - field_names[0].intersection(*field_names))
            raise DataError(f"Batches cannot be joined: only some hold {', '.join(odd)}.")
        return replace(batches[0], **{name: join([getattr(b, name) for b in batches]) for name in field_names[0]})


@dataclass(frozen=True, slots=True)
class Episode:
    """One whole episode; what is seen has one row more than what is done."""

    obs: Annotated[Tensor, "time+1 agent obs"]
    actions: Tensor
    """`time agent act`, or int64 `time agent`."""
    rewards: Annotated[Tensor, "time agent"]
    terminations: Annotated[Tensor, "time agent"]
    truncations: Annotated[Tensor, "time agent"]
    state: Annotated[Tensor, "time+1 state"] | None = None
    avail_actions: Annotated[Tensor, "time+1 agent choice"] | None = None
    mask: Annotated[Tensor, "time agent"] | None = None
    """Bool, false where an agent is away; None where all are there."""
    end_seen: Tensor | None = None
    """A single bool: whether the last row was seen, or repeats the row before; None for yes."""

    def __repr__(self) -> str:
        return f"Episode({tensors_line({f.name: getattr(self, f.name) for f in fields(self)})})"

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.actions)


class Policy(Protocol):
    """Actions of a whole team from what its agents see; each agent's action depends on its own inputs alone.

    A policy may own its memory, as `RememberingPolicy`; any other one is given a window of (obs, action) pairs.
    """

    window: int
    """History length that `act` wants."""

    def act(
        self,
        obs: Obs,
        *,
        history: History | None = None,
        avail_actions: AvailActions | None = None,
        explore: bool = False,
    ) -> Tensor:
        """Actions `*lead agent act` (or int64 `*lead agent`); deterministic unless `explore`."""
        ...


class Memory(Protocol):
    """Memory of a policy over the steps of episodes side by side: a window, a hidden state, a return-to-go.

    One that is not a function of the steps alone, such as a hidden state that earlier weights computed, offers
    `state_dict` and `load_state_dict`: it is saved with the episodes that a run plays while it learns. Others are told
    these steps again by `remember`.
    """

    def read(self) -> Mapping[str, Any]:
        """Keyword arguments that `act` takes at this step, such as `history`."""
        ...

    def remember(self, obs: Obs, actions: Tensor, rewards: PerAgent) -> None:
        """Take in one step: what was seen, what the policy chose and what it earned."""
        ...


@runtime_checkable
class RememberingPolicy(Policy, Protocol):
    """A policy that owns its memory; `act` takes, as optional keyword arguments, what `Memory.read` gives.

    `window` says how many pairs `begin` wants of episodes under way.
    """

    def begin(self, copies: int, history: History | None = None) -> Memory:
        """The memory of episodes that begin, or that go on after the steps of `history`; on the policy's device."""
        ...


class Source(Protocol):
    """A supplier of batches: real data, imagined rollouts, mixtures."""

    def sample(self, needs: Needs) -> Batch:
        """Rows for one update, on the training device."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that influences future samples."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the saved source stood."""
        ...
