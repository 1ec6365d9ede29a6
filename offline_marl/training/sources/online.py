"""Choice of the replay of a run that plays: its environment, its ring, and what it begins with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch

from offline_marl.algorithms.base import Algorithm
from offline_marl.core.seeding import Generators
from offline_marl.core.types import DataError, Episode, Source, Spec
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer, refuse_long_window
from offline_marl.datasets.episode_ring import EpisodeRing
from offline_marl.environments.guarded import Guarded
from offline_marl.runs import checkpoint
from offline_marl.runs.config import RunConfig
from offline_marl.runs.folder import REPLAY, RunFolder, RunFolderError, newest_state
from offline_marl.tasks.data_tasks import ScoredTask, Task, team_of
from offline_marl.tasks.run_tasks import scored_task_of
from offline_marl.training.rewards import Rewards
from offline_marl.training.sources.episode_files import EpisodeFiles
from offline_marl.training.sources.playing import Player
from offline_marl.training.sources.recorded import DatasetSource
from offline_marl.training.sources.replay import Follower, LiveMixture, Pace, RecordedEpisodes, ReplaySource

LIVE_FRACTION = 0.5
"""Share of recorded rows beside live ones unless said."""


@dataclass(frozen=True)
class Replay:
    """The parts of a source that plays, made before the run begins."""

    config: RunConfig
    folder: RunFolder
    task: Task
    ring: EpisodeRing
    player: Player
    rewards: Rewards
    given: RecordedEpisodes
    rows: LiveMixture | DatasetSource
    """Rows of the ring, or of recorded and live episodes."""

    def source(self, rows: Source, follower: Follower | None = None) -> ReplaySource:
        """A source that plays, and draws these rows; of a run that begins now, filled with what it begins with."""
        config, folder = self.config, self.folder
        files = EpisodeFiles(folder.path / REPLAY, self.player.env.spec)
        pace = Pace(config.first_steps, config.updates_per_step)
        made = ReplaySource(
            self.player, self.ring, files, pace, rows, self.rewards, config.keep_checkpoints, self.given, follower
        )
        if not checkpoint.found(folder.checkpoints):
            made.begin(() if config.init is None else _taken_over(RunFolder(config.init), self))
        return made


def plan_replay(
    config: RunConfig, folder: RunFolder, task: Task, rewards: Rewards, learner: Algorithm, foreseen: bool = False
) -> Replay:
    """Make the environment and the ring of a run that plays; what can be refused is refused here.

    Args:
        config: The run's settings.
        folder: The run folder, which keeps the episodes.
        task: Its data, or uniform play of a run without, and its environment.
        rewards: The data with the rewards that are learnt from.
        learner: Plays.
        foreseen: Whether imagined rows beside live ones hold the global state.

    Raises:
        DataError: There is no environment, it is of another team than the data, or the replay is too small.
    """
    device, needs = torch.device(config.device), learner.needs
    env = task.make_envs(config.replay_copies, config.workers)
    if env is None:
        raise DataError(f"--online plays an environment, and none belongs to {task.id}: {task.hint}.")
    guarded = Guarded(env, environment_name(config, task), config.environment_timeout)
    with_state = needs.state or foreseen
    if with_state and not env.spec.state_dim:
        who = config.algorithm if needs.state else "The world model"
        raise DataError(f"{who} needs a global state; {guarded.name} shows none.")
    recorded = rewards.recorded
    given = _given(config, recorded)
    longest = max([env.max_steps, *given.lengths])
    refuse_long_window(torch.tensor([longest]), learner.window)
    ring = EpisodeRing(
        env.spec,
        _rows(config, env.max_steps, longest, given),
        longest,
        learner.window,
        device,
        with_state,
        folder.path / REPLAY if _is_mapped(config, env.spec, longest, given, with_state) else None,
    )
    generators = Generators(config.seed)
    player = Player(
        learner,
        guarded,
        config.replay_copies,
        generators.get("episodes"),
        generators.get("warm-up"),
        device,
        config.first_steps,
    )
    live = DatasetSource(ring, learner.batch_size, Generators(config.seed, ring.device).get("live"))
    rows: LiveMixture | DatasetSource = live
    if config.dataset is not None and not config.prefill:
        buffer = TransitionBuffer(recorded, learner.window, device, state=with_state, stays=task.mapped)
        data = DatasetSource(buffer, learner.batch_size, Generators(config.seed, buffer.device).get("batches"))
        rows = LiveMixture(data, live, _live_shares(config), config.steps)
    return Replay(config, folder, task, ring, player, rewards, given, rows)


def _given(config: RunConfig, recorded: Dataset) -> RecordedEpisodes:
    """Episodes of the data that the ring begins with: the last ones that fit, if it is to begin with any."""
    given = RecordedEpisodes(recorded, config.replay_capacity if config.prefill else 0)
    if config.prefill and not given:
        raise DataError(
            f"A replay of {config.replay_capacity:,} rows cannot hold the last recorded episode, which has "
            f"{int(recorded.lengths[-1]):,} steps: raise --replay-capacity."
        )
    if config.prefill and given.skipped:
        print(
            f"warning: the last {len(given):,} of {len(recorded.lengths):,} recorded episodes fit into a replay of "
            f"{config.replay_capacity:,} rows; the others are not learnt from (--replay-capacity).",
            file=sys.stderr,
        )
    return given


def environment_name(config: RunConfig, task: Task) -> str:
    """What messages call the environment of a run."""
    return config.environment or str(task.about.get("scenario") or f"of {task.id}")


def _rows(config: RunConfig, max_steps: int, longest: int, given: Sequence[Episode]) -> int:
    """Rows of the ring: no more than the run can fill."""
    if config.replay_capacity < longest:
        raise DataError(
            f"A replay of {config.replay_capacity:,} rows cannot hold one whole episode, which may have {longest:,} "
            "steps: raise --replay-capacity."
        )
    if config.init is not None:
        return config.replay_capacity
    played = config.first_steps + ceil(config.steps / config.updates_per_step) + 2 * config.replay_copies * max_steps
    return min(config.replay_capacity, played + sum(map(len, given)))


def _is_mapped(config: RunConfig, spec: Spec, longest: int, given: Sequence[Episode], state: bool) -> bool:
    """Whether the ring takes more than `--memory` allows, with the global state if it holds that."""
    rows = _rows(config, longest, longest, given)
    action = 8 if spec.discrete else 4 * spec.act_dim
    agents = spec.n_agents * (4 * spec.obs_dim + action + 6 + spec.discrete * spec.act_dim)
    return rows * (agents + state * 4 * spec.state_dim) > config.memory * 1e9


def _live_shares(config: RunConfig) -> tuple[float, float] | None:
    """Shares of recorded rows beside live ones; beside imagined rows too they are half and half."""
    if config.world_model is not None:
        return LIVE_FRACTION, LIVE_FRACTION
    first = LIVE_FRACTION if config.real_fraction is None else config.real_fraction
    if first == "auto":
        return None
    last = first if config.real_fraction_end is None else config.real_fraction_end
    return float(first), float(last)


def _taken_over(other: RunFolder, replay: Replay) -> Iterator[list[Episode]]:
    """Episodes of another run's replay, if it has one of the same environment."""
    state = newest_state(other)
    if state is None or "player" not in state["source"]:
        return
    held: dict[str, Any] = state["source"]["ring"]
    if _place(replay.config, lambda: replay.task) != _place(other.config(), lambda: scored_task_of(other)):
        print(f"warning: the replay of {other.path} is of another environment and is not taken over.", file=sys.stderr)
        return
    begun, spec = other.versions().get("spec"), replay.ring.spec
    if begun is None or team_of(Spec.from_plain(begun)) != team_of(spec):
        raise RunFolderError(f"The replay of {other.path} is of another team: it cannot be taken over.")
    print(f"takes over the replay of {other.path}", file=sys.stderr)
    yield from EpisodeFiles(other.path / REPLAY, spec).read(
        max(held["oldest"], state["source"]["given"]), held["count"]
    )


def _place(config: RunConfig, find: Callable[[], ScoredTask]) -> tuple[object, Mapping[str, Any], object]:
    """Where a run plays: the environment's name, what it is made with, and the length of its episodes if chosen."""
    if config.environment is not None:
        return config.environment, config.env_settings, config.max_steps
    task = find()
    about, shares = task.about, task.partition
    name = about.get("scenario") if shares is None else f"{shares.scenario}_{shares.key}"
    return name, about.get("settings") or {}, about.get("max_steps")
