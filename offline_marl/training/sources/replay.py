"""Replay of an off-policy learner: it plays its environment between updates and draws from what it has lived through.

Whole episodes enter a ring when they end. Beside live rows a share of recorded ones may be drawn, and imagined ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, overload

import torch
from torch import Tensor

from offline_marl.core.errors import BadInputError, sentence
from offline_marl.core.types import Batch, Episode, Needs, Source, Spec
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.episode_index import starts
from offline_marl.datasets.episode_ring import EpisodeRing
from offline_marl.environments.guarded import EnvironmentFailedError
from offline_marl.runs.stopping import asked
from offline_marl.training.loop import SourceInterrupted, SourceStoppedError
from offline_marl.training.rewards import Rewards
from offline_marl.training.sources.episode_files import EpisodeFiles
from offline_marl.training.sources.playing import Player
from offline_marl.training.sources.recorded import DatasetSource, lengthened


class Follower(Protocol):
    """A listener to the episodes that a replay takes in."""

    def hear(self, number: int, episode: Episode) -> None:
        """Take note of an episode as it was played, before it is asked what its steps are paid."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is played before each update.

    Update k (from 0 on) comes after `warm + (k + 1) / updates_per_step` environment steps.
    """

    warm: int
    updates_per_step: float

    def due(self, update: int) -> float:
        """Environment steps that are played before this update."""
        # Rounded, since 21 / .7 is a little more than 30, and would ask for a thirty-first step.
        return round(self.warm + (update + 1) / self.updates_per_step, 6)


class ReplaySource:
    """Plays as much as each update asks for, keeps the episodes, and draws from them.

    Args:
        player: Plays.
        ring: Keeps whole episodes with the rewards that are learnt from.
        files: Keeps them on disk as they were played, for a restart.
        pace: How much is played before each update.
        rows: Draws batches, from the ring alone or from a mixture with it.
        rewards: Converts what the environment pays to what is learnt from.
        keep: Checkpoints that stay on disk, 0 for all: what they need of the files stays too.
        given: Episodes of a data set that the ring begins with, with the rewards that are learnt from.
        follower: Told of live episodes.
    """

    def __init__(
        self,
        player: Player,
        ring: EpisodeRing,
        files: EpisodeFiles,
        pace: Pace,
        rows: Source,
        rewards: Rewards,
        keep: int,
        given: Sequence[Episode] = (),
        follower: Follower | None = None,
    ) -> None:
        self.player, self.ring, self.files, self.pace = player, ring, files, pace
        self.rows, self.rewards, self.given = rows, rewards, given
        self.drawn = 0
        self.follower = follower
        self._unsaved: list[Episode] = []
        self._saved = len(self.given)
        """Number of the first episode that no file holds."""
        # How many episodes each checkpoint on disk counts and the oldest that it needs, the newest last.
        self._needed: deque[tuple[int, int]] = deque(maxlen=keep or None)

    def begin(self, taken: Iterable[list[Episode]] = ()) -> None:
        """Fill the ring with what a new run begins with: the data's episodes, then those of another run's replay."""
        self.ring.extend(self.given)
        for episodes in taken:
            self._keep(episodes)
            self._write()

    def sample(self, needs: Needs) -> Batch:
        """The next batch, once enough has been played for it."""
        self.play()
        return self.draw(needs)

    def draw(self, needs: Needs) -> Batch:
        """The next batch of what has been played."""
        self.drawn += 1
        return self.rows.sample(needs)

    def play(self) -> None:
        """Play as much as the next batch asks for.

        Raises:
            SourceStoppedError: The environment died, hung, or showed what nobody could learn from.
            SourceInterrupted: The process was asked to stop; what has been played by then is part of the state.
        """
        due = self.pace.due(self.drawn)
        while self.player.steps < due or not len(self.ring):
            if asked.is_set():
                raise SourceInterrupted
            try:
                finished = self.player.advance()
            except EnvironmentFailedError as error:
                raise SourceStoppedError(sentence(error)) from error
            except BadInputError as error:
                raise SourceStoppedError(f"The environment {self.player.env.name} failed: {sentence(error)}") from error
            if finished:
                self._keep(finished)

    def _keep(self, episodes: list[Episode]) -> None:
        number = self._saved + len(self._unsaved)
        self._unsaved += episodes
        self._push(number, episodes)

    def _push(self, number: int, episodes: Sequence[Episode]) -> None:
        """Put episodes, numbered from here on, into the ring."""
        self.ring.extend(self._heard(place, episode) for place, episode in enumerate(episodes, number))

    def _heard(self, number: int, episode: Episode) -> Episode:
        if self.follower is not None:
            self.follower.hear(number, episode)
        return self.learnt(episode)

    def played(self) -> Iterator[tuple[int, Episode]]:
        """Numbers of the live episodes that the ring holds, and these as they were played."""
        number = max(self.ring.oldest, len(self.given))
        for episodes in self.files.read(number, self._saved):
            yield from enumerate(episodes, number)
            number += len(episodes)
        yield from enumerate(self._unsaved[number - self._saved :], number)

    def learnt(self, episode: Episode) -> Episode:
        """The episode with the rewards that are learnt from."""
        batch = whole_episode(episode).to(self.player.device)
        return replace(episode, rewards=self.rewards.of(batch).rewards[0].cpu())

    def _write(self) -> None:
        """Write the episodes that no file holds yet."""
        self.files.write(self._saved, self._unsaved)
        self._saved += len(self._unsaved)
        self._unsaved = []

    def state_dict(self) -> dict[str, Any]:
        """Counts, generators and the episodes under way; those that have ended are in files, written now."""
        self.files.folder.mkdir(parents=True, exist_ok=True)
        self._write()
        if self._needed:
            self.files.drop_before(min(oldest for _, oldest in self._needed))
        self._needed.append((self.ring.count, self.ring.oldest))
        self.files.write_needed(self._needed)
        return {
            "environment_steps": self.player.steps,
            "player": self.player.state_dict(),
            "ring": {"oldest": self.ring.oldest, "count": self.ring.count, "columns": sorted(self.ring.columns)},
            "given": len(self.given),
            "drawn": self.drawn,
            "rows": self.rows.state_dict(),
        }

    def refuse_lacking(self, state: Mapping[str, Any]) -> None:
        """Make sure that the files are there which a saved source goes on with.

        Raises:
            RunFolderError: Episodes of the replay are missing.
            DamagedFileError: A file is cut short.
        """
        held = state["ring"]
        self.files.refuse_lacking(max(held["oldest"], len(self.given)), held["count"])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the saved source stood.

        Raises:
            RunFolderError: Episodes of the replay are missing.
        """
        held, given = state["ring"], len(self.given)
        self.ring.restore(held["oldest"], held["columns"])
        self.ring.extend(self.given[number] for number in range(held["oldest"], given))
        number = max(held["oldest"], given)
        for episodes in self.files.read(number, held["count"]):
            self._push(number, episodes)
            number += len(episodes)
        self._saved, self._unsaved = held["count"], []
        self._needed.extend(mark for mark in self.files.read_needed() if mark[0] <= held["count"])
        self.drawn = state["drawn"]
        self.rows.load_state_dict(state["rows"])
        cut = self.player.load_state_dict(state["player"])
        if cut:
            self._keep(cut)


def whole_episode(episode: Episode) -> Batch:
    """An episode as a segment of its own, `[1, time]`."""
    seen = {name: getattr(episode, name) for name in ("obs", "state", "avail_actions")}
    parts: dict[str, Any] = {}
    for name, value in seen.items():
        parts |= {name: None if value is None else value[:-1], f"next_{name}": None if value is None else value[1:]}
    parts |= {name: getattr(episode, name) for name in ("actions", "rewards", "terminations", "truncations", "mask")}
    return Batch(**parts).map(lambda value: value.unsqueeze(0))


class RecordedEpisodes(Sequence[Episode]):
    """The last episodes of a data set that have no more than so many steps together.

    Args:
        data: The data set.
        steps: Most steps of all of them.
    """

    def __init__(self, data: Dataset, steps: int) -> None:
        self.data = data
        fit = torch.cumsum(data.lengths.flip(0), 0) <= steps
        self.skipped = len(data.lengths) - int(fit.sum())
        self.lengths: list[int] = data.lengths[self.skipped :].tolist()
        self._starts = starts(data.lengths).tolist()

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, number: int) -> Episode: ...

    @overload
    def __getitem__(self, number: slice) -> list[Episode]: ...

    def __getitem__(self, number: int | slice) -> Episode | list[Episode]:
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        place = self.skipped + number
        return self.data.episode(place, self._starts[place])

    def __iter__(self) -> Iterator[Episode]:
        return (self[number] for number in range(len(self)))


class LiveMixture:
    """Recorded and live rows side by side, each a share of the batch.

    Args:
        recorded: Rows of the data set; its `batch_size` is that of the mixture.
        live: Rows of the replay.
        shares: Share of recorded rows at the first update and at the last; None weighs every row there is alike.
        steps: Updates of the run, over which the share moves.
    """

    def __init__(
        self, recorded: DatasetSource, live: DatasetSource, shares: tuple[float, float] | None, steps: int
    ) -> None:
        self.recorded, self.live, self.shares, self.steps = recorded, live, shares, steps
        self.batch_size, self.generator, self.spec = recorded.batch_size, live.generator, recorded.buffer.spec
        self.buffer = live.buffer
        self.drawn = 0

    def recorded_share(self, needs: Needs) -> float:
        """Share of recorded rows in the next batch."""
        if self.shares is None:
            return self.recorded.held(needs) / self.held(needs)
        first, last = self.shares
        return first + (last - first) * min(self.drawn / max(self.steps - 1, 1), 1.0)

    def sample(self, needs: Needs) -> Batch:
        """The next batch: recorded rows first; of segments the shorter are padded."""
        return self.draw(self.batch_size, needs)

    def draw(self, rows: int, needs: Needs) -> Batch:
        """So many rows, shared out as the next batch's."""
        count = round(self.recorded_share(needs) * rows)
        self.drawn += 1
        shared = ((self.recorded, count), (self.live, rows - count))
        parts = [source.draw(part, needs) for source, part in shared if part]
        if len(parts) == 1:
            return parts[0]
        if needs.view == "segments":
            longest = max(part.rewards.shape[1] for part in parts)
            parts = [lengthened(part, longest) for part in parts]
        return Batch.cat(with_same_fields(parts, self.spec))

    def held(self, needs: Needs) -> float:
        """Number of rows there are to draw from both, see `DatasetSource.held`."""
        return self.recorded.held(needs) + self.live.held(needs)

    def masks(self, needs: Needs) -> bool:
        """Whether rows of either hold a mask."""
        return self.recorded.masks(needs) or self.live.masks(needs)

    def state_dict(self) -> dict[str, Any]:
        """Cursors of both."""
        return {"recorded": self.recorded.state_dict(), "live": self.live.state_dict(), "drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the saved source stood."""
        self.recorded.load_state_dict(state["recorded"])
        self.live.load_state_dict(state["live"])
        self.drawn = state["drawn"]


def with_same_fields(parts: list[Batch], spec: Spec) -> list[Batch]:
    """Batches that hold the same optional fields: what only some say of agents and choices holds for all elsewhere."""
    held = {item.name for part in parts for item in fields(Batch) if getattr(part, item.name) is not None}

    def filled(part: Batch) -> Batch:
        there = torch.ones_like(part.terminations)
        every = spec.present("act").to(part.rewards.device).expand(*part.rewards.shape, spec.act_dim)
        present = there if part.mask is None else part.mask
        defaults: dict[str, Tensor] = {
            "mask": there,
            "present": present,
            "next_present": present & ~part.terminations,
            "next_seen": there,
            "avail_actions": every,
            "next_avail_actions": every,
        }
        lacking = {name for name in defaults if name in held and getattr(part, name) is None}
        return replace(part, **{name: defaults[name] for name in lacking})

    return [filled(part) for part in parts]
