"""Answers to questions: those of a simulated teacher, those that are missing, and how many there are of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, cast

import torch

from offline_marl.core.seeding import derive
from offline_marl.preferences.agreement import by_question, contradictions, count_answers, kappas, self_agreement
from offline_marl.preferences.answers import Judgement
from offline_marl.preferences.labels import TEAM, Label, index_of
from offline_marl.preferences.teachers import TeacherConfig, answer, segment_returns
from offline_marl.training.preferences.folders import ComparisonFolder, masked, numbers_of

ALL = "agents"
"""As a target: every agent by itself."""
TEACHER = "teacher "
"""Beginning of the name of the fact that says how an annotator is simulated."""


def simulate(
    folder: ComparisonFolder,
    config: TeacherConfig,
    *,
    annotator: str = "teacher",
    target: str = TEAM,
    repeats: float = 0.0,
    seed: int = 0,
) -> int:
    """Let a teacher answer all questions that it has not answered yet.

    Each answer depends on the seed, the annotator, the pair and the target alone, so that answers are the same in
    whatever order, and however often, they are asked for.

    Args:
        folder: Of the comparisons.
        config: The teacher's character.
        annotator: Its name; one name has one character.
        target: `team`, `agent_<index>`, or `agents` for each of them.
        repeats: Share of the questions that are asked a second time, swapped.
        seed: Decides its answers.

    Returns:
        How many labels are new.

    Raises:
        BadInputError: There are no pairs, the target is none, or the annotator was simulated otherwise before.
    """
    asked = folder.store.pairs()
    copies = folder.copies(asked)
    segments, rows = masked(copies.segments), numbers_of(copies)
    n_agents = copies.spec.n_agents
    targets = [f"agent_{index}" for index in range(n_agents)] if target == ALL else [target]
    numbers = [index_of(name, n_agents) for name in targets]
    sides = torch.tensor([[rows[one.pair.first], rows[one.pair.second]] for one in asked])
    stated = {"config": config.model_dump(mode="json"), "seed": seed, "repeats": repeats}
    folder.store.state({f"{TEACHER}{annotator}": stated})
    assert segments.mask is not None
    rewards, mask = segments.rewards[sides], segments.mask[sides]
    ids = [one.pair.id for one in asked]
    labels = list[Label]()
    for name, number in zip(targets, numbers, strict=True):
        index = torch.full((len(asked),), number)
        returns = segment_returns(rewards, mask, index, config.discount)
        plain = segment_returns(rewards, mask, index)
        for repeat in (0, 1) if repeats else (0,):
            draws = torch.tensor([_lot(seed, annotator, pair, name, repeat) for pair in ids], dtype=torch.float64)
            answers = answer(returns, plain, config, folder.scale, draws)
            for pair, given in zip(ids, answers, strict=True):
                if repeat == 0 or _lot(seed, annotator, pair, name, "again") < repeats:
                    order = "swapped" if repeat else "as stored"
                    more = {"source": "simulated", "target": name, "repeat": repeat, "shown_order": order}
                    labels.append(Label(pair, given, annotator, **cast(Any, more)))
    return folder.store.add(labels)


def _lot(seed: int, annotator: str, pair: str, target: str, what: int | str) -> float:
    """Uniform in [0, 1)."""
    return derive(seed, "teacher", annotator, pair, target, what) / 2.0**63


def teacher_of(facts: Mapping[str, Any], label: Label) -> TeacherConfig | None:
    """How the annotator of a label is simulated; None of people."""
    stated = facts.get(f"{TEACHER}{label.annotator}")
    return None if stated is None or label.source != "simulated" else TeacherConfig(**stated["config"])


def open_questions(
    pairs: Iterable[str], labels: Iterable[Label], targets: Sequence[str] | None
) -> list[tuple[str, str | None]]:
    """Pairs and targets that no label is of; without targets the pairs that nobody labelled, whatever about."""
    labels = list(labels)
    # By their ids, which are as good as shuffled: rounds enter their held-out pairs first, and many people stop midway.
    names = sorted(pairs)
    if targets is None:
        answered = {label.pair_id for label in labels}
        return [(name, None) for name in names if name not in answered]
    known = {(label.pair_id, label.target) for label in labels}
    return [(name, target) for name in names for target in targets if (name, target) not in known]


def summarize(folder: ComparisonFolder) -> dict[str, Any]:
    """Counts, agreement and cost of all labels, in plain values."""
    asked, facts = folder.store.pairs(), folder.store.facts()
    labels = [label for label in folder.store.labels() if label.answer != "withdrawn"]
    answered = {label.pair_id for label in labels}
    agreement, repeated = self_agreement(labels)
    waits = [label.response_ms for label in labels if label.response_ms is not None]
    opposed = contradictions(labels)
    people = sorted({label.annotator for label in labels})
    judged = [one for one in folder.store.judgements() if one.answer != "withdrawn"]
    return {
        "data": facts.get("task"),
        "pairs": len(asked),
        "held_out_pairs": sum(one.split == "held-out" for one in asked),
        "answered_pairs": len(answered),
        "sessions": {str(n): sum(one.session == n for one in asked) for n in sorted({one.session for one in asked})},
        "labels": len(labels),
        "answers": count_answers(labels),
        "targets": {name: sum(label.target == name for label in labels) for name in {one.target for one in labels}},
        "annotators": {name: count_answers([one for one in labels if one.annotator == name]) for name in people},
        "questions": len(by_question(labels)),
        "repeated": repeated,
        "self_agreement": agreement,
        "contradictions": [list(one) for one in opposed],
        "kappa": [
            {"annotators": list(both), "kappa": kappa, "questions": count}
            for both, (kappa, count) in kappas(labels).items()
        ],
        "ratings": _judged(judged, "rating"),
        "credit": _judged(judged, "credit"),
        "skip_reasons": _counted(text for _, _, text in folder.store.remarks()),
        "median_response_ms": median(waits) if waits else None,
    }


def _judged(judgements: Iterable[Judgement], kind: str) -> dict[str, int]:
    """How often each answer was given to one kind of questions about single segments."""
    return _counted(one.answer for one in judgements if one.kind == kind)


def _counted(answers: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(answers).items()))
