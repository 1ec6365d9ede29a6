from __future__ import annotations

import pytest

from offline_marl.preferences import agreement as room
from offline_marl.preferences.labels import Label
from offline_marl.preferences.pairs import Pair, SegmentKey


def pair(number: int) -> Pair:
    return Pair(SegmentKey("abc", number, 0, 5), SegmentKey("abc", number + 1, 2, 5))


def label(number: int, answer: str = "first", annotator: str = "ann", **more: object) -> Label:
    return Label(pair(number).id, answer, annotator, **more)


def test_contradictions_and_self_agreement_are_counted() -> None:
    answers = [
        label(0), label(0, repeat=1), label(1), label(1, "second", repeat=1), label(2, "skip"), label(2, repeat=1),
        label(0, "second", annotator="bob"),
    ]  # fmt: skip
    assert room.contradictions(answers) == [(pair(1).id, "team", "ann")]
    assert room.self_agreement(answers) == (0.5, 2)
    assert room.self_agreement(answers[:1]) == (None, 0)


def test_kappa_by_hand() -> None:
    # Ten questions: both first 4, both second 3, ann first and bob second 2, ann second and bob first 1.
    table = ["first first"] * 4 + ["second second"] * 3 + ["first second"] * 2 + ["second first"]
    answers = [
        label(number, answer, annotator)
        for number, line in enumerate(table)
        for annotator, answer in zip(("ann", "bob"), line.split(), strict=True)
    ]
    # Observed .7; by chance .6 * .5 + .4 * .5 = .5: (.7 - .5) / .5 = .4.
    kappa, count = room.kappas(answers)["ann", "bob"]
    assert (kappa, count) == (pytest.approx(0.4), 10)
    assert room.kappas([label(0), label(0, annotator="bob")])["ann", "bob"] == (None, 1)
    assert room.kappas([label(0), label(1, annotator="bob")]) == {}


def test_a_first_answer_that_was_corrected_after_its_repeat_is_still_the_first() -> None:
    # As a store gives them: by the row of the last revision.
    answers = [label(0, "second", repeat=1), label(0, revision=1), label(1, "second")]
    answers += [label(number, answer, "bob") for number, answer in enumerate(("first", "second"))]
    assert room.kappas(answers)["ann", "bob"] == (1.0, 2)
    again = [label(0, repeat=1), label(0, repeat=2), label(0, "second", revision=1)]
    assert room.self_agreement(again) == (0.0, 2)
