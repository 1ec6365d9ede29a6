from __future__ import annotations

import sqlite3

import pytest

from offline_marl.preferences.answers import AnswerStore, Judgement, KeyReusedError, Post
from offline_marl.preferences.label_store import LabelStore, StoreError
from offline_marl.preferences.labels import AskedPair, Label
from offline_marl.preferences.pairs import Pair, SegmentKey


def key(number: int) -> SegmentKey:
    return SegmentKey("abc", number, 0, 5)


PAIR = Pair(key(0), key(1))


def rating(answer: str, segment: int = 0, **more: object) -> Judgement:
    return Judgement("rating", key(segment), answer, "ann", **more)


@pytest.fixture
def store(tmp_path):
    with AnswerStore(tmp_path / "labels.sqlite", make=True) as store:
        store.ask_about([AskedPair(PAIR, 1, "train", "uniform")])
        yield store


def test_ratings_and_credit_come_back_as_they_were_and_the_last_revision_counts(store) -> None:
    first = rating("4", target="agent_1", response_ms=900)
    credit = Judgement("credit", key(1), "agent_0", "ben", repeat=1)
    assert store.judge([first, credit]) == 2 and store.judge([first, credit]) == 0
    store.judge([rating("withdrawn", target="agent_1", revision=1)])
    one, two = store.judgements()
    assert (one.kind, one.segment, one.answer, one.annotator, one.repeat) == ("credit", key(1), "agent_0", "ben", 1)
    assert (two.answer, two.target, two.revision) == ("withdrawn", "agent_1", 1) and two.answered
    assert [number for number, _ in store.judgement_history()] == [1, 2, 3] and store.judgement_cursor() == 3
    assert [one.answer for one in store.judgements(until=2)] == ["4", "agent_0"]
    assert store.judgements(until=2)[0].response_ms == 900


def test_an_older_revision_that_comes_later_changes_nothing(store) -> None:
    store.judge([rating("4", revision=2), rating("5", 1)])
    store.judge([rating("3"), rating("withdrawn", revision=1)])
    assert [one.answer for one in store.judgements()] == ["4", "5"] and store.standing() == 2
    assert store.standing(0, 1) == 1 and store.standing(0, 2) == 0
    store.judge([rating("withdrawn", revision=3)])
    assert store.standing() == 1 and [one.answer for one in store.judgements(until=4)] == ["4", "5"]


def test_what_is_no_answer_and_what_is_of_no_pair_is_refused(store) -> None:
    for bad in (rating("6"), rating("first"), Judgement("credit", key(0), "3", "ann"), rating("3", segment=7)):
        with pytest.raises(StoreError):
            store.judge([rating("2"), bad])
    assert store.judgements() == []
    store.judge([rating("2")])
    with pytest.raises(StoreError, match="answered '2' .* before, not '3'"):
        store.judge([rating("3")])


def test_a_post_that_arrives_twice_is_stored_once_and_a_key_is_taken_for_nothing_else(store) -> None:
    post = Post("k1", "d1", labels=(Label(PAIR.id, "skip", "ann"),), remark=("q", "ann", "unclear"))
    assert store.record([post, post]) == [True, False]
    assert store.record([post]) == [False]
    other = store.record([Post("k1", "d2", labels=(Label(PAIR.id, "first", "ben"),)), Post("k2", "d3")])
    assert isinstance(other[0], KeyReusedError) and other[1] is False
    assert [label.answer for label in store.labels()] == ["skip"] and store.remarks() == [("q", "ann", "unclear")]


def test_one_bad_post_leaves_the_others_alone_and_nothing_of_itself(store) -> None:
    bad = Post("k1", "d", labels=(Label(PAIR.id, "first", "ann"), Label("0" * 32, "first", "ann")))
    good = Post("k2", "d", labels=(Label(PAIR.id, "second", "ben"),))
    refused, stored = store.record([bad, good])
    assert isinstance(refused, StoreError) and stored is True
    assert [(label.annotator, label.answer) for label in store.labels()] == [("ben", "second")]
    assert store.record([Post("k1", "d", labels=(Label(PAIR.id, "first", "ann"),))]) == [True], "its key is free again"


def test_a_full_disk_refuses_aloud_and_stores_nothing(store) -> None:
    store.record([Post("k0", "d")])
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    posts = [
        Post(f"k{n}", "d" * 900, labels=(Label(PAIR.id, "first", f"somebody {n}"),), remark=("q", "a", "x" * 900))
        for n in range(1, 60)
    ]
    with pytest.raises(StoreError, match="full"):
        store.record(posts)
    assert store.labels() == [] and store.remarks() == []
    store._connection.execute("PRAGMA max_page_count = 100000")
    assert store.record(posts) == [True] * 59


def test_stores_from_before_are_opened_and_libraries_from_before_open_ours(tmp_path) -> None:
    with LabelStore(tmp_path / "old.sqlite", make=True) as old:
        old.ask_about([AskedPair(PAIR, 1, "train", "uniform")])
    with AnswerStore(tmp_path / "old.sqlite") as store:
        assert store.judgements() == [] and store.remarks() == [] and store.judgement_cursor() == 0
        assert store.judge([rating("5")]) == 1
        with pytest.raises(sqlite3.IntegrityError, match="only grows"):
            store._connection.execute("DELETE FROM judgements")
    with LabelStore(tmp_path / "old.sqlite") as old:
        assert old.labels() == [] and len(old.pairs()) == 1
