"""Labels as CSV files: written for people to read and to fill in, and taken in again, all or none."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from offline_marl.core.files import write_atomically
from offline_marl.core.small_files import shown
from offline_marl.core.types import DataError
from offline_marl.preferences.answers import oriented
from offline_marl.preferences.label_store import PAIR_COLUMNS
from offline_marl.preferences.labels import (
    LARGEST_COUNT,
    SHOWN_ORDERS,
    TEAM,
    VALUES,
    Answer,
    AskedPair,
    Label,
    index_of,
)
from offline_marl.preferences.names import has_controls, respelled
from offline_marl.preferences.pairs import Pair, SegmentKey
from offline_marl.preferences.revisions import UNKNOWN, onward
from offline_marl.training.preferences.answering import open_questions
from offline_marl.training.preferences.folders import ComparisonFolder

LABEL_CELLS = [
    "target",
    "answer",
    "label",
    "annotator",
    "repeat",
    "source",
    "shown_order",
    "answered",
    "response_ms",
    "revision",
]
COLUMNS = [*PAIR_COLUMNS.split(), *LABEL_CELLS]


def export(folder: ComparisonFolder, file: Path, targets: Sequence[str] | None = None) -> tuple[int, int]:
    """Write all labels, and the questions that nobody answered, into a CSV file.

    Args:
        folder: Of the comparisons.
        file: The file.
        targets: Of open lines, see `open_questions`; they name their target then.

    Returns:
        How many labels, and how many questions without.
    """
    asked = {one.pair.id: one for one in folder.store.pairs()}
    labels = [label for label in folder.store.labels() if label.answer != "withdrawn"]
    still_open = open_questions(asked, labels, targets)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for label in labels:
        writer.writerow(_pair_cells(asked[label.pair_id]) | _label_cells(label))
    for name, target in still_open:
        writer.writerow(_pair_cells(asked[name]) | ({} if target is None else {"target": target}))
    write_atomically(file, stream.getvalue().encode())
    return len(labels), len(still_open)


def _pair_cells(asked: AskedPair) -> dict[str, Any]:
    cells: dict[str, Any] = {"pair_id": asked.pair.id}
    for name, key in (("first", asked.pair.first), ("second", asked.pair.second)):
        values = {"source": key.source, "episode": key.episode, "start": key.start, "length": key.length}
        cells |= {f"{name}_{what}": value for what, value in values.items()}
    cells |= {"session": asked.session, "split": asked.split, "strategy": asked.strategy}
    return cells | {"score": "" if asked.score is None else repr(asked.score), "created": asked.created}


def _label_cells(label: Label) -> dict[str, Any]:
    values = {name: label.value if name == "label" else getattr(label, name) for name in LABEL_CELLS}
    return {name: "" if value is None else value for name, value in values.items()}


def take_in(folder: ComparisonFolder, file: Path, annotator: str | None = None, target: str = TEAM) -> tuple[int, int]:
    """Store the labels of a CSV file, all or none; lines without an answer are passed over.

    Needed are `pair_id`, and `answer` (first, second, equal, skip) or `label` (1, 0, 0.5). Where a line names its
    segments, as exported ones do, first and second are the line's own, even if the folder holds the pair the other way
    round. A second, other answer of one annotator to one question that neither `repeat` nor `revision` tells apart is
    stored as a repeat; one of the same repeat corrects if it is newer, see `onward`.

    Args:
        folder: Of the comparisons.
        file: The file.
        annotator: Of lines that name none.
        target: Of lines that name none.

    Returns:
        How many labels are new, and how many were there already.

    Raises:
        BadInputError: A line cannot be read, contradicts itself, or is about a pair that is not there.
    """
    labels = respelled(_read(folder, file, annotator, target), folder.store.annotators())
    rows, again = _told_apart(labels, folder.store.labels())
    new = folder.store.add(rows) - again
    return new, len(labels) - new


def _read(folder: ComparisonFolder, file: Path, annotator: str | None, about: str) -> Iterator[Label]:
    """The labels of a file's lines, each the way round in which the folder holds its pair."""
    known = {one.pair.id: one.pair for one in folder.store.pairs()}
    sources = {side.source for pair in known.values() for side in (pair.first, pair.second)}
    agents = len((folder.store.facts().get("data") or {"spec": {"obs_dims": []}})["spec"]["obs_dims"])
    for place, given in _lines(file):
        if given["pair_id"] not in known:
            source = given.get("first_source", "")
            if source.startswith("run:") and source not in sources:
                raise DataError(f"{file} holds questions of another run than that of {folder.path}.")
            raise DataError(f"There is no pair {shown(given['pair_id'])[1:-1]} in {folder.path}: {place} labels it.")
        who = given.get("annotator") or annotator
        if not who:
            raise DataError(f"Nobody is named who gave the label in {place}: give --annotator, or a column annotator.")
        if has_controls(who):
            raise DataError("--annotator holds a character that cannot be written.")
        try:
            label = _label(given, who, about)
            index_of(label.target, agents)
            yield oriented(label, _pair(given), known[given["pair_id"]])
        except (ValueError, DataError) as error:
            raise DataError(f"The label in {place} cannot be read: {str(error).rstrip('.')}.") from None


def _lines(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Lines of a file that answer something: where each stands, and its cells by our columns.

    Raises:
        DataError: It cannot be read, lacks a column, or a line cannot be one of labels.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}.") from None
    columns, rows = _table(text, file)
    if "pair_id" not in columns or not {"answer", "label"} & columns:
        raise DataError(
            f"{file} should have the columns pair_id and answer (or label); it has {shown(sorted(columns))}."
        )
    for number, cells in rows:
        place = f"line {number} of {file}"
        given = {name: (value or "").strip() for name, value in cells.items() if name in COLUMNS}
        if any(value.strip() for value in cells.get(None) or ()):
            raise DataError(f"There are more cells in {place} than columns: put what has a comma in it between quotes.")
        if any(map(has_controls, given.values())):
            raise DataError(
                f"A cell in {place} goes over several lines, or holds a character that cannot be written: see whether "
                "a quote is left open."
            )
        if given.get("answer") or given.get("label"):
            yield place, given


def _table(text: str, file: Path) -> tuple[set[str], list[tuple[int, dict[Any, Any]]]]:
    """Columns of a CSV file, and its lines with their numbers; surplus cells lie under None.

    Raises:
        DataError: It is none, such as where a quote is never closed, or names one of our columns twice.
    """
    lines = csv.DictReader(io.StringIO(text), strict=True)
    begun, rows = 1, list[tuple[int, dict[Any, Any]]]()
    try:
        names = [name.strip() for name in lines.fieldnames or ()]
        begun = lines.line_num + 1
        for cells in lines:
            rows.append((begun, cells))
            begun = lines.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{file} is no table of comma-separated values: {error}, in what begins at line {begun}."
        ) from None
    twice = sorted(name for name in set(names) & set(COLUMNS) if names.count(name) > 1)
    if twice:
        raise DataError(f"{file} has the column {twice[0]} twice: leave one of them away.")
    return set(lines.fieldnames or ()), rows


def _label(given: Mapping[str, str], annotator: str, target: str) -> Label:
    label = Label(
        given["pair_id"],
        _answer(given),
        annotator,
        source=given.get("source") or "imported",
        target=given.get("target") or target,
        repeat=_count(given["repeat"]) if given.get("repeat") else -1,
        revision=_count(given["revision"]) if given.get("revision") else UNKNOWN,
        shown_order=given.get("shown_order") or "as stored",
        answered=given.get("answered", ""),
        response_ms=_count(given["response_ms"]) if given.get("response_ms") else None,
    )
    if label.shown_order not in SHOWN_ORDERS:
        raise ValueError(f"{shown(label.shown_order)} is no shown_order, which are {', '.join(SHOWN_ORDERS)}")
    return label


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value < LARGEST_COUNT:
        raise ValueError(f"{shown(text)} is no count")
    return value


def _pair(given: Mapping[str, str]) -> Pair | None:
    """The segments that a line names; None of one that does not name both."""
    sides = []
    for name in ("first", "second"):
        cells = [given.get(f"{name}_{what}", "") for what in ("source", "episode", "start", "length")]
        if not all(cells):
            return None
        sides.append(SegmentKey(cells[0], *map(int, cells[1:])))
    return Pair(*sides)


def _answer(given: Mapping[str, str]) -> Answer:
    if given.get("answer"):
        if given["answer"] not in VALUES:
            raise ValueError(f"'{given['answer']}' is no answer, which are first, second, equal and skip")
        if given.get("label") and float(given["label"]) != VALUES[given["answer"]]:
            raise ValueError(f"its answer is {given['answer']} and its label {shown(given['label'])}: leave one empty")
        return cast(Answer, given["answer"])
    value = float(given["label"])
    found = [name for name, stands_for in VALUES.items() if stands_for == value]
    if not found:
        raise ValueError(f"{value:g} is no label, which are 1 (the first), 0 (the second) and 0.5")
    return cast(Answer, found[0])


def _told_apart(labels: Sequence[Label], stored: Sequence[Label]) -> tuple[list[Label], int]:
    """Labels with the repeats and revisions that they lack, and how many of them say the same again.

    Of one that names no repeat, it is that of the same answer, or of one that was taken back; else the next. One that
    names a revision corrects, and so is of the first time unless it says otherwise.
    """
    newest: dict[tuple[str, str, str], dict[int, Label]] = {}
    made, again = list[Label](), 0
    for label in stored:
        newest.setdefault(label.asked, {})[label.repeat] = label
    for label in labels:
        given = newest.setdefault(label.asked, {})
        repeat = 0 if label.repeat < 0 < label.revision else label.repeat
        if repeat < 0:
            free = [number for what in (label.answer, "withdrawn") for number in given if given[number].answer == what]
            repeat = free[0] if free else 1 + max(given, default=-1)
        before = given.get(repeat)
        following = onward(replace(label, repeat=repeat), before)
        if following is not None:
            again += before is not None and before.answer == following.answer
            given[repeat] = following
            made.append(following)
    return made, again
