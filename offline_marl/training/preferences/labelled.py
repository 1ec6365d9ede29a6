"""Labelled pairs as tensors: what members of a reward model draw their rows from, and what they are judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from offline_marl.core.seeding import derive
from offline_marl.core.types import Batch, DataError, Needs
from offline_marl.losses.preferences import bradley_terry, compared_scores
from offline_marl.preferences.agreement import contradictions
from offline_marl.preferences.answers import NO_ANSWER, Judgement
from offline_marl.preferences.labels import AskedPair, Label, index_of
from offline_marl.preferences.pairs import SegmentKey, split_by_episode
from offline_marl.preferences.reward_model import COMPARED, CREDITED, RATED, Comparisons, RewardModel
from offline_marl.training.preferences.folders import ComparisonFolder, masked, numbers_of

PerLabel = Annotated[Tensor, "label"]


@dataclass(frozen=True)
class Labelled:
    """Labels of pairs of segments that lie in one table."""

    segments: Batch
    """`[segment, time]`, with the environment's rewards, which no reward model reads."""
    sides: Annotated[Tensor, "label side"]
    """Rows of the first and the second segment."""
    values: PerLabel
    """1, 0 or 1/2."""
    targets: PerLabel
    """Int64: the agent, or -1 for the team."""
    labels: tuple[Label, ...]
    judged: Judged | None = None
    """Ratings and credit that were given to segments of the table."""

    def __len__(self) -> int:
        return len(self.labels)

    def since(self, number: int) -> Labelled:
        """The labels from this one on."""
        part = slice(number, None)
        return Labelled(self.segments, self.sides[part], self.values[part], self.targets[part], self.labels[part])

    @property
    def agents(self) -> tuple[int, ...] | None:
        """The agents that labels, ratings and credit speak of; None where these are all, as of the team."""
        targets = self.targets if self.judged is None else torch.cat([self.targets, self.judged.targets])
        named = sorted(set(targets.tolist()))
        return None if named[0] < 0 or len(named) == self.segments.rewards.shape[-1] else tuple(named)

    @property
    def there(self) -> PerLabel:
        """Bool: whether the agent that a label speaks of is there in one of its segments; of others nothing is told."""
        assert self.segments.mask is not None
        present = self.segments.mask.any(1)[self.sides].any(1)
        return (self.targets < 0) | present.gather(1, self.targets.clamp(min=0).unsqueeze(1)).squeeze(1)

    def counts(self) -> dict[str, int]:
        """How many say first, second and equal."""
        said = {"first": 1.0, "second": 0.0, "equal": 0.5}
        return {name: int((self.values == value).sum()) for name, value in said.items()}

    def margins(self, model: RewardModel) -> Annotated[Tensor, "member label"]:
        """Score of the first less that of the second, of whom each label speaks, as every member says."""
        scores = model.scores(self.segments)[:, self.sides]
        compared = compared_scores(scores, self.targets.view(1, -1, 1).expand(scores.shape[:-1]))
        return compared[..., 0] - compared[..., 1]

    def errors(self, model: RewardModel) -> Annotated[Tensor, "member"]:
        """Mean -log likelihood of the labels, as every member says."""
        margins = self.margins(model)
        return bradley_terry(margins, self.values.expand_as(margins)).mean(-1)


@dataclass(frozen=True)
class Judged:
    """Ratings of single segments, and credit to agents, as rows of the table of labelled segments."""

    rows: PerLabel
    """Of the segments."""
    values: PerLabel
    """The rating, or the agent who did best and -1 for equal."""
    targets: PerLabel
    """Int64: the agent that is rated, or -1 for the team."""
    kinds: PerLabel
    """Int64, `RATED` or `CREDITED`."""

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, kind: int) -> Judged:
        """Those of one kind."""
        here = self.kinds == kind
        return Judged(self.rows[here], self.values[here], self.targets[here], self.kinds[here])


@dataclass(frozen=True)
class Split:
    """Labels to learn from and to hold out, which share no episode."""

    train: Labelled
    held_out: Labelled
    between: int
    """Labels that were left away because their pair is of episodes of both sides."""
    contradictions: int
    """Questions that one annotator answered in different ways."""
    seen: frozenset[tuple[str, int]]
    """Source and episode of everything that is learnt from."""
    away: frozenset[tuple[str, int]]
    """Of everything that is held out."""
    judged: Judged | None = None
    """Ratings and credit to learn from."""
    judged_held_out: Judged | None = None
    """Of segments of held-out episodes."""


def load_labelled(
    folder: ComparisonFolder, until: int, device: torch.device | str, judgements_until: int = 0
) -> Labelled | None:
    """All labels of a folder on a device; skipped pairs are left out. None where there are no others.

    Args:
        folder: Of the comparisons.
        until: As the store was after so many labels.
        device: Where the tensors go.
        judgements_until: Ratings and credit as they stood after so many rows; none unless said.
    """
    labels = [label for label in folder.store.labels(until=until) if label.value is not None]
    if not labels:
        return None
    known = {one.pair.id: one for one in folder.store.pairs()}
    pairs = [known[label.pair_id] for label in labels]
    judgements, more = _judgements(folder, judgements_until, known)
    copies = folder.copies(list({one.pair.id: one for one in [*pairs, *more]}.values()))
    rows = numbers_of(copies)
    sides = torch.tensor([[rows[one.pair.first], rows[one.pair.second]] for one in pairs])
    targets = torch.tensor([index_of(label.target, copies.spec.n_agents) for label in labels], dtype=torch.int64)
    values = torch.tensor([label.value for label in labels], dtype=torch.float32)
    segments = masked(copies.segments).to(device)
    judged = _judged(_possible(judgements, segments, rows), rows, copies.spec.n_agents, device)
    return Labelled(segments, sides.to(device), values.to(device), targets.to(device), tuple(labels), judged)


def load_split(
    folder: ComparisonFolder,
    until: int,
    holdout: float,
    seed: int,
    device: torch.device | str,
    judgements_until: int = 0,
    count: int = 0,
) -> Split:
    """The labels of a folder on a device; skipped pairs are left out.

    Args:
        folder: Of the comparisons.
        until: As the store was after so many labels.
        holdout: Share of the pairs to hold out, if those who asked did not say which, or not so that no episode is on
            both sides.
        seed: Decides which.
        device: Where the tensors go.
        judgements_until: Ratings and credit as they stood after so many rows; none unless said.
        count: Labels to draw of these by the seed, as many of them held out as of all; 0 for all.

    Raises:
        DataError: There are no labels.
    """
    labels = [label for label in folder.store.labels(until=until) if label.value is not None]
    if not labels:
        judged = [one for one in folder.store.judgements() if one.answer not in NO_ANSWER]
        if judged:
            raise DataError(
                f"{folder.path} holds {len(judged):,} ratings and answers about credit and no label of a pair, by "
                "which models are judged: ask for some, `offline-marl label FOLDER --ask pairs,ratings,credit`."
            )
        raise DataError(
            f"{folder.path} holds no labels yet: `offline-marl prefs simulate` or `prefs import` brings some."
        )
    known = {one.pair.id: one for one in folder.store.pairs()}
    if 0 < count < len(labels):
        labels = _drawn(labels, known, count, seed)
    asked = list({label.pair_id: known[label.pair_id] for label in labels}.values())
    judgements, more = _judgements(folder, judgements_until, known)
    copies = folder.copies(list({one.pair.id: one for one in [*asked, *more]}.values()))
    segments, rows = masked(copies.segments).to(device), numbers_of(copies)
    if all(one.split == "held-out" for one in asked) and any(one.split != "held-out" for one in known.values()):
        raise DataError(
            f"{folder.path} holds labels only of pairs that are held out: there is nothing to learn from yet."
        )
    train, held_out, between = _sides(asked, holdout, seed)
    judgements = _possible(judgements, segments, rows)
    away = _episodes(asked, held_out) | {
        key.whole for one in more if one.split == "held-out" for key in (one.pair.first, one.pair.second)
    }

    def chosen(ids: set[str]) -> Labelled:
        kept = [label for label in labels if label.pair_id in ids]
        pairs = [known[label.pair_id].pair for label in kept]
        sides = torch.tensor([[rows[pair.first], rows[pair.second]] for pair in pairs]).view(-1, 2)
        targets = torch.tensor([index_of(label.target, copies.spec.n_agents) for label in kept], dtype=torch.int64)
        values = torch.tensor([label.value for label in kept], dtype=torch.float32)
        return Labelled(segments, sides.to(device), values.to(device), targets.to(device), tuple(kept))

    return Split(
        chosen(train),
        chosen(held_out),
        sum(label.pair_id in between for label in labels),
        len(contradictions(labels)),
        _episodes(asked, train) | {one.segment.whole for one in judgements if one.segment.whole not in away},
        _episodes(asked, held_out),
        _judged([one for one in judgements if one.segment.whole not in away], rows, copies.spec.n_agents, device),
        _judged([one for one in judgements if one.segment.whole in away], rows, copies.spec.n_agents, device),
    )


def _drawn(labels: list[Label], known: Mapping[str, AskedPair], count: int, seed: int) -> list[Label]:
    """So many labels in their order, drawn of those that are held out and of the others in proportion."""
    generator = torch.Generator().manual_seed(derive(seed, "labels"))
    away = [row for row, label in enumerate(labels) if known[label.pair_id].split == "held-out"]
    seen = sorted(set(range(len(labels))) - set(away))
    of_away = round(count * len(away) / len(labels))
    chosen = [
        rows[place]
        for rows, number in ((away, of_away), (seen, count - of_away))
        for place in torch.randperm(len(rows), generator=generator)[:number].tolist()
    ]
    return [labels[row] for row in sorted(chosen)]


def _judgements(
    folder: ComparisonFolder, until: int, known: Mapping[str, AskedPair]
) -> tuple[list[Judgement], list[AskedPair]]:
    """Ratings and credit as they stood after so many rows, and pairs of the segments that were judged."""
    judgements = folder.store.judgements(until) if until else []
    judgements = [one for one in judgements if one.answer not in NO_ANSWER]
    named = {one.segment for one in judgements}
    return judgements, [one for one in known.values() if {one.pair.first, one.pair.second} & named] if named else []


def _possible(judgements: list[Judgement], segments: Batch, rows: Mapping[SegmentKey, int]) -> list[Judgement]:
    """Those that give no credit to an agent that was not there."""
    assert segments.mask is not None
    there = segments.mask.any(1).cpu()
    return [one for one in judgements if _could_do_best(one, there[rows[one.segment]])]


def _could_do_best(one: Judgement, there: Annotated[Tensor, "agent"]) -> bool:
    """Whether an agent that is given credit was there at all."""
    return one.kind != "credit" or one.answer == "equal" or bool(there[index_of(one.answer, len(there))])


def _judged(
    judgements: list[Judgement], rows: dict[SegmentKey, int], n_agents: int, device: torch.device | str
) -> Judged | None:
    if not judgements:
        return None
    kinds = [RATED if one.kind == "rating" else CREDITED for one in judgements]
    values = [
        float(one.answer) if one.kind == "rating" else -1.0 if one.answer == "equal" else index_of(one.answer, n_agents)
        for one in judgements
    ]
    targets = [index_of(one.target, n_agents) for one in judgements]
    numbers = [rows[one.segment] for one in judgements]
    whole = (torch.tensor(column, dtype=torch.int64, device=device) for column in (numbers, targets, kinds))
    places, about, what = whole
    return Judged(places, torch.tensor(values, dtype=torch.float32, device=device), about, what)


def _episodes(asked: list[AskedPair], ids: set[str]) -> frozenset[tuple[str, int]]:
    pairs = [one.pair for one in asked if one.pair.id in ids]
    return frozenset(key.whole for pair in pairs for key in (pair.first, pair.second))


def _sides(asked: list[AskedPair], holdout: float, seed: int) -> tuple[set[str], set[str], set[str]]:
    """Ids of pairs to learn from, to hold out, and to leave away."""
    stated: dict[str, set[str]] = {"train": set(), "held-out": set()}
    episodes: dict[str, set[tuple[str, int]]] = {"train": set(), "held-out": set()}
    for one in asked:
        side = "held-out" if one.split == "held-out" else "train"
        stated[side].add(one.pair.id)
        episodes[side] |= {one.pair.first.whole, one.pair.second.whole}
    if stated["held-out"] and stated["train"] and not episodes["train"] & episodes["held-out"]:
        return stated["train"], stated["held-out"], set()
    generator = torch.Generator().manual_seed(derive(seed, "held-out pairs"))
    parts = split_by_episode([one.pair for one in asked], holdout, generator)
    train, held_out, between = ({asked[number].pair.id for number in numbers} for numbers in parts)
    return train, held_out, between


def refuse_few(split: Split, least: int, place: str) -> None:
    """Refuse to learn from too few labels.

    Raises:
        DataError: Says how many there are of each kind.
    """
    counts, decided = split.train.counts(), split.held_out.values.ne(0.5) & split.held_out.there
    if min(counts["first"], counts["second"]) < least:
        raise DataError(
            f"{place} holds {counts['first']} labels for the first and {counts['second']} for the second segment to "
            f"learn from, and {least} of each are needed: label more pairs, or lower --min-labels."
        )
    if not bool(decided.any()):
        raise DataError(
            f"{place} holds no label of held-out episodes for one of two segments, so that nothing could be judged: "
            "label more pairs."
        )


class ComparisonSource:
    """Labelled pairs for the members of an ensemble, drawn uniformly with replacement, each its own.

    Args:
        labelled: What is learnt from.
        members: Members of the ensemble.
        batch_size: Pairs of each member.
        generator: Draws the pairs; on their device.
        sampling: As for world models: from all labels, or for each member from a fixed resample.
        unlabelled: Segments from which as many pairs are drawn that nobody labelled; the same for all members.
        judged: Ratings and credit, of each of which as many are drawn for each member.
    """

    def __init__(
        self,
        labelled: Labelled,
        members: int,
        batch_size: int,
        generator: torch.Generator,
        sampling: str = "uniform",
        unlabelled: Batch | None = None,
        judged: Judged | None = None,
    ) -> None:
        every = () if judged is None else (judged.of(RATED), judged.of(CREDITED))
        self.judged = tuple(one for one in every if len(one))
        self.labelled, self.members, self.batch_size = labelled, members, batch_size
        self.generator = generator
        self._of_agents = bool((labelled.targets >= 0).all())
        self.table, self.known = _bare(labelled.segments), len(labelled.segments)
        if unlabelled is not None:
            self.table = Batch.cat([self.table, _bare(unlabelled)])
        self.others = len(self.table) - self.known
        shape = (members, len(labelled))
        self._resample = self._draw(len(labelled), shape) if sampling == "bootstrap" else None

    def _draw(self, size: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(size, shape, generator=self.generator, device=self.labelled.sides.device)

    def sample(self, needs: Needs) -> Comparisons:
        """The next batch: labelled pairs, and behind them those without a label."""
        index = self._draw(len(self.labelled), (self.members, self.batch_size))
        if self._resample is not None:
            index = self._resample.gather(1, index)
        told = self.labelled
        sides, values, targets = (part[index] for part in (told.sides, told.values, told.targets))
        labelled = torch.ones_like(values, dtype=torch.bool)
        if self.others:
            pairs = self._draw(self.others, (self.batch_size, 2)) + self.known
            sides = torch.cat([sides, pairs.expand(self.members, -1, -1)], dim=1)
            values = torch.cat([values, torch.full_like(values, 0.5)], dim=1)
            targets = torch.cat([targets, targets[:1].expand_as(targets)], dim=1)
            labelled = torch.cat([labelled, torch.zeros_like(labelled)], dim=1)
        kinds = torch.full_like(targets, COMPARED) if self.judged else None
        for one in self.judged:
            index = self._draw(len(one), (self.members, self.batch_size))
            sides = torch.cat([sides, one.rows[index].unsqueeze(-1).expand(-1, -1, 2)], dim=1)
            values = torch.cat([values, one.values[index]], dim=1)
            targets = torch.cat([targets, one.targets[index]], dim=1)
            labelled = torch.cat([labelled, torch.zeros_like(index, dtype=torch.bool)], dim=1)
            kinds = one.kinds[index] if kinds is None else torch.cat([kinds, one.kinds[index]], dim=1)
        rows = self.table.map(lambda value: value[sides])
        held: dict[str, Any] = {item.name: getattr(rows, item.name) for item in fields(Batch)}
        # What the environment paid is nobody's business here.
        held["rewards"] = torch.zeros_like(rows.rewards)
        agents = targets if self._of_agents else None
        return Comparisons(**held, labels=values, targets=targets, agents=agents, labelled=labelled, kinds=kinds)

    def state_dict(self) -> dict[str, Any]:
        """The generator's state is the whole cursor: a resample is drawn again from the same seed."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the saved source stood."""
        self.generator.set_state(state["generator"].cpu())


def _bare(batch: Batch) -> Batch:
    """What reward models read; the copies of data with a state and those without can then be joined."""
    return replace(
        batch, next_obs=batch.obs, state=None, next_state=None, avail_actions=None, next_avail_actions=None,
        next_seen=None, next_present=None,
    )  # fmt: skip
