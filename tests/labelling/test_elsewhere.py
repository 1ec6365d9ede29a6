"""A trainer on one machine, people and their server on another: two folders that are kept in step."""

from __future__ import annotations

import pytest
from labelled_page import TOKEN, Client, serving
from worlds import saved, world

from offline_marl.labelling.questions import Asking
from offline_marl.launch.cli import main
from offline_marl.preferences.label_server import LabelServer, LabelServerError, LabelServerRefusal
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.preferences.asking import Plan, ask
from offline_marl.training.preferences.elsewhere import exchange
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


def _strange(pair):
    from dataclasses import replace

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
