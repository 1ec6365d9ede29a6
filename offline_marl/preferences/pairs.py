"""Pairs of segments that are asked about: their keys, how they are drawn, which are worth a question, and when.

A key names data by its checksum, never a place in a buffer that is overwritten; a copy of what it names lies beside the
pairs.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from offline_marl.core.files import DamagedFileError, load_tree, save_tree
from offline_marl.core.types import Batch, DataError, Spec
from offline_marl.losses.preferences import binary_entropy

Lengths = Annotated[Tensor, "episode"]
Probabilities = Annotated[Tensor, "member pair"]
"""Of each member of a reward model, that the first of a pair is preferred."""
PerPair = Annotated[Tensor, "pair"]
Strategy = Literal["uniform", "disagree", "entropy"]
Schedule = Literal["linear", "exponential"]

POOL = 10
"""Candidates for each pair that is chosen by a reward model's doubt."""
SHORTLIST = 3
"""Of these, how many of the most doubtful for each pair that diversity chooses from."""
KIND = "segments of comparisons"
HELD = ("obs", "actions", "rewards", "terminations", "truncations", "state", "mask", "avail_actions")


@dataclass(frozen=True, slots=True)
class SegmentKey:
    """Name of a segment of recorded data, or of a live run."""

    source: str
    """Checksum of the data; of a live run `run:` and its id."""
    episode: int
    """Number of the episode, in the data or since the run began."""
    start: int
    """First step in its episode."""
    length: int
    """Steps."""

    @classmethod
    def of_run(cls, run_id: str, episode: int, start: int, length: int) -> SegmentKey:
        """Key of a segment that a run played."""
        return cls(f"run:{run_id}", episode, start, length)

    @property
    def text(self) -> str:
        """All of the key in one line."""
        return f"{self.source}/{self.episode}/{self.start}/{self.length}"

    @property
    def id(self) -> str:
        """A short name for it, which says nothing of the data."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]

    @property
    def whole(self) -> tuple[str, int]:
        """The episode that it is of, by which held-out pairs are kept apart."""
        return self.source, self.episode


@dataclass(frozen=True, slots=True)
class Pair:
    """Two segments to compare; labels speak of the first and the second."""

    first: SegmentKey
    second: SegmentKey

    @property
    def id(self) -> str:
        """The same for both orders of the two, so that no pair is asked about twice by mistake."""
        keys = sorted((self.first.text, self.second.text))
        return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies of the segments of pairs, as one batch `[segment, time]`; `mask` is false behind an episode's end.

    Nobody compares by what comes after a segment: `next_obs` of copies that were read is `obs`.
    """

    spec: Spec
    keys: tuple[SegmentKey, ...]
    segments: Batch

    def save(self, path: Path) -> None:
        """Write to a file, whole or not at all."""
        held = {name: getattr(self.segments, name) for name in HELD if getattr(self.segments, name) is not None}
        keys = [[key.source, key.episode, key.start, key.length] for key in self.keys]
        save_tree(path, {"spec": asdict(self.spec), "keys": keys, "segments": held}, KIND)

    @classmethod
    def load(cls, path: Path) -> Copies:
        """Read from a file.

        Raises:
            DataError: It is missing, damaged, or holds something else.
        """
        try:
            tree, _ = load_tree(path, KIND)
            keys = tuple(SegmentKey(*key) for key in tree["keys"])
            held = tree["segments"]
            return cls(Spec.from_plain(tree["spec"]), keys, Batch(**held, next_obs=held["obs"]).check())
        except (FileNotFoundError, DamagedFileError, KeyError, TypeError) as error:
            raise DataError(f"The segments of comparisons cannot be read: {error}") from None


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidate pairs as numbers: episodes and first steps, `[pair, 2]`."""

    episodes: Annotated[Tensor, "pair side"]
    starts: Annotated[Tensor, "pair side"]

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: Annotated[Tensor, "chosen"]) -> Candidates:
        return Candidates(self.episodes[index], self.starts[index])

    def pairs(self, source: str, lengths: Lengths, length: int) -> list[Pair]:
        """Their keys.

        Args:
            source: Checksum of the data.
            lengths: Steps of all its episodes.
            length: Of a segment; 0 for whole episodes.
        """

        def key(episode: int, start: int) -> SegmentKey:
            return SegmentKey(source, episode, start, length or int(lengths[episode]))

        rows = zip(self.episodes.tolist(), self.starts.tolist(), strict=True)
        return [Pair(key(e[0], s[0]), key(e[1], s[1])) for e, s in rows]


def draw_candidates(
    lengths: Lengths,
    length: int,
    count: int,
    generator: torch.Generator,
    episodes: Annotated[Tensor, "chosen"] | None = None,
    taken: frozenset[frozenset[tuple[int, int]]] = frozenset(),
) -> Candidates:
    """Distinct pairs of distinct segments, every segment as likely as any other; none crosses an episode's end.

    Args:
        lengths: Steps of all episodes.
        length: Steps of a segment; 0 for whole episodes.
        count: Pairs.
        generator: Draws them.
        episodes: Episodes that segments are of; all unless said.
        taken: Pairs that were asked about already, each as its two (episode, start).

    Raises:
        DataError: No episode is so long, or there are not so many pairs.
    """
    numbers = torch.arange(len(lengths)) if episodes is None else episodes
    rooms = torch.ones_like(lengths[numbers]) if not length else (lengths[numbers] - length + 1).clamp(min=0)
    total, ends = int(rooms.sum()), torch.cumsum(rooms, 0)
    if not total:
        longest = int(lengths[numbers].max()) if len(numbers) else 0
        raise DataError(f"No episode has {length} steps to compare: the longest has {longest}.")
    among = set(numbers.tolist())
    left = total * (total - 1) // 2 - sum(all(episode in among for episode, _ in both) for both in taken)
    if left < count:
        raise DataError(
            f"There are not {count:,} pairs of different segments here that nobody was asked about yet, only {left:,} "
            "are left: ask for fewer, or for shorter segments."
        )
    found: dict[frozenset[tuple[int, int]], list[list[int]]] = {}
    while len(found) < count:  # there are so many, however seldom the last ones are drawn
        lots = torch.randint(total, (max(2 * count, 256), 2), generator=generator)
        place = torch.searchsorted(ends, lots, right=True)
        drawn = numbers[place], lots - (ends - rooms)[place]
        for episode, start in zip(drawn[0].tolist(), drawn[1].tolist(), strict=True):
            both = frozenset(zip(episode, start, strict=True))
            if len(both) == 2 and both not in taken and both not in found:
                found[both] = [episode, start]
            if len(found) == count:
                break
    table = torch.tensor(list(found.values()))
    return Candidates(table[:, 0], table[:, 1])


def doubt(strategy: Strategy, probabilities: Probabilities) -> PerPair:
    """How much an answer would teach: what the members of a reward model, in eval mode, do not know.

    Args:
        strategy: disagree: deviation of their probabilities; entropy: mean of their binary entropies; uniform: nothing.
        probabilities: Of each member.
    """
    if strategy == "disagree":
        return probabilities.std(0, correction=0)
    if strategy == "entropy":
        return binary_entropy(probabilities).mean(0)
    return torch.zeros_like(probabilities[0])


def choose(scores: PerPair, features: Annotated[Tensor, "pair feature"], count: int) -> Annotated[Tensor, "chosen"]:
    """Numbers of doubtful candidates that are far from each other, in the order in which they were chosen.

    Greedy k-centres among the `SHORTLIST * count` highest scores, from the highest on: each next one is farthest from
    all that were chosen (Sener and Savarese, 2018).

    Args:
        scores: What an answer would teach.
        features: What each pair looks like.
        count: How many, at most as many as there are.
    """
    best = torch.argsort(scores, descending=True, stable=True)[: SHORTLIST * count]
    places = features[best]
    chosen = [0]
    nearest = (places - places[0]).norm(dim=-1)
    while len(chosen) < min(count, len(best)):
        nearest[chosen] = -math.inf
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (places - places[chosen[-1]]).norm(dim=-1))
    return best[torch.tensor(chosen)]


def schedule(kind: Schedule, total: int, rounds: int, rate: float = 0.1) -> list[int]:
    """Where the i-th of n rounds stands on the way to `total`: t_i for i = 1 ... n.

    linear: t_i = floor(total i / n). exponential: t_i = floor(total (e^(rate i) - 1) / (e^(rate n) - 1)), which is late
    the more, the larger the rate.

    Args:
        kind: Which.
        total: Labels of a whole budget, or steps of a run.
        rounds: n.
        rate: Of the exponential one, above 0.
    """
    if kind == "linear":
        return [total * i // rounds for i in range(1, rounds + 1)]
    # Divided by e^(rate n) above and below, so that no power overflows.
    whole = -math.expm1(-rate * rounds)
    parts = [math.exp(rate * (i - rounds)) * -math.expm1(-rate * i) / whole for i in range(1, rounds)]
    return [*(int(total * part) for part in parts), total]


def shares(kind: Schedule, budget: int, rounds: int, rate: float = 0.1) -> list[int]:
    """Pairs of each annotation round, which sum to the budget."""
    marks = [0, *schedule(kind, budget, rounds, rate)]
    return [after - before for before, after in itertools.pairwise(marks)]


def features_of(segments: Batch, spec: Spec) -> Annotated[Tensor, "segment feature"]:
    """What segments look like: each agent's mean observation and action, over the steps in which it is there."""
    acts = segments.actions
    if spec.discrete:
        acts = torch.nn.functional.one_hot(acts, spec.act_dim).float()
    steps = torch.cat([segments.obs, acts], dim=-1)
    if segments.mask is None:
        return steps.mean(1).flatten(1)
    there = segments.mask.unsqueeze(-1)
    return (steps.masked_fill(~there, 0.0).sum(1) / there.sum(1).clamp(min=1)).flatten(1)


def split_by_episode(
    pairs: Sequence[Pair], fraction: float, generator: torch.Generator
) -> tuple[list[int], list[int], list[int]]:
    """Numbers of the pairs to learn from, to hold out, and to leave away because they are of episodes of both sides.

    Pairs are taken to be held out in a drawn order, until they are the fraction of all; their episodes are held out.

    Args:
        pairs: Which may share episodes.
        fraction: Share of pairs to hold out, at least one.
        generator: Draws the order.
    """
    wanted = max(1, round(fraction * len(pairs)))
    order = torch.randperm(len(pairs), generator=generator).tolist()
    away: set[tuple[str, int]] = set()
    for count, number in enumerate(order):
        inside = sum(_sides(pairs[i], away) == 2 for i in range(len(pairs))) if count else 0
        if inside >= wanted:
            break
        away |= {pairs[number].first.whole, pairs[number].second.whole}
    sides = [_sides(pair, away) for pair in pairs]
    kept, out, between = ([i for i, side in enumerate(sides) if side == wanted] for wanted in (0, 2, 1))
    return kept, out, between


def _sides(pair: Pair, away: set[tuple[str, int]]) -> int:
    return (pair.first.whole in away) + (pair.second.whole in away)


def keys_of(pairs: Sequence[Pair]) -> Iterator[SegmentKey]:
    """The segments of pairs, each once, in order."""
    seen: dict[SegmentKey, Any] = {}
    for pair in pairs:
        seen[pair.first] = seen[pair.second] = None
    yield from seen
