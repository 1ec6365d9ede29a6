"""A trainer on one machine, people and their server on another: two folders that are kept in step."""

from __future__ import annotations

from dataclasses import replace

import pytest
from labelled_page import TOKEN, Client, serving
from worlds import saved, world

from offline_marl.core.errors import BadInputError
from offline_marl.labelling.questions import Asking
from offline_marl.launch.cli import main
from offline_marl.preferences.answers import Post
from offline_marl.preferences.label_server import LabelServer, LabelServerError, LabelServerRefusal
from offline_marl.preferences.labels import Label
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.preferences.asking import Plan, ask
from offline_marl.training.preferences.elsewhere import Exchanged, Reached, exchange
from offline_marl.training.preferences.everything import export_everything, take_in_everything
from offline_marl.training.preferences.folders import ComparisonFolder


@pytest.fixture
def data(tmp_path) -> str:
    return saved(tmp_path, world("continuous", episodes=20))


@pytest.fixture
def here(tmp_path, data):
    with ComparisonFolder(tmp_path / "here", make=True) as opened:
        ask(opened, open_task(data), Plan(budget=20, length=3, rounds=2))
        yield opened


@pytest.fixture
def there(tmp_path):
    ComparisonFolder(tmp_path / "there", make=True).store.close()
    with serving(tmp_path / "there", Asking(("pair", "rating"), repeats=0)) as port:
        yield port


def test_pairs_go_there_once_and_answers_come_here_once(here, there, data) -> None:
    server, person = LabelServer(f"http://127.0.0.1:{there}/#token={TOKEN}"), Client(there)
    assert person.lease() == []
    first = exchange(here, server)
    assert (first.pairs, first.labels) == (10, 0) and exchange(here, server).pairs == 0
    questions = person.lease(10)
    assert len(questions) == 10
    for question in questions:
        person.answer(question["id"], "4" if question["kind"] == "rating" else "first")
    moved = exchange(here, server)
    assert moved.labels == 10 and exchange(here, server).labels == 0
    assert len(here.store.labels()) + len(here.store.judgements()) == 10
    person.undo(questions[0]["id"])
    ask(here, open_task(data), Plan(budget=20, length=3, rounds=2))
    assert exchange(here, server) == type(moved)(10, 1)
    assert sum(one.answer == "withdrawn" for one in [*here.store.labels(), *here.store.judgements()]) == 1
    with ComparisonFolder(here.path.parent / "there") as other:
        assert other.store.pairs()[0].pair == here.store.pairs()[0].pair
        assert (other.copies(other.store.pairs()).segments.obs == here.copies(here.store.pairs()).segments.obs).all()


def test_what_has_arrived_is_not_sent_or_fetched_again(here, there, monkeypatch) -> None:
    server, person = LabelServer(f"http://127.0.0.1:{there}/#token={TOKEN}"), Client(there)
    asked, ask_it, reached = [], server._ask, Reached()

    def asking(path, content=None):
        reply = ask_it(path, content)
        asked.append((path.partition("?")[0], len(reply.get("labels", [])) + len(reply.get("judgements", []))))
        return reply

    monkeypatch.setattr(server, "_ask", asking)
    assert exchange(here, server, reached).pairs == 10
    person.answer(person.lease()[0]["id"], "skip", reason="cannot tell")
    assert exchange(here, server, reached).labels == 1
    assert here.store.remarks()[0][1:] == ("ann", "cannot tell")
    assert exchange(here, server, reached) == Exchanged(0, 0)
    assert asked == [("/api/rounds", 0), ("/api/labels", 0), ("/api/labels", 1), ("/api/labels", 0)]
    exchange(here, server)
    assert len(here.store.remarks()) == 1, "each once"


def test_remarks_are_for_trainers_that_ask_for_them(here, there, monkeypatch) -> None:
    monkeypatch.setattr("offline_marl.labelling.rounds.ROWS", 1)
    server, person = LabelServer(f"http://127.0.0.1:{there}/#token={TOKEN}"), Client(there)
    exchange(here, server)
    for question in person.lease(3):
        person.answer(question["id"], "skip", reason=f"why {question['id']}")
    exchange(here, server)
    assert len(here.store.remarks()) == 3
    earlier = person.get("/api/labels?since=3&judged_since=3")
    assert earlier["remarks"] == [] and not earlier["more"], "one of an earlier version would ask for ever"


def test_an_answer_that_is_another_one_here_is_named(here, there) -> None:
    server, person = LabelServer(f"http://127.0.0.1:{there}/#token={TOKEN}"), Client(there)
    exchange(here, server)
    one, two = [question["id"] for question in person.lease(10) if question["kind"] == "pair"][:2]
    person.answer(one, "equal")
    person.answer(two, "equal")
    here.store.add([Label(one.split(".")[1], "skip", "ann")])
    reached = Reached()
    there_and_here = f"ann answered 'equal' about pair {one.split('.')[1]} .* and answered 'skip' here"
    with pytest.raises(BadInputError, match=there_and_here):
        exchange(here, server, reached)
    assert len(here.store.labels()) == 1 and reached.since == 0
    person.undo(one)
    person.answer(one, "equal")
    assert exchange(here, server, reached).labels == 3
    assert {label.answer for label in here.store.labels()} == {"equal"}


def test_accents_are_one_name_however_the_server_writes_them(here, there, tmp_path) -> None:
    server = LabelServer(f"http://127.0.0.1:{there}/#token={TOKEN}")
    exchange(here, server)
    with ComparisonFolder(tmp_path / "there") as other:  # a server of an earlier version took names as they came
        skipped = Label(here.store.pairs()[0].pair.id, "skip", "Rene\u0301")
        post = Post("a key", "d", (skipped,), remark=("q", "Rene\u0301", "why"))
        other.store.record([post])
    assert (exchange(here, server).labels, exchange(here, server).labels) == (1, 0)
    assert here.store.annotators() == {"Ren\u00e9"} and here.store.remarks() == [("q", "Ren\u00e9", "why")]


def test_what_was_taken_back_there_and_answered_otherwise_here_is_to_be_answered_again(here, there) -> None:
    server, person = LabelServer(f"http://127.0.0.1:{there}/#token={TOKEN}"), Client(there)
    exchange(here, server)
    question = next(one["id"] for one in person.lease(10) if one["kind"] == "pair")
    person.answer(question, "equal")
    person.undo(question)
    here.store.add([Label(question.split(".")[1], "skip", "ann", revision=1)])
    with pytest.raises(BadInputError, match="took back the answer .* and answered 'skip' here.*: answer it again"):
        exchange(here, server)
    person.answer(question, "equal")
    exchange(here, server)
    assert [label.answer for label in here.store.labels()] == ["equal"]


def test_a_correction_that_came_by_a_file_outlasts_the_exchange(here, there, tmp_path) -> None:
    server, person = LabelServer(f"http://127.0.0.1:{there}/#token={TOKEN}"), Client(there)
    exchange(here, server)
    kinds = {question["kind"]: question["id"] for question in person.lease(10)}
    for kind, question in kinds.items():
        person.answer(question, "3" if kind == "rating" else "first")
        person.undo(question)
        person.answer(question, "4" if kind == "rating" else "equal")
    with ComparisonFolder(tmp_path / "there") as other:
        export_everything(other, tmp_path / "all.json")
    assert take_in_everything(here, tmp_path / "all.json") == (2, 0)
    assert exchange(here, server).labels == 0, "what is older than it is passed over"
    assert here.store.standing() == 2 and [one.answer for one in here.store.judgements()] == ["4"]


def test_the_wait_is_for_answers_that_nobody_took_back(here, there, capsys, monkeypatch) -> None:
    from offline_marl.launch.cli import label
    from offline_marl.launch.cli.prefs import exchange as command

    person, url = Client(there), f"http://127.0.0.1:{there}/#token={TOKEN}"
    exchange(here, LabelServer(url))
    questions = [question["id"] for question in person.lease(3) if question["kind"] == "pair"]
    for question in questions:
        person.answer(question)
        person.undo(question)
    monkeypatch.setattr(command.time, "sleep", lambda seconds: person.answer(questions[0]))
    with pytest.raises(SystemExit) as end:
        main(["prefs", "exchange", str(here.path), "--label-server", url, "--wait", "1"])
    assert end.value.code == 0 and [line.split()[-3] for line in capsys.readouterr().out.splitlines()[1::2]] == [
        "0",
        "1",
    ]
    label._conclude(here.path, (0, 0), False)
    assert f"1 in {here.path}, 1 of them new" in capsys.readouterr().out


def test_pairs_of_other_data_and_damaged_copies_are_refused(here, there, tmp_path) -> None:
    server = LabelServer(f"http://127.0.0.1:{there}/#token={TOKEN}")
    exchange(here, server)
    other = saved(tmp_path, world("continuous", episodes=12), name="other.safetensors")
    with ComparisonFolder(tmp_path / "others", make=True) as opened:
        ask(opened, open_task(other), Plan(budget=10, length=3))
        with pytest.raises(LabelServerRefusal, match="other pairs|was begun with"):
            exchange(opened, server)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"no tensors")
    pairs = here.store.pairs()
    with pytest.raises(LabelServerRefusal, match="cannot be read"):
        server.enter(7, pairs[:2], damaged, {})
    facts = dict(here.store.facts())
    with pytest.raises(LabelServerRefusal, match="lack the segment"):
        server.enter(7, [type(pairs[0])(_strange(pairs[0].pair), 7, "train", "uniform")], here.file_of(1), {})
    assert facts == here.store.facts()
    assert len(Client(there).get("/api/labels")["labels"]) == 0


def test_other_play_under_the_names_of_a_round_that_is_there_is_refused(here, there, tmp_path) -> None:
    server = LabelServer(f"http://127.0.0.1:{there}/#token={TOKEN}")
    exchange(here, server)
    pairs, facts = here.store.pairs(), here.store.facts()
    told = {name: facts[name] for name in ("data", "task", "scene", "scale")}
    assert server.enter(1, pairs, here.file_of(1), told) == 0
    copies = here.copies(pairs)
    played = replace(copies, segments=replace(copies.segments, obs=copies.segments.obs + 1))
    played.save(tmp_path / "played.safetensors")
    with pytest.raises(LabelServerRefusal, match="other play under the same names: it is of another run"):
        server.enter(1, pairs, tmp_path / "played.safetensors", told)
    with pytest.raises(LabelServerRefusal, match="was begun with data"):
        server.enter(1, pairs, here.file_of(1), told | {"data": {"key": "run:another", "spec": {}}})


def _strange(pair):
    return replace(pair, first=replace(pair.first, episode=999))


def test_a_server_that_is_not_there_and_a_wrong_token_are_told_in_a_sentence(here, there) -> None:
    with pytest.raises(LabelServerRefusal, match="token is wrong"):
        exchange(here, LabelServer(f"http://127.0.0.1:{there}/#token=nonsense"))
    with pytest.raises(LabelServerError, match="does not answer"):
        exchange(here, LabelServer("http://127.0.0.1:1/#token=x"))
    with pytest.raises(LabelServerRefusal, match="should be the address"):
        LabelServer("ftp://somewhere")


def test_the_command_keeps_a_folder_in_step(here, there, capsys, monkeypatch) -> None:
    monkeypatch.setenv("OFFLINE_MARL_LABEL_TOKEN", TOKEN)
    words = ["prefs", "exchange", str(here.path), "--label-server", f"http://127.0.0.1:{there}"]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0 and "10 pairs" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main([*words[:-1], "http://127.0.0.1:1"])
    assert end.value.code == 1 and "does not answer" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(words[:3])
    assert end.value.code == 2 and "needs --label-server" in capsys.readouterr().err
