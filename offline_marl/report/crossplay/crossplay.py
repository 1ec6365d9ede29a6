"""Cross-play: returns of teams mixed from different runs, on the same starts, as a matrix.

Two agents: entry (i, j) is the team of agent_0 from run i and agent_1 from run j. More agents: the team of run i in
which one agent is run j's, averaged over which one it is. The diagonal is self-play.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch

from offline_marl.core.reference import Reference
from offline_marl.core.types import DataError
from offline_marl.environments.base import Conventions, JointEnv
from offline_marl.environments.episodes import Episodes, episode_seeds, play
from offline_marl.environments.guarded import Guarded
from offline_marl.report.crossplay.groups import SHARE, Matrix, find_groups, losses, same_group, scale_of
from offline_marl.report.crossplay.players import MixedTeam, Player, open_players
from offline_marl.runs.config import NO_CHOICE, EnvironmentChoice
from offline_marl.tasks.data_tasks import ScoredTask
from offline_marl.tasks.scoring import MOST_COPIES

RESAMPLES = 2_000
Values = npt.NDArray[np.float64]
Returns = Annotated[npt.NDArray[np.float64], "row column start"]


@dataclass(frozen=True)
class Interval:
    """Mean with its 95 % percentile-bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """Runs that share a convention, by the rule of `crossplay.groups`."""

    members: tuple[int, ...]
    """Rows of the matrix."""
    convention: str | None
    """Convention that their own teams follow most; None where the environment tells none, or none is followed."""
    followed: float | None
    """Share of self-play episodes in which all agents followed it."""


@dataclass(frozen=True)
class Crossplay:
    """Cross-play matrix with intervals, groups and summary."""

    players: tuple[Player, ...]
    task: str
    """Where they met: a body's with conf and view, else the environment."""
    agents: int
    episodes: int
    seed: int
    """Decides the starts; all pairings play the same ones."""
    returns: Returns
    low: Matrix
    """Ends of the 95 % bootstrap intervals over starts."""
    high: Matrix
    reference: Reference | None
    agreement: Matrix | None
    """Share of episodes in which all agents followed one convention; None where there is nothing to agree on."""
    groups: tuple[Group, ...]
    loss: Matrix
    limit: float
    """Loss above which two runs can be apart."""
    summary: dict[str, Interval | None]
    """Means of self_play (the diagonal), cross_play (the rest), within and across groups, and the gap of the first two;
    None where there are no such pairings."""
    covers: str
    """What the intervals of the summary cover."""
    notes: tuple[str, ...]

    @property
    def means(self) -> Matrix:
        """Mean returns over starts."""
        means: Matrix = self.returns.mean(-1)
        return means

    def scaled(self, values: Values, difference: bool = False) -> Values:
        """Normalise returns, or differences of returns, where there is a reference."""
        if self.reference is None:
            return values
        normalized: Values = np.vectorize(self.reference.normalized, otypes=[np.float64])(values)
        return normalized - self.reference.normalized(0.0) if difference else normalized

    @property
    def unit(self) -> str:
        """Name of the scale of `scaled`."""
        return "return" if self.reference is None else "normalized return"

    @property
    def order(self) -> list[int]:
        """Rows, group by group."""
        return [row for group in self.groups for row in group.members]


def crossplay(
    runs: Sequence[str | Path],
    episodes: int = 100,
    seed: int = 0,
    workers: int = 1,
    tick: Callable[[], object] = lambda: None,
    choice: EnvironmentChoice = NO_CHOICE,
) -> Crossplay:
    """Let the newest checkpoints of runs play together, deterministically and on the CPU.

    Args:
        runs: Run folders, two or more, trained for one environment that is shared among agents in one way.
        episodes: Starts of each pairing.
        seed: Decides the starts; the same ones as those of `evaluate` with this seed.
        workers: Processes that step the simulator; nothing depends on how many.
        tick: Called after each pairing of the matrix.
        choice: Another environment to meet in, or permission to import that of the runs.

    Raises:
        ConfigError: There are fewer than two runs, or one is named twice.
        RunFolderError: A folder holds no run, or no checkpoint that can be read.
        DataError: Their agents cannot meet, there is nothing to act in, or a run's actions are not finite.
        EnvironmentFailedError: It died.
    """
    players, tasks = open_players(runs, choice)
    made = tasks[0].make_envs(min(MOST_COPIES, episodes), workers)
    if made is None:
        raise DataError(
            f"{players[0].folder} cannot play: no environment belongs to its data ({tasks[0].id}); {tasks[0].hint}."
        )
    env = Guarded(made, tasks[0].called)
    try:
        agents = env.spec.n_agents
        if agents < 2:
            raise DataError(f"{tasks[0].id} has a single agent: there is nobody to play with.")
        torch.set_num_threads(1)
        played = _play_all(players, tasks[0], env, episode_seeds(seed, episodes), tick)
    finally:
        env.close()
    return _build_result(players, tasks, agents, seed, *played)


def guest_positions(agents: int) -> tuple[int, ...]:
    """List the agents that the second run plays, one at a time."""
    return (1,) if agents == 2 else tuple(range(agents))


def _play_all(
    players: Sequence[Player], task: ScoredTask, env: JointEnv, seeds: Sequence[int], tick: Callable[[], object]
) -> tuple[Returns, Matrix | None, list[Conventions | None]]:
    """Play all pairings: returns, agreement, and the conventions of the runs' own teams."""
    count, agents = len(players), env.spec.n_agents
    returns, agreed = np.zeros((count, count, len(seeds))), np.full((count, count), np.nan)
    self_play: list[Conventions | None] = []
    for i, row in enumerate(players):
        for j, column in enumerate(players):
            positions = guest_positions(agents) if i != j else (0,)
            for guest in positions:
                members = [column.policy if agent == guest else row.policy for agent in range(agents)]
                played = _play_pair(members, env, seeds, (row, column))
                returns[i, j] += played.returns / len(positions)
                followed = None if played.ends is None else task.conventions(played.ends)
                if followed is not None:
                    agreed[i, j] = np.nansum([agreed[i, j], followed.agreed.mean() / len(positions)])
                if i == j:
                    self_play.append(followed)
            tick()
    return returns, None if self_play[0] is None else agreed, self_play


def _play_pair(members: Sequence[object], env: JointEnv, seeds: Sequence[int], pair: tuple[Player, Player]) -> Episodes:
    try:
        return play(MixedTeam(members, env.spec), env, seeds)  # type: ignore[arg-type]
    except DataError as error:
        raise DataError(f"{pair[0].folder} with {pair[1].folder}: {error}") from None


def _build_result(
    players: Sequence[Player],
    tasks: Sequence[ScoredTask],
    agents: int,
    seed: int,
    returns: Returns,
    agreement: Matrix | None,
    self_play: Sequence[Conventions | None],
) -> Crossplay:
    draw = np.random.default_rng(0)
    count, episodes = len(players), returns.shape[-1]
    starts = draw.multinomial(episodes, np.full(episodes, 1 / episodes), RESAMPLES) / episodes
    drawn = (starts @ returns.reshape(-1, episodes).T).reshape(-1, count, count)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    means, loss = returns.mean(-1), losses(returns.mean(-1))
    reference, random, notes = _common_scale(tasks)
    limit = SHARE * scale_of(means, random)
    groups = find_groups(loss, np.percentile(losses(drawn), 2.5, axis=0), limit)
    notes += [
        f"{player.name} is unfinished: its step {player.step:,} plays." for player in players if not player.finished
    ]
    return Crossplay(
        players=tuple(players),
        task=_place_of(tasks[0]),
        agents=agents,
        episodes=episodes,
        seed=seed,
        returns=returns,
        low=low,
        high=high,
        reference=reference,
        agreement=agreement,
        groups=tuple(_name_group(group, self_play) for group in groups),
        loss=loss,
        limit=limit,
        summary=_summarize(means, drawn, groups, draw),
        covers="starts and runs, resampled together" if count > 2 else "starts alone: two runs say nothing of others",
        notes=tuple(notes),
    )


def _place_of(task: ScoredTask) -> str:
    shares = task.partition
    return f"{shares.scenario}_{shares.key}" if shares else str(task.about.get("scenario", task.id))


def _common_scale(tasks: Sequence[ScoredTask]) -> tuple[Reference | None, float | None, list[str]]:
    """Find the reference scores that all runs share, the return of random play, and a note where scores differ."""
    references = {
        (reference.random, reference.expert)
        for reference in (task.reference for task in tasks)
        if reference is not None
    }
    if len(references) == 1 and all(task.reference is not None for task in tasks):
        return tasks[0].reference, references.pop()[0], []
    notes = ["Returns are not normalized: the runs' data name different reference scores."] if references else []
    randoms = [task.random_return for task in tasks if task.random_return is not None]
    return None, float(np.mean(randoms)) if randoms else None, notes


def _name_group(group: Sequence[int], self_play: Sequence[Conventions | None]) -> Group:
    teams = [self_play[row] for row in group]
    names = teams[0].names if teams[0] is not None else ()
    shares = {name: np.mean([team.counts()[name] / len(team.followed) for team in teams if team]) for name in names}
    best = max(shares, key=lambda name: shares[name], default=None)
    if best is None or not shares[best]:
        return Group(tuple(group), None, None)
    return Group(tuple(group), best, float(shares[best]))


def _summarize(
    means: Matrix, drawn: npt.NDArray[np.float64], groups: Sequence[Sequence[int]], draw: np.random.Generator
) -> dict[str, Interval | None]:
    """Average pairings, with intervals by resampling runs (with replacement) and starts together.

    A pairing's weight in a draw is the product of how often its two runs were drawn.

    A run that is drawn twice never meets itself in cross-play; draws without such a pairing are left out.
    """
    count = len(means)
    diagonal, same = np.eye(count, dtype=bool), same_group(groups)
    taken = draw.multinomial(count, np.full(count, 1 / count), len(drawn)).astype(np.float64)
    taken = taken if count > 2 else np.ones_like(taken)
    pairs = taken[:, :, None] * taken[:, None, :]
    pairs[:, diagonal] = taken
    summary: dict[str, Interval | None] = {}
    averages: dict[str, tuple[float, npt.NDArray[np.float64]]] = {}
    for name, chosen in {
        "self_play": diagonal,
        "cross_play": ~diagonal,
        "within": same & ~diagonal,
        "across": ~same,
    }.items():
        summary[name] = None
        if chosen.any():
            weights = pairs[:, chosen]
            with np.errstate(invalid="ignore"):
                draws = (weights * drawn[:, chosen]).sum(1) / weights.sum(1)
            averages[name] = float(means[chosen].mean()), draws
            summary[name] = _interval(*averages[name])
    (self_mean, self_draws), (cross_mean, cross_draws) = averages["self_play"], averages["cross_play"]
    return {**summary, "gap": _interval(self_mean - cross_mean, self_draws - cross_draws)}


def _interval(mean: float, draws: npt.NDArray[np.float64]) -> Interval:
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Interval(mean, float(low), float(high))
