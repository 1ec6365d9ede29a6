from __future__ import annotations

import json

import pytest
from labelled_page import Client, serving
from worlds import saved, world

from offline_marl.labelling import clips
from offline_marl.labelling.desk import Desk
from offline_marl.labelling.leases import Leases
from offline_marl.labelling.questions import (
    AnsweredError,
    Asking,
    Question,
    RefusedAnswerError,
    UnknownQuestionError,
)
from offline_marl.preferences.answers import Judgement
from offline_marl.preferences.label_store import StoreError
from offline_marl.preferences.labels import Label
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.preferences.asking import Plan, ask
from offline_marl.training.preferences.folders import ComparisonFolder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return saved(tmp_path_factory.mktemp("data"), world("continuous", episodes=20))


@pytest.fixture
def folder(tmp_path, data):
    with ComparisonFolder(tmp_path / "pairs", make=True) as opened:
        ask(opened, open_task(data), Plan(budget=40, length=3))
        yield opened


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def store(desk: Desk, question: Question, who: str, answer: str = "first") -> None:
    row = desk.answer(question, who, answer, 10)
    if isinstance(row, Label):
        desk.folder.store.add([row])
    elif isinstance(row, Judgement):
        desk.folder.store.judge([row])
    desk.refresh()


def test_a_lease_ends_by_time_and_outlives_its_server(folder, tmp_path) -> None:
    time, file = Time(), tmp_path / "leases.jsonl"
    desk = Desk(folder, Asking(lease=60), Leases(file), time)
    mine = desk.lease("ann", 40)
    assert len(mine) == 40 and desk.lease("ben", 40) == []
    again = Desk(folder, Asking(lease=60), Leases(file), time)  # the first server was killed
    assert again.lease("ben", 40) == [] and again.lease("ann", 40, mine[:2])[:2] == mine[:2]
    time.now += 61
    assert len(again.lease("ben", 40)) == 40 and again.lease("ann", 40, mine) == []
    file.write_text("{damaged\n[1, 2]\n" + file.read_text() + '[["cut off')
    assert (
        again.leases.count(time.now) == Desk(folder, Asking(lease=60), Leases(file), time).leases.count(time.now) == 40
    )
    file.write_text("{damaged")
    assert len(Desk(folder, Asking(), Leases(file), time).lease("cas", 40)) == 40


def test_a_lease_of_a_clock_that_was_ahead_ends_a_lease_later(folder, tmp_path) -> None:
    time, file = Time(), tmp_path / "leases.jsonl"
    time.now += 86_400
    assert len(Desk(folder, Asking(lease=600), Leases(file), time).lease("ann", 40)) == 40
    time.now -= 86_400
    assert Desk(folder, Asking(lease=600), Leases(file), time).lease("ben", 40) == [], "ann may look at them"
    time.now += 601
    assert len(Desk(folder, Asking(lease=600), Leases(file), time).lease("ben", 40)) == 40


def test_a_question_is_put_to_as_many_people_as_are_to_answer_it(folder) -> None:
    desk = Desk(folder, Asking(answers=2, repeats=0), Leases())
    both = [set(desk.lease(who, 40)) for who in ("ann", "ben")]
    assert both[0] == both[1] and len(both[0]) == 40 and desk.lease("cas", 40) == []
    one = desk.lease("ann", 1)[0]
    store(desk, one, "ann")
    assert one not in desk.lease("ann", 40) and desk.progress()["open"] == 40
    store(desk, one, "ben")
    assert desk.progress("ben") == {"answered": 1, "open": 39, "yours": 1, "people": 2, "held": 78}
    assert one not in desk.lease("cas", 40)


def test_pairs_are_asked_in_an_order_that_mixes_what_is_held_out(folder) -> None:
    desk = Desk(folder, Asking(), Leases())
    splits = [desk.pairs[question.item].split for question in desk.lease("ann", 40)]
    held_out = [place for place, split in enumerate(splits) if split == "held-out"]
    assert len(held_out) == 8 and max(held_out) > 20, "a few answers are some of both"


def test_a_share_is_asked_again_swapped_but_not_at_once(folder) -> None:
    desk = Desk(folder, Asking(repeats=0.3), Leases())
    asked = []
    while questions := desk.lease("ann", 1):
        asked.append(questions[0])
        store(desk, questions[0], "ann")
    repeats = [question for question in asked if question.repeat]
    assert 4 <= len(repeats) <= 22 and len(asked) == 40 + len(repeats) == len(set(asked))
    orders = {(label.pair_id, label.repeat): label.shown_order for label in folder.store.labels()}
    for question in repeats:
        assert orders[question.item, 0] != orders[question.item, 1]
        if asked.index(question) < 40:
            assert asked.index(question) - asked.index(question.first_time) > 10
    # Whoever always says that the first that is shown is better contradicts themselves on every repeat.
    values = {(label.pair_id, label.repeat): label.answer for label in folder.store.labels()}
    assert all(values[question.item, 0] != values[question.item, 1] for question in repeats)


def test_who_is_asked_again_keeps_no_question_from_others(folder) -> None:
    desk = Desk(folder, Asking(answers=2, repeats=1.0), Leases(), Time())
    for question in desk.lease("ann", 40):
        store(desk, question, "ann")
    repeats = desk.lease("ann", 40)
    assert len(repeats) == 40 and all(question.repeat for question in repeats)
    assert set(desk.lease("ben", 40)) == {question.first_time for question in repeats}, "ann looks at them meanwhile"
    assert desk.progress()["held"] == 80
    for question in repeats:
        store(desk, question, "ann")
    assert desk.progress()["held"] == 40, "those of ben"
    folder.store.add([desk.undo(repeats[0], "ann")])
    desk.refresh()
    desk.keep(repeats[0], "ann")
    store(desk, repeats[0].first_time, "ben")
    assert desk.progress()["held"] == 40 and desk.lease("ann", 40) == repeats[:1]


def test_what_was_skipped_is_not_asked_again_and_the_default_share_is_one_in_twenty(folder) -> None:
    assert Asking().repeats == 0.05
    desk = Desk(folder, Asking(repeats=1.0), Leases())
    for question in desk.lease("ann", 40):
        store(desk, question, "ann", "skip")
    assert desk.lease("ann", 40) == []


def test_sides_are_as_often_swapped_as_not(folder) -> None:
    desk = Desk(folder, Asking(), Leases())
    swapped = [desk.swapped(question, f"person {n}") for n in range(10) for question in desk.open]
    assert 0.42 < sum(swapped) / len(swapped) < 0.58


def test_ratings_and_credit_are_asked_of_each_segment_once_and_of_each_agent(folder) -> None:
    segments = {key.id for one in folder.store.pairs() for key in (one.pair.first, one.pair.second)}
    asking = Asking(("rating", "credit"), ("agent_0", "agent_1"), repeats=0)
    desk = Desk(folder, asking, Leases())
    asked = list(desk.open)
    assert len(asked) == 3 * len(segments) and {question.item for question in asked} == segments
    rating = next(question for question in asked if question.kind == "rating" and question.target == "agent_1")
    credit = next(question for question in asked if question.kind == "credit")
    with pytest.raises(RefusedAnswerError, match="1, 2, 3, 4, 5, skip"):
        desk.answer(rating, "ann", "first", None)
    with pytest.raises(RefusedAnswerError):
        desk.answer(credit, "ann", "agent_5", None)
    store(desk, rating, "ann", "4")
    store(desk, credit, "ann", "agent_1")
    one, two = folder.store.judgements()
    assert (one.kind, one.target, one.answer) == ("rating", "agent_1", "4") and one.segment.id == rating.item
    assert (two.kind, two.answer) == ("credit", "agent_1")
    with pytest.raises(AnsweredError):
        desk.answer(credit, "ann", "agent_0", None)
    folder.store.judge([desk.undo(credit, "ann")])
    desk.refresh()
    assert next(iter(desk.open)) == credit and desk.lease("ann", 1) == [credit]


def test_a_question_that_was_taken_back_is_kept_for_who_did_so(tmp_path, data) -> None:
    with ComparisonFolder(tmp_path / "pairs", make=True) as folder:
        ask(folder, open_task(data), Plan(budget=6, length=3))
    with serving(tmp_path / "pairs", Asking(repeats=0)) as port:
        ann, ben = Client(port, "ann"), Client(port, "ben")
        one = ann.lease()[0]["id"]
        ann.answer(one)
        ann.undo(one)
        others = [question["id"] for question in ben.lease(6)]
        assert len(others) == 5 and one not in others, "ann looks at it"
        assert [question["id"] for question in ann.lease()] == [one]


def test_new_rounds_are_asked_about_as_they_come(tmp_path, data) -> None:
    with ComparisonFolder(tmp_path / "pairs", make=True) as folder:
        plan = Plan(budget=20, length=3, rounds=2)
        ask(folder, open_task(data), plan)
        desk = Desk(folder, Asking(repeats=0), Leases())
        for question in desk.lease("ann", 10):
            store(desk, question, "ann")
        assert desk.lease("ann", 10) == []
        ask(folder, open_task(data), plan)
        desk.refresh()
        assert len(desk.lease("ann", 20)) == 10


@pytest.mark.parametrize(
    "text", ["", "pair", "pair.x.team.0", "pair." + "a" * 32 + ".team", "x." + "a" * 32 + ".team.0"]
)
def test_names_of_no_question_are_refused(text) -> None:
    with pytest.raises(UnknownQuestionError):
        Question.parse(text)
    question = Question("rating", "b" * 32, "agent_2", 3)
    assert Question.parse(question.id) == question and json.dumps(question.id)


def test_a_clock_that_is_set_back_a_little_writes_no_leases_anew(tmp_path, monkeypatch) -> None:
    held, written = Leases(tmp_path / "leases.jsonl"), []
    held.grant(["a question"], "ann", 1600.0)
    monkeypatch.setattr(held, "_rewrite", lambda: written.append(1))
    held.expire(999.9, 600.0)
    assert not written and held.count(1599.0) == 1
    held.expire(900.0, 600.0)
    assert written


def test_the_file_of_leases_stays_small_and_says_what_is_held(tmp_path, monkeypatch) -> None:
    from offline_marl.labelling import leases

    monkeypatch.setattr(leases, "MOST_LINES", 10)
    held = Leases(tmp_path / "leases.jsonl")
    for number in range(200):
        held.grant([f"question {number % 7}"], f"person {number % 3}", 100.0 + number)
        held.release(f"question {(number + 3) % 7}", f"person {number % 3}")
    assert len((tmp_path / "leases.jsonl").read_text().splitlines()) < 40
    again = Leases(tmp_path / "leases.jsonl")
    names = [f"question {number}" for number in range(7)]
    assert [sorted(again.others(name, "")) for name in names] == [sorted(held.others(name, "")) for name in names]


@pytest.mark.parametrize("target", ["agent_01", "agent_\u0661", "agent_00", "agent_1000"])
def test_an_agent_is_written_in_one_way(folder, target) -> None:
    name = f"pair.{'a' * 32}.{target}.0"
    with pytest.raises(UnknownQuestionError):
        Question.parse(name)
    assert clips.NAME.fullmatch(f"{'a' * 32}.{target}") is None
    pair = folder.store.pairs()[0].pair
    with pytest.raises(StoreError, match="is no target of an answer"):
        folder.store.add([Label(pair.id, "first", "ann", target=target)])
    with pytest.raises(StoreError, match="is no target of an answer"):
        folder.store.judge([Judgement("rating", pair.first, "3", "ann", target=target)])
    with pytest.raises(UnknownQuestionError, match="no such agent"):
        Desk(folder, Asking(), Leases()).answer(Question("pair", pair.id, target), "ann", "first", None)
