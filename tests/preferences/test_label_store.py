from __future__ import annotations

import os
import signal
import sqlite3
import textwrap
import time

import pytest

from offline_marl.core.types import DataError
from offline_marl.preferences import label_store as room
from offline_marl.preferences.label_store import LabelStore, StoreError
from offline_marl.preferences.labels import AskedPair, Label, index_of
from offline_marl.preferences.pairs import Pair, SegmentKey


def pair(number: int) -> Pair:
    return Pair(SegmentKey("abc", number, 0, 5), SegmentKey("abc", number + 1, 2, 5))


def asked(*numbers: int) -> list[AskedPair]:
    return [AskedPair(pair(n), session=1, split="train", strategy="uniform", score=0.25) for n in numbers]


def label(number: int, answer: str = "first", annotator: str = "ann", **more: object) -> Label:
    return Label(pair(number).id, answer, annotator, **more)


@pytest.fixture
def store(tmp_path):
    with LabelStore(tmp_path / "labels.sqlite", make=True) as store:
        store.ask_about(asked(0, 1, 2))
        yield store


def test_pairs_and_labels_come_back_as_they_were(store) -> None:
    store.add([label(1, "second", repeat=1, shown_order="swapped", response_ms=900, target="agent_2"), label(0)])
    again = LabelStore(store.path)
    assert [(one.pair, one.session, one.split, one.score) for one in again.pairs()] == [
        (pair(n), 1, "train", 0.25) for n in (0, 1, 2)
    ]
    first, second = again.labels()
    assert (first.pair_id, first.value, first.target, first.shown_order) == (pair(1).id, 0.0, "agent_2", "swapped")
    assert (first.response_ms, second.answer, second.source) == (900, "first", "human") and second.answered
    again.close()


def test_what_is_said_twice_is_stored_once(store) -> None:
    assert store.add([label(0), label(1, "skip")]) == 2
    assert store.add([label(0), label(1, "skip"), label(2)]) == 1
    assert store.ask_about(asked(0, 1, 2, 3)) == 1
    assert [one.value for one in store.labels()] == [1.0, None, 1.0]


def test_another_answer_to_the_same_question_is_a_repeat_or_a_revision(store) -> None:
    store.add([label(0)])
    with pytest.raises(StoreError, match="answered 'first' to pair .* before, not 'second'"):
        store.add([label(1), label(0, "second")])
    assert len(store.labels()) == 1, "all labels of a call or none"
    store.add([label(0, "second", repeat=1), label(1), label(1, "equal", revision=1)])
    assert [(one.value, one.repeat) for one in store.labels()] == [(1.0, 0), (0.0, 1), (0.5, 0)]


def test_a_label_for_a_pair_that_is_not_there_is_refused(store) -> None:
    with pytest.raises(StoreError, match="There is no pair"):
        store.add([label(0), label(9)])
    assert store.labels() == []


@pytest.mark.parametrize(
    "statement", ["UPDATE labels SET answer = 'second'", "DELETE FROM labels", "DELETE FROM pairs"]
)
def test_the_store_only_grows(store, statement) -> None:
    store.add([label(0)])
    connection = sqlite3.connect(store.path)
    with pytest.raises(sqlite3.IntegrityError, match="only grows"):
        connection.execute(statement)
    connection.close()
    assert [one.answer for one in store.labels()] == ["first"]


def test_facts_are_stated_once_and_all_together(store) -> None:
    store.state({"budget": 100, "team": {"agents": [1, 2]}})
    store.state({"budget": 100, "team": {"agents": (1, 2)}})
    with pytest.raises(StoreError, match="begun with budget = 100, not 200"):
        store.state({"later": 1, "budget": 200})
    assert store.facts() == {"budget": 100, "team": {"agents": [1, 2]}}


def test_a_reader_takes_what_came_after_its_cursor(store) -> None:
    store.add([label(0)])
    cursor = store.cursor()
    store.add([label(1), label(2)])
    assert [one.pair_id for one in store.labels(cursor)] == [pair(1).id, pair(2).id]


def test_two_processes_may_have_it_open(store) -> None:
    other = LabelStore(store.path)
    other.add([label(0, annotator="bob")])
    store.add([label(0, annotator="ann")])
    assert len(other.labels()) == len(store.labels()) == 2
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


def test_a_store_that_another_process_makes_meanwhile_is_one(tmp_path, monkeypatch) -> None:
    """Such as the page's, which is opened as the run begins."""
    path, connect = tmp_path / "labels.sqlite", sqlite3.connect

    class Beside(sqlite3.Connection):
        def execute(self, sql, *args):
            if sql != "PRAGMA application_id":
                return super().execute(sql, *args)
            mark = super().execute(sql).fetchone()
            with monkeypatch.context() as patch:
                patch.setattr(sqlite3, "connect", connect)
                LabelStore(path).close()
            return super().execute("SELECT ?", mark)

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, factory=Beside, **more))
    with LabelStore(path, make=True) as made:
        assert made.pairs() == made.labels() == []


def test_a_rollback_journal_can_be_asked_for(tmp_path) -> None:
    with LabelStore(tmp_path / "labels.sqlite", make=True, journal="rollback") as store:
        assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_missing_or_foreign_or_damaged_file_is_refused(tmp_path) -> None:
    with pytest.raises(StoreError, match="There is no store of labels"):
        LabelStore(tmp_path / "none.sqlite")
    foreign = tmp_path / "foreign.sqlite"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE things (a)")
    connection.close()
    with pytest.raises(StoreError, match="database of something else"):
        LabelStore(foreign)
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(b"no database, but longer than a header would be" * 40)
    with pytest.raises(StoreError, match="is no store of labels, or is damaged"):
        LabelStore(damaged)


def test_a_store_of_a_newer_version_is_refused_and_stays_as_it_is(store) -> None:
    connection = sqlite3.connect(store.path)
    connection.execute(f"PRAGMA user_version = {room.VERSION + 1}")
    connection.close()
    with pytest.raises(StoreError, match="written by a newer version"):
        LabelStore(store.path)


def test_a_network_file_system_is_refused_unless_the_journal_is_rolled_back(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(room, "file_system_of", lambda path: "nfs4")
    with pytest.raises(StoreError, match=r"network file system \(nfs4\).*--journal rollback"):
        LabelStore(tmp_path / "labels.sqlite", make=True)
    assert not (tmp_path / "labels.sqlite").exists()
    LabelStore(tmp_path / "labels.sqlite", make=True, journal="rollback").close()
    with LabelStore(tmp_path / "labels.sqlite") as store:  # it stays as it was made
        assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    with pytest.raises(StoreError, match="network file system"):
        LabelStore(tmp_path / "labels.sqlite", journal="wal")


def test_targets_are_the_team_or_an_agent_that_there_is() -> None:
    assert [index_of(name, 3) for name in ("team", "agent_0", "agent_2")] == [-1, 0, 2]
    with pytest.raises(DataError, match="'agent_3' is no target of a label: there are team, agent_0, agent_1, agent_2"):
        index_of("agent_3", 3)


WRITER = """
    import sys
    from pathlib import Path
    from offline_marl.preferences.label_store import LabelStore
    from offline_marl.preferences.labels import AskedPair, Label
    from offline_marl.preferences.pairs import Pair, SegmentKey

    store, told = LabelStore(Path(sys.argv[1]), make=True), open(sys.argv[2], "w")
    number = len(store.labels())
    while True:
        pairs = [Pair(SegmentKey("abc", n, 0, 5), SegmentKey("abc", n + 1, 0, 5)) for n in range(number, number + 3)]
        store.ask_about([AskedPair(pair, 1, "train", "uniform") for pair in pairs])
        store.add([Label(pair.id, "first", "ann") for pair in pairs])
        number += 3
        print(number, file=told, flush=True)
"""


@pytest.mark.slow
def test_every_label_that_was_acknowledged_survives_kill_9(tmp_path, warm) -> None:
    path, told = tmp_path / "labels.sqlite", tmp_path / "told"
    for _ in range(2):
        told.write_text("")
        process = warm.start("-c", textwrap.dedent(WRITER), str(path), str(told))
        deadline = time.monotonic() + 30
        while len(told.read_text().splitlines()) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        acknowledged = int(told.read_text().rpartition("\n")[0].splitlines()[-1])
        with LabelStore(path) as store:
            stored = len(store.labels())
            assert stored >= acknowledged and stored % 3 == 0 and len(store.pairs()) >= stored
            assert store._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_store_that_may_not_grow_keeps_what_it_has_and_says_so(store, tmp_path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreError, match="cannot be written to"):
            store.ask_about(asked(*range(3, 500)))
        with pytest.raises(StoreError, match=r"other.sqlite cannot be"):
            LabelStore(tmp_path / "other.sqlite", make=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(store.pairs()) == 3
    assert store.ask_about(asked(*range(3, 500))) == 497
    LabelStore(tmp_path / "other.sqlite", make=True).close()
