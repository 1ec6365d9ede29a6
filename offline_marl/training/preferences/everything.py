"""All that people answered as one JSON file: labels, ratings, credit, remarks, and pairs that nobody answered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_marl.core.files import write_atomically
from offline_marl.core.types import DataError
from offline_marl.preferences.answers import Judgement, Remark, oriented, plain, refuse_answer
from offline_marl.preferences.label_store import StoreError
from offline_marl.preferences.labels import LARGEST_COUNT, SHOWN_ORDERS, TEAM, VALUES, Label, index_of
from offline_marl.preferences.names import has_controls, respelled, respelled_remarks
from offline_marl.preferences.pairs import Pair, SegmentKey
from offline_marl.preferences.revisions import Answered, onward, question_of
from offline_marl.training.preferences.answering import open_questions
from offline_marl.training.preferences.folders import ComparisonFolder

KIND = "answers about segments"
LARGEST = 256_000_000
"""Bytes of a file that is read."""
LONGEST_REMARK = 200


def export_everything(folder: ComparisonFolder, file: Path, targets: Sequence[str] | None = None) -> tuple[int, int]:
    """Write all answers, and the questions about pairs that nobody answered.

    Args:
        folder: Of the comparisons.
        file: The file.
        targets: Of open questions, see `open_questions`; they name their target then.

    Returns:
        How many answers, and how many questions about pairs without.
    """
    store = folder.store
    labels, labels_back = _parted(store.labels())
    judged, judged_back = _parted(store.judgements())
    pairs = {one.pair.id: _segments(one.pair) for one in store.pairs()}
    still_open = [
        {"pair_id": name, **({} if target is None else {"target": target}), **pairs[name]}
        for name, target in open_questions(pairs, labels, targets)
    ]
    content = {
        "kind": KIND,
        "data": store.facts().get("data"),
        "labels": [plain(label) | pairs[label.pair_id] for label in labels],
        "judgements": [plain(one) for one in judged],
        # Apart: readers of earlier versions take none of these for an answer.
        "taken_back": {
            "labels": [plain(label) | pairs[label.pair_id] for label in labels_back],
            "judgements": [plain(one) for one in judged_back],
        },
        "remarks": [list(remark) for remark in store.remarks()],
        "open": still_open,
    }
    write_atomically(file, json.dumps(content, indent=1).encode())
    return len(labels) + len(judged), len(still_open)


def _parted(answers: Sequence[Answered]) -> tuple[list[Answered], list[Answered]]:
    """Answers that stand, and those that were taken back."""
    stand = [one for one in answers if one.answer != "withdrawn"]
    return stand, [one for one in answers if one.answer == "withdrawn"]


def _segments(pair: Pair) -> dict[str, list[str | int]]:
    """Which segment is meant by first, and which by second."""
    sides = {"first": pair.first, "second": pair.second}
    return {name: [key.source, key.episode, key.start, key.length] for name, key in sides.items()}


def take_in_everything(
    folder: ComparisonFolder, file: Path, annotator: str | None = None, target: str = TEAM
) -> tuple[int, int]:
    """Store the answers and remarks of such a file, all or none; those that are there already add nothing.

    An answer that was corrected or taken back where the file was written is so here, too, see `onward`.

    Args:
        folder: Of the comparisons.
        file: As `export_everything` wrote it, here or elsewhere.
        annotator: Of answers that name nobody.
        target: Of labels and ratings that name none.

    Returns:
        How many are new, and how many were there already.

    Raises:
        BadInputError: It is no such file, or of other data; an answer cannot be read, or contradicts one that is there.
    """
    content = _read(file)
    about, own = content.get("data"), folder.store.facts().get("data")
    if about is not None and own is not None and about != own:
        runs = all(str(_key_of(one)).startswith("run:") for one in (about, own))
        what = "what another run played than that of" if runs else "other data than"
        raise DataError(f"{file} holds answers about {what} {folder.path}.")
    n_agents = len((own or {"spec": {"obs_dims": []}})["spec"]["obs_dims"])
    pairs = {one.pair.id: one.pair for one in folder.store.pairs()}
    labels, judged = list[Label](), list[Judgement]()
    back = content["taken_back"]
    for number, row in enumerate([*content["labels"], *back["labels"]]):
        labels.append(_label(row, annotator, target, n_agents, pairs, f"label {number} of {file}"))
    for number, row in enumerate([*content["judgements"], *back["judgements"]]):
        judged.append(_judgement(row, annotator, target, n_agents, f"judgement {number} of {file}"))
    remarks = [_remark(row, f"remark {number} of {file}") for number, row in enumerate(content["remarks"])]
    held = folder.store.annotators()
    labels, judged, remarks = respelled(labels, held), respelled(judged, held), respelled_remarks(remarks, held)
    labels_on, labels_again = _onward(labels, folder.store.labels())
    judged_on, judged_again = _onward(judged, folder.store.judgements())
    again = labels_again + judged_again
    new = folder.store.take_in(labels_on, judged_on, remarks) - again
    return new, _standing(labels, judged) - _standing(labels_on, judged_on) + again


def _key_of(about: Any) -> Any:
    return about.get("key") if isinstance(about, dict) else None


def _standing(labels: Sequence[Label], judged: Sequence[Judgement]) -> int:
    return len(_parted(labels)[0]) + len(_parted(judged)[0])


def _onward(given: Sequence[Answered], stored: Sequence[Answered]) -> tuple[list[Answered], int]:
    """Rows by which what is stored goes on to what is given, and how many of them say the same again."""
    known: dict[Any, Answered] = {question_of(one): one for one in stored}
    made, again = list[Answered](), 0
    for one in given:
        before = known.get(question_of(one))
        following = onward(one, before)
        if following is not None:
            again += before is not None and before.answer == following.answer
            known[question_of(one)] = following
            made.append(following)
    return made, again


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > LARGEST:
            raise DataError(f"{file} is larger than {LARGEST // 1_000_000} MB.")
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {error}.") from None
    lists = isinstance(content, dict) and all(isinstance(content.get(name), list) for name in ("labels", "judgements"))
    if not lists or content.get("kind") != KIND:
        raise DataError(f"{file} holds no answers about segments, as `label --export` writes them.")
    known: dict[str, Any] = {"remarks": [], "taken_back": {}, **content}
    back = known["taken_back"]
    if not isinstance(known["remarks"], list) or not isinstance(back, dict):
        raise DataError(f"The remarks of {file}, or the answers that were taken back, cannot be read.")
    known["taken_back"] = {name: back.get(name, []) for name in ("labels", "judgements")}
    if not all(isinstance(rows, list) for rows in known["taken_back"].values()):
        raise DataError(f"The answers of {file} that were taken back cannot be read.")
    return known


def _remark(row: Any, place: str) -> Remark:
    if not isinstance(row, list) or len(row) != 3 or not all(isinstance(text, str) for text in row):
        raise DataError(f"The {place} cannot be read: it should be a question, an annotator and a text.")
    if any(len(text) > LONGEST_REMARK for text in row):
        raise DataError(f"The {place} is longer than {LONGEST_REMARK} letters.")
    if any(map(has_controls, row)):
        raise DataError(f"The {place} cannot be read: it holds a character that cannot be written.")
    return row[0], row[1], row[2]


def _label(row: Any, annotator: str | None, target: str, n_agents: int, pairs: Mapping[str, Pair], place: str) -> Label:
    values = {"target": target, **_values(row, annotator, place)}
    try:
        sides = [values.pop(name, None) for name in ("first", "second")]
        given = None if None in sides else Pair(*map(_segment, sides))
        label = Label(**values)
        if label.pair_id in pairs:  # the store refuses others
            label = oriented(label, given, pairs[label.pair_id])
        index_of(label.target, n_agents)
        if label.answer not in VALUES:
            raise DataError(f"'{label.answer}' is no answer")
    except (TypeError, ValueError, LookupError, DataError) as error:
        raise DataError(f"The {place} cannot be read: {str(error).rstrip('.')}.") from None
    return label


def _judgement(row: Any, annotator: str | None, target: str, n_agents: int, place: str) -> Judgement:
    values = _values(row, annotator, place)
    try:
        values = {"target": TEAM if values.get("kind") == "credit" else target, **values}
        one = Judgement(segment=_segment(values.pop("segment")), **values)
        refuse_answer(one)
        if one.kind == "credit" and one.target != TEAM:
            raise DataError(f"credit is about all agents at once, not about '{one.target}' alone")
        index_of(one.target, n_agents)
        if one.answer.startswith("agent_"):
            index_of(one.answer, n_agents)
    except (TypeError, ValueError, KeyError, DataError, StoreError) as error:
        raise DataError(f"The {place} cannot be read: {str(error).rstrip('.')}.") from None
    return one


def _segment(value: Any) -> SegmentKey:
    """The segment that a list names: source, episode, first step and steps."""
    if not isinstance(value, list) or len(value) != 4 or not isinstance(value[0], str):
        raise ValueError("a segment is a list of its source, episode, start and length")
    if not all(type(number) is int and 0 <= number < LARGEST_COUNT for number in value[1:]):
        raise ValueError("the episode, start and length of a segment are whole numbers")
    return SegmentKey(*value)


TEXTS = ("pair_id", "kind", "answer", "annotator", "source", "target", "shown_order", "answered")


def _values(row: Any, annotator: str | None, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"The {place} is no object.")
    values: dict[str, Any] = {str(name): value for name, value in row.items()}
    values["annotator"] = values.get("annotator") or annotator
    if not values["annotator"]:
        raise DataError(f"Nobody is named who gave the {place}: give --annotator.")
    for name in TEXTS:
        if not isinstance(values.get(name, ""), str):
            raise DataError(f"The {place} cannot be read: its {name} is no text.")
        if has_controls(values.get(name, "")):
            raise DataError(f"The {place} cannot be read: its {name} holds a character that cannot be written.")
    if values.get("shown_order", SHOWN_ORDERS[0]) not in SHOWN_ORDERS:
        raise DataError(f"The {place} cannot be read: its shown_order is none of {', '.join(SHOWN_ORDERS)}.")
    for name in ("repeat", "revision", "response_ms"):
        value = values.get(name, 0)
        count = type(value) is int and 0 <= value < LARGEST_COUNT
        if not count and not (name == "response_ms" and value is None):
            raise DataError(f"The {place} cannot be read: its {name} is no number.")
    return values
