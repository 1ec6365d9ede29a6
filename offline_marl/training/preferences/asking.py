"""Rounds of questions: pairs of recorded segments are chosen, copied and entered, until a budget is spent."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from offline_marl.core.files import put_in_place
from offline_marl.core.seeding import derive
from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.episode_index import episode_numbers, episodes_apart, starts
from offline_marl.preferences.labels import AskedPair
from offline_marl.preferences.pairs import (
    POOL,
    Candidates,
    Copies,
    Pair,
    Schedule,
    SegmentKey,
    Strategy,
    choose,
    doubt,
    draw_candidates,
    features_of,
    keys_of,
    shares,
)
from offline_marl.preferences.reward_model import RewardModel
from offline_marl.preferences.teachers import TaskScale
from offline_marl.tasks.data_tasks import Task
from offline_marl.training.preferences.folders import ComparisonFolder, key_of, masked, plain_spec

SCENE = ("scenario", "conf", "view", "settings", "max_steps")
"""Metadata of data that its environment is made from, for pictures."""

NEAR = 1e-6
"""Share of the scale by which sums of returns may differ, with the order in which they are added up."""


@dataclass(frozen=True)
class Plan:
    """All rounds of questions about one data set; what later rounds share is stated once in the folder."""

    budget: int = 1_000
    """Pairs of all rounds together."""
    length: int = 0
    """Steps of a segment; 0 for whole episodes."""
    rounds: int = 1
    schedule: Schedule = "linear"
    schedule_rate: float = 0.1
    """How late the exponential schedule asks."""
    holdout: float = 0.2
    """Share of the episodes, and of the pairs of each round, that no reward model learns from."""
    seed: int = 0
    scale: float | None = None
    """See `TaskScale`; measured if not given."""


@dataclass(frozen=True)
class Round:
    """Outcome of one annotation round."""

    session: int
    pairs: int
    held_out: int
    left: int
    """Pairs of the budget that later rounds will ask about."""


def ask(
    folder: ComparisonFolder,
    task: Task,
    plan: Plan,
    strategy: Strategy = "uniform",
    reward_model: RewardModel | None = None,
) -> Round:
    """Choose the next round's pairs, copy their segments, and enter them.

    Held-out pairs are drawn uniformly, whatever the strategy, so that they measure all rounds alike.

    Args:
        folder: Of the comparisons.
        task: Its data.
        plan: The same for all rounds.
        strategy: How pairs to learn from are chosen.
        reward_model: Whose doubt decides, where the strategy is not uniform.

    Raises:
        BadInputError: The folder was begun with another plan or other data, or its budget is spent.
    """
    if strategy != "uniform" and reward_model is None:
        raise DataError(f"--select {strategy} asks where a reward model is unsure: name its folder by --reward-model.")
    data, store = task.data, folder.store
    shared = ("budget", "length", "rounds", "schedule", "schedule_rate", "holdout", "seed")
    facts = {name: getattr(plan, name) for name in shared}
    facts["data"] = {"key": key_of(data), "spec": plain_spec(data.spec)}
    store.refuse_other_facts(facts)
    if "scene" not in store.facts():
        facts["scene"] = {name: data.metadata[name] for name in SCENE if name in data.metadata}
    # Of a file that has moved since, the first name stays.
    facts["task"] = store.facts().get("task", task.id)
    facts["scale"] = _restated(measure(task, plan.length, plan.scale).plain(), store.facts().get("scale"))
    store.refuse_other_facts(facts)
    asked = store.pairs()
    before = max((one.session for one in asked), default=0)
    parts = shares(plan.schedule, plan.budget, plan.rounds, plan.schedule_rate)
    session = next((number for number in range(before + 1, plan.rounds + 1) if parts[number - 1]), None)
    if session is None:  # rounds whose share of a small budget is none are passed over
        raise DataError(
            f"The budget of {plan.budget:,} pairs is spent: {folder.path} has asked in all of its {plan.rounds} rounds."
        )
    made = _choose(data, plan, parts[session - 1], session, strategy, reward_model, asked)
    copies = copy_segments(data, [one.pair for one in made], task.mapped)
    store.state(facts)
    if copies is not None:
        enter(folder, made, copies)
    held_out = sum(one.split == "held-out" for one in made)
    return Round(session, len(made), held_out, sum(parts[session:]))


def _restated(measured: dict[str, float], stated: dict[str, float] | None) -> dict[str, float]:
    """What was stated, where what is measured now differs by rounding alone, as with another number of threads."""
    if stated is None or measured.keys() != stated.keys():
        return measured
    near = NEAR * stated["scale"]
    return stated if all(abs(measured[name] - stated[name]) <= near for name in stated) else measured


def _choose(
    data: Dataset,
    plan: Plan,
    count: int,
    session: int,
    strategy: Strategy,
    model: RewardModel | None,
    asked: list[AskedPair],
) -> list[AskedPair]:
    generator = torch.Generator().manual_seed(derive(plan.seed, "pairs", session))
    seen, away = episodes_apart(data.lengths, plan.holdout, plan.seed)
    taken = frozenset(frozenset((side.episode, side.start) for side in _sides(one.pair)) for one in asked)
    wanted = min(round(plan.holdout * count), _possible(data.lengths[away], plan.length) - _in(taken, away))
    held_out = max(wanted, 0)
    key = key_of(data)

    def entered(drawn: Candidates, split: str, how: str, scores: Tensor | None) -> list[AskedPair]:
        values = [None] * len(drawn) if scores is None else scores.tolist()
        pairs = drawn.pairs(key, data.lengths, plan.length)
        return [AskedPair(pair, session, split, how, value) for pair, value in zip(pairs, values, strict=True)]

    made: list[AskedPair] = []
    if held_out:
        drawn = draw_candidates(data.lengths, plan.length, held_out, generator, away, taken)
        made += entered(drawn, "held-out", "uniform", None)
    rest = count - held_out
    if not rest:
        return made
    if model is None or strategy == "uniform":
        drawn = draw_candidates(data.lengths, plan.length, rest, generator, seen, taken)
        return made + entered(drawn, "train", "uniform", None)
    room = (_possible(data.lengths[seen], plan.length) - _in(taken, seen)) // 2
    pool = draw_candidates(data.lengths, plan.length, max(min(POOL * rest, room), rest), generator, seen, taken)
    scores, features = _doubts(data, pool, plan.length, strategy, model)
    chosen = choose(scores, features, rest)
    return made + entered(pool[chosen], "train", strategy, scores[chosen])


def _sides(pair: Pair) -> tuple[SegmentKey, SegmentKey]:
    return pair.first, pair.second


def _in(taken: frozenset[frozenset[tuple[int, int]]], episodes: Tensor) -> int:
    numbers = set(episodes.tolist())
    return sum(all(episode in numbers for episode, _ in both) for both in taken)


def _possible(lengths: Tensor, length: int) -> int:
    """Pairs of different segments that these episodes have."""
    segments = len(lengths) if not length else int((lengths - length + 1).clamp(min=0).sum())
    return segments * (segments - 1) // 2


def _doubts(
    data: Dataset, pool: Candidates, length: int, strategy: Strategy, model: RewardModel
) -> tuple[Tensor, Tensor]:
    """What answers would teach, and what each pair looks like."""
    pairs = pool.pairs("", data.lengths, length)
    copies = copy_segments(data, pairs)
    assert copies is not None
    rows = {key: row for row, key in enumerate(copies.keys)}
    sides = torch.tensor([[rows[side] for side in _sides(pair)] for pair in pairs])
    device = model.mean.device
    scores = model.scores(copies.segments.to(device)).sum(-1).cpu()
    likely = torch.sigmoid(scores[:, sides[:, 0]] - scores[:, sides[:, 1]])
    looks = features_of(copies.segments, data.spec)
    looks = (looks - looks.mean(0)) / looks.std(0, correction=0).clamp(min=1e-6)
    return doubt(strategy, likely), looks[sides].flatten(1)


def copy_segments(data: Dataset, pairs: list[Pair], stays: bool = False) -> Copies | None:
    """Copies of the segments of pairs; None of no pairs."""
    keys = tuple(keys_of(pairs))
    if not keys:
        return None
    buffer = TransitionBuffer(data, stays=stays)
    first = starts(data.lengths)[torch.tensor([key.episode for key in keys])]
    index = first + torch.tensor([key.start for key in keys])
    lengths = torch.tensor([key.length for key in keys])
    cuts = masked(buffer.segments(index, int(lengths.max())))
    inside = torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)
    assert cuts.mask is not None
    none = replace(cuts, next_obs=cuts.obs, next_state=None, next_avail_actions=None, next_seen=None)
    return Copies(data.spec, keys, replace(none, mask=cuts.mask & inside.unsqueeze(-1)))


def measure(task: Task, length: int, scale: float | None = None) -> TaskScale:
    """What returns of segments are measured by, from all of the data.

    The scale is that of the task where its random and expert returns are known, shared out over an episode's steps;
    else the range of returns of this data's segments, which another mixture has another of.

    Args:
        task: Its data, its reference scores, and how long its episodes can be.
        length: Steps of a segment; 0 for whole episodes.
        scale: If it is known.
    """
    data = task.data
    returns = window_returns(data, length)
    if not len(returns):
        raise DataError(f"No episode of {task.id} has {length} steps to compare: the longest has "
                        f"{int(data.lengths.max())}.")  # fmt: skip
    if scale is None and task.reference is not None:
        whole = data.metadata.get("max_steps")
        steps = int(whole) if isinstance(whole, int) and whole > 0 else int(data.lengths.max())
        scale = abs(task.reference.expert - task.reference.random) * min((length or steps) / steps, 1.0)
    if scale is None:
        scale = float(returns.max() - returns.min())
    if scale <= 0:
        raise DataError(f"All segments of {task.id} return the same: there is nothing that a teacher could prefer.")
    return TaskScale(scale, float(returns.mean()), float(returns.min()))


def window_returns(data: Dataset, length: int) -> Tensor:
    """Return (mean over agents) of every segment of so many steps that an episode has; 0 for whole episodes."""
    if not length:
        return data.returns()
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), data.rewards.mean(-1).double().cumsum(0)])
    steps = torch.arange(len(data))
    ends = torch.cumsum(data.lengths, 0)[episode_numbers(data.lengths)]
    inside = steps[steps + length <= ends]
    return sums[inside + length] - sums[inside]


def enter(folder: ComparisonFolder, pairs: list[AskedPair], copies: Copies) -> None:
    """Enter a round of pairs with copies of their segments, such as of live episodes (`SegmentKey.of_run`).

    The copies are whole on the disk before a pair names them.

    Args:
        folder: Of the comparisons.
        pairs: All of one session, which no pair of the folder is of yet.
        copies: Of all their segments.

    Raises:
        DataError: They are of several sessions, or of one that has pairs already.
        StoreError: Another process entered pairs of this session meanwhile; its copies stay.
    """
    sessions = {one.session for one in pairs}
    if len(sessions) != 1 or sessions & {one.session for one in folder.store.pairs()}:
        raise DataError(f"Pairs are entered one new session at a time, and these are of {sorted(sessions)}.")
    place = folder.file_of(*sessions)
    # Written beside its place first: the store is held for no longer than a file takes to be renamed.
    beside = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        copies.save(beside)
        folder.store.ask_new_session(pairs, lambda: put_in_place(beside, place))
    finally:
        beside.unlink(missing_ok=True)
