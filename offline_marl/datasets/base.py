"""Recordings of a whole simulator, and the multi-agent data sets that a partition makes of them.

Everything is flat tensors from the first moment: what is seen has one row more per episode than what
is done, so the row of transition i is i plus the number of its episode, and nothing is stored twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import torch
from torch import Tensor

from offline_marl.core.partition import Partition
from offline_marl.core.showing import html_table, tensors_line, widths
from offline_marl.core.types import DataError, Episode, Spec
from offline_marl.datasets import validate
from offline_marl.datasets.arrays.episodes import joined_fields
from offline_marl.datasets.arrays.flat import Arrays, Given, flat_fields
from offline_marl.datasets.arrays.presence import find_ends, leaves_early, with_presence
from offline_marl.datasets.catalog import SUFFIX
from offline_marl.datasets.columns import Columns
from offline_marl.datasets.episode_index import Lengths, episode_sums, ranges, starts
from offline_marl.datasets.episode_lists import of_chosen
from offline_marl.datasets.layout import save_flat
from offline_marl.datasets.validate import SEEN

PER_EPISODE = frozenset({"lengths", "ends_seen"})
"""Tensors with one entry an episode."""
ROWS_AT_ONCE = 1 << 18
"""Of tables that may be larger than memory."""
Flat = TypeVar("Flat", "Recording", "Dataset")
Chosen = Annotated[Tensor, "chosen"]
"""Int64 numbers of episodes."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Episodes of one simulated body, before it is split into agents."""

    state: Annotated[Tensor, "rows state"]
    """Float32, time+1 rows for each episode, one episode after another."""
    actions: Annotated[Tensor, "steps joint_act"]
    """Float32 in [-1, 1]."""
    rewards: Annotated[Tensor, "steps"]
    terminations: Annotated[Tensor, "steps"]
    truncations: Annotated[Tensor, "steps"]
    lengths: Lengths
    """Int64 steps of each episode."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Where it came from: scenario, environment id, versions, seeds, reference scores."""
    ends_seen: Annotated[Tensor, "episode"] | None = None
    """See `Dataset.ends_seen`."""

    def __repr__(self) -> str:
        held = {name: getattr(self, name) for name in ("state", "actions")}
        return f"Recording({len(self.lengths):,} episodes, {len(self.rewards):,} steps, {tensors_line(held)})"

    def check(self) -> Recording:
        """Refuse what no learner could use.

        Returns:
            Itself.

        Raises:
            DataError: Shapes that disagree, numbers that are not finite, actions outside [-1, 1], or
                episode borders that contradict the flags; names episode and field.
        """
        validate.check(self)
        return self

    def split(self, partition: Partition, mapped: bool = False) -> Dataset:
        """The multi-agent data set of this partition; an index, vectorised over all rows.

        Args:
            partition: Who sees and moves what.
            mapped: Leave the rows where they are, such as in a file, and share them out as they are drawn.

        Raises:
            DataError: The partition is of another body: it names columns that are not there.
        """
        sees = 1 + max(column for row in partition.obs_index for column in row)
        moves = sum(partition.act_dims)
        if sees > self.state.shape[1] or moves != self.actions.shape[1]:
            raise DataError(
                f"{partition.scenario} {partition.key} sees {sees} columns and moves {moves}, "
                f"the recording holds {self.state.shape[1]} and {self.actions.shape[1]}."
            )
        obs = Columns(self.state, *partition.padded_obs_index())
        actions = Columns(self.actions, *partition.padded_act_index())
        n_agents = len(partition.agents)
        return Dataset(
            # Columns stand in for the tensors that nobody makes of them.
            obs=cast(Tensor, obs) if mapped else obs[:],
            actions=cast(Tensor, actions) if mapped else actions[:],
            rewards=_repeat(self.rewards, n_agents),
            terminations=_repeat(self.terminations, n_agents),
            truncations=_repeat(self.truncations, n_agents),
            lengths=self.lengths,
            spec=Spec(partition.obs_dims, partition.act_dims, state_dim=self.state.shape[1]),
            state=self.state,
            metadata={**self.metadata, "conf": partition.conf, "view": partition.view},
            ends_seen=self.ends_seen,
        )


@dataclass(frozen=True, slots=True)
class Dataset:
    """Episodes of a team, as flat tensors.

    Of a set that stays on disk, `obs` and `actions` are `Columns`, which only give rows.
    """

    obs: Annotated[Tensor, "rows agent obs"]
    """Float32, time+1 rows for each episode, zero-padded to the widest agent."""
    actions: Tensor
    """`steps agent act` float32 in [-1, 1], or int64 `steps agent`."""
    rewards: Annotated[Tensor, "steps agent"]
    terminations: Annotated[Tensor, "steps agent"]
    """Bool; where there is a mask, true at an agent's own last step alone."""
    truncations: Annotated[Tensor, "steps agent"]
    lengths: Lengths
    spec: Spec
    state: Annotated[Tensor, "rows state"] | None = None
    avail_actions: Annotated[Tensor, "rows agent choice"] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    mask: Annotated[Tensor, "steps agent"] | None = None
    """Bool, true where an agent is there; None where all always are. Obs, actions and rewards are 0 where it is false.

    In the last row of an episode those are seen who took its last step.
    """
    ends_seen: Annotated[Tensor, "episode"] | None = None
    """Bool, false where nobody recorded what an episode's last step led to; None where all of it is known.

    The last row of what is seen then repeats the row before.
    """

    @classmethod
    def from_episodes(
        cls,
        episodes: Sequence[Episode],
        spec: Spec,
        metadata: Mapping[str, Any] | None = None,
        clip_actions: bool = False,
    ) -> Dataset:
        """A data set of your own episodes, checked; numpy arrays will do for their tensors.

        An agent whose flag comes before its episode's last step, of a team without masks, is away from then on.

        Args:
            episodes: Any number of them, at least one.
            spec: Widths and kinds.
            metadata: Where they came from.
            clip_actions: Clip actions that lie outside [-1, 1] instead of refusing them.

        Raises:
            DataError: An agent ends more than once; and see `check`.
        """
        data = cls(**joined_fields(episodes), spec=spec, metadata=deepcopy(dict(metadata or {})))
        validate.check_outside(data)
        if data.mask is None and leaves_early(data.terminations, data.truncations, data.lengths):
            held = {item.name: getattr(data, item.name) for item in fields(data)}
            data = cls(**with_presence(held, find_ends(data.terminations, data.truncations, data.lengths)))
        return (clipped(data) if clip_actions else data).check()

    @classmethod
    def from_arrays(
        cls,
        obs: Arrays,
        actions: Arrays,
        rewards: Arrays,
        *,
        next_obs: Arrays | None = None,
        lengths: Any = None,
        terminations: Arrays | None = None,
        truncations: Arrays | None = None,
        state: Any = None,
        next_state: Any = None,
        avail_actions: Arrays | None = None,
        choices: int | Sequence[int] | None = None,
        filled: Any = None,
        mask: Arrays | None = None,
        next_avail_actions: Arrays | None = None,
        metadata: Mapping[str, Any] | None = None,
        clip_actions: bool = False,
    ) -> Dataset:
        """A data set of your own arrays, one episode after another, checked; numpy or torch.

        Args:
            obs: `[step, agent, width]`, or a list with one `[step, width]` for each agent, of any widths. One row a
                step, or one more after the last step of each episode.
            actions: Floats in [-1, 1], shaped as `obs`; or whole numbers, `[step, agent]` or a list of `[step]`.
            rewards: `[step]` for the team, `[step, agent]`, or a list of `[step]`.
            next_obs: What followed each step, within an episode its next row. Without it and without the rows after the
                last steps, episodes repeat their last observation, and `ends_seen` says that nobody knows it.
            lengths: Steps of each episode; needs no flags: what no flag ends was cut.
            terminations: True where the task ended, `[step]`, `[step, agent]` or a list. An agent's flag is true once,
                in the step in which it leaves, or until the episode ends; an episode ends when all have left.
            truncations: The same for the clock.
            state: `[step, width]` with the rows of `obs`; `next_state` goes with `next_obs`.
            next_state: See `state`.
            avail_actions: True where a choice is allowed, shaped as `obs`; `next_avail_actions` goes with `next_obs`.
            choices: How many each agent has; by default as `avail_actions` says, else the largest that was made.
            filled: `[episode, time + 1]` of PyMARL's padded episodes, true for an episode's steps and for the row after
                the last one, which holds what was seen then; all others then have axes `[episode, time + 1, ...]`.
            mask: True where an agent is there, `[step, agent]`, for those who come later; needs `lengths`.
            next_avail_actions: See `avail_actions`; after a task's end nothing need be allowed.
            metadata: Where it came from.
            clip_actions: Clip actions that lie outside [-1, 1] instead of refusing them.

        Raises:
            DataError: Arrays that do not fit together, and see `check`; one sentence that names the argument.
        """
        given = Given(
            obs,
            actions,
            rewards,
            next_obs,
            lengths,
            terminations,
            truncations,
            state,
            next_state,
            avail_actions,
            choices,
            filled,
            mask,
            next_avail_actions,
        )
        data = cls(**flat_fields(given), metadata=deepcopy(dict(metadata or {})))
        return (clipped(data) if clip_actions else data).check()

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.rewards)

    def __repr__(self) -> str:
        return f"Dataset({', '.join(f'{name} {value}' for name, value in self._figures().items())})"

    def _repr_html_(self) -> str:
        return html_table("Dataset", self._figures())

    def _figures(self) -> dict[str, object]:
        spec, returns = self.spec, self.returns()
        shown = {
            "episodes": f"{len(self.lengths):,}",
            "steps": f"{len(self):,}",
            "agents": spec.n_agents,
            "obs": widths(spec.obs_dims),
            f"{spec.action_kind} actions": widths(spec.act_dims),
            "state": spec.state_dim or None,
            "return": f"{returns.mean():.4g} [{returns.min():.4g}, {returns.max():.4g}]" if len(returns) else None,
            "scenario": self.metadata.get("scenario"),
        }
        return {name: value for name, value in shown.items() if value is not None}

    def save(self, path: str | Path) -> Path:
        """Write the data set to a file of our layout, whole or not at all; `--dataset FILE` and `load_dataset` read it.

        Args:
            path: It ends in .safetensors; a file that is there is replaced.

        Raises:
            DataError: The name has another ending.
        """
        path = Path(path)
        if path.suffix != SUFFIX:
            raise DataError(f"{path} should end in {SUFFIX}, by which data sets are known.")
        held = {item.name: getattr(self, item.name) for item in fields(self)}
        save_flat(path, Dataset, {**held, "metadata": dict(self.metadata), "spec": asdict(self.spec)})
        return path

    def check(self) -> Dataset:
        """Refuse what no learner could use.

        Returns:
            Itself.

        Raises:
            DataError: See `Recording.check`; also widths that contradict the spec.
        """
        validate.check(self)
        return self

    def episode(self, index: int, first: int | None = None) -> Episode:
        """One whole episode.

        Args:
            index: Its number; negative ones count from the last one, which is -1.
            first: Its first transition, where that is known.

        Raises:
            IndexError: There is no such episode.
        """
        index = range(len(self.lengths))[index]
        first = int(starts(self.lengths)[index]) if first is None else first
        length = int(self.lengths[index])
        values: dict[str, Any] = {}
        if self.ends_seen is not None:
            values["end_seen"] = self.ends_seen[index]
        for item in fields(Episode):
            value = getattr(self, item.name, None)
            if value is not None:
                begin, rows = (first + index, length + 1) if item.name in SEEN else (first, length)
                values[item.name] = value[begin : begin + rows]
        return Episode(**values)

    def returns(self) -> Annotated[Tensor, "episode"]:
        """Summed reward of each episode, averaged over agents; whoever is away earns 0."""
        return episode_sums(self.rewards.mean(-1), self.lengths)

    def select(self, episodes: Chosen) -> Dataset:
        """The data set of the chosen episodes, in the order given, with what the metadata say of each of them.

        Args:
            episodes: Their numbers, or a bool for each episode.

        Raises:
            DataError: One is no episode's.
        """
        numbers = _numbers(episodes, len(self.lengths))
        metadata = of_chosen(self.metadata, len(self.lengths), numbers.tolist())
        return replace(select(self, numbers), metadata=metadata)


def clipped(data: Flat) -> Flat:
    """The data with actions clipped to [-1, 1]; `clipped_actions` in the metadata counts the entries that were not."""
    if not data.actions.is_floating_point():
        return data
    outside = sum(int((piece.abs() > 1).sum()) for _, piece in validate.chunks(data.actions))
    if not outside:
        return data
    given = data.actions[:]
    # Infinite ones stay, to be refused.
    actions = torch.where(given.isfinite(), given.clamp(-1, 1), given)
    return replace(data, actions=actions, metadata={**data.metadata, "clipped_actions": outside})


def rescaled(data: Flat, scale: float) -> Flat:
    """The data with actions divided by `scale`, which the metadata keep as `action_scale`.

    Raises:
        DataError: The actions are choices, or the scale is not above 0.
    """
    if scale == 1:
        return data
    if not (math.isfinite(scale) and scale > 0):
        raise DataError(f"action_scale = {scale:g} should be a number above 0, which recorded actions are divided by.")
    if not data.actions.is_floating_point():
        raise DataError(f"action_scale = {scale:g} is for continuous actions, and these are choices.")
    return replace(data, actions=data.actions[:] / scale, metadata={**data.metadata, "action_scale": scale})


def select(data: Flat, episodes: Chosen) -> Flat:
    """The chosen episodes of a recording or data set, in the order given; vectorised."""
    lengths = data.lengths[episodes]
    first = starts(data.lengths)[episodes]
    steps, rows = ranges(first, lengths), ranges(first + episodes, lengths + 1)
    values = {item.name: getattr(data, item.name) for item in fields(data)}
    tensors: dict[str, Any] = {
        name: value[rows if name in SEEN else steps]
        for name, value in values.items()
        if isinstance(value, Tensor | Columns) and name not in PER_EPISODE
    }
    if data.ends_seen is not None:
        tensors["ends_seen"] = data.ends_seen[episodes]
    return replace(data, **tensors, lengths=lengths)


def _numbers(episodes: Any, count: int) -> Tensor:
    """Numbers of episodes from 0, of numbers that may be negative or of a bool for each episode.

    Raises:
        DataError: One is no episode's.
    """
    chosen = torch.as_tensor(episodes).cpu()
    if chosen.dtype == torch.bool and chosen.shape == (count,):
        return chosen.nonzero().flatten()
    whole = not chosen.is_floating_point() and chosen.dtype != torch.bool
    if chosen.dim() != 1 or not (whole or not len(chosen)) or bool(((chosen < -count) | (chosen >= count)).any()):
        raise DataError(f"Episodes are chosen by a list of numbers below {count}, or by {count} bools.")
    return chosen.long() % count


def _repeat(values: Tensor, n_agents: int) -> Tensor:
    return values.unsqueeze(-1).expand(-1, n_agents)
