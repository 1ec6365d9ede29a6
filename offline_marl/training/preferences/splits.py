"""Labels of a folder as tensors, those to learn from apart from those that are held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from offline_marl.core.seeding import derive
from offline_marl.core.types import Batch, DataError
from offline_marl.preferences.agreement import contradictions
from offline_marl.preferences.answers import NO_ANSWER, Judgement
from offline_marl.preferences.labels import AskedPair, Label, index_of
from offline_marl.preferences.pairs import SegmentKey, split_by_episode
from offline_marl.preferences.reward_model import CREDITED, RATED
from offline_marl.training.preferences.folders import ComparisonFolder, masked, numbers_of
from offline_marl.training.preferences.labelled import Judged, Labelled


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
    segments, rows = masked(copies.segments).to(device), numbers_of(copies)
    judged = _judged(_possible(judgements, segments, rows), rows, copies.spec.n_agents, device)
    return replace(_labelled(labels, known, segments, rows), judged=judged)


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
        DataError: There are no labels, or only of pairs that are held out.
    """
    labels = _given(folder, until)
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
        return _labelled([label for label in labels if label.pair_id in ids], known, segments, rows)

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


def _labelled(
    labels: list[Label], known: Mapping[str, AskedPair], segments: Batch, rows: Mapping[SegmentKey, int]
) -> Labelled:
    """Labels beside the table of segments that they speak of, on its device."""
    pairs = [known[label.pair_id].pair for label in labels]
    agents, device = segments.rewards.shape[-1], segments.rewards.device
    return Labelled(
        segments,
        torch.tensor([[rows[pair.first], rows[pair.second]] for pair in pairs], device=device).view(-1, 2),
        torch.tensor([label.value for label in labels], dtype=torch.float32, device=device),
        torch.tensor([index_of(label.target, agents) for label in labels], dtype=torch.int64, device=device),
        tuple(labels),
    )


def _given(folder: ComparisonFolder, until: int) -> list[Label]:
    """The labels that say something, as the store was after so many.

    Raises:
        DataError: There are none.
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
    return labels


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
