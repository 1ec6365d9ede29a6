from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import threading
import time

import pytest
from labelled_page import TOKEN, Client, serving
from worlds import saved, world

from offline_marl.labelling import clerk
from offline_marl.labelling.makeshift import clips_of
from offline_marl.labelling.questions import Asking
from offline_marl.labelling.serve import BusyStoreFolderError, alone, token_of
from offline_marl.preferences.answers import AnswerStore
from offline_marl.preferences.label_store import NAME
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.preferences.asking import Plan, ask
from offline_marl.training.preferences.folders import ComparisonFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("label")
    data = saved(place, world("continuous", episodes=20))
    with ComparisonFolder(place / "pairs", make=True) as opened:
        ask(opened, open_task(data), Plan(budget=120, length=3))
    return place / "pairs"


@pytest.fixture(scope="module")
def port(folder):
    with serving(folder, Asking(repeats=0.0)) as port:
        yield port


@pytest.fixture
def client(port, request):
    return Client(port, request.node.name[:50].replace("[", " ").replace("]", " ").strip())


def labels(folder, annotator):
    with AnswerStore(folder / NAME) as store:
        return [label for label in store.labels() if label.annotator == annotator]


def test_an_answer_is_on_the_disk_when_it_is_acknowledged(client, folder) -> None:
    question = client.lease()[0]
    made = client.answer(question["id"], "first", response_ms=850)
    assert made["stored"] is True and made["progress"]["yours"] == 1
    (label,) = labels(folder, client.annotator)
    assert label.pair_id == question["id"].split(".")[1] and label.response_ms == 850 and label.source == "human"
    with ComparisonFolder(folder) as opened:
        pair = next(one.pair for one in opened.store.pairs() if one.pair.id == label.pair_id)
    left = question["segments"][0].split(".")[0]
    first_shown = {"as stored": pair.first, "swapped": pair.second}[label.shown_order]
    assert left == first_shown.id, "what the page showed first is what the label says was shown first"
    assert label.answer == ("first" if label.shown_order == "as stored" else "second")


def test_sides_are_random_and_stay_for_who_asks_again(client, folder) -> None:
    questions = client.lease(10)
    again = client.lease(10, [one["id"] for one in questions])
    assert [one["id"] for one in again] == [one["id"] for one in questions] and again == questions
    for one in questions:
        client.answer(one["id"], "first")
    orders = {label.shown_order for label in labels(folder, client.annotator)}
    assert orders == {"as stored", "swapped"}


def test_two_people_never_get_one_pair(port) -> None:
    people = [Client(port, f"two people {number}") for number in range(3)]
    given = [{one["id"] for one in person.lease(5)} for person in people]
    assert all(len(ids) == 5 for ids in given) and len(set.union(*given)) == 15
    people[0].post("/api/release", {"annotator": people[0].annotator, "held": sorted(given[0])})
    assert given[0] & {one["id"] for one in people[1].lease(10, sorted(given[1]))}
    for person in people:
        person.post("/api/release", {"annotator": person.annotator, "held": [one["id"] for one in person.lease(10)]})


@pytest.mark.parametrize("answer", ["first", "second", "equal", "skip"])
def test_every_answer_is_stored_and_taken_back(client, folder, answer) -> None:
    question = client.lease()[0]["id"]
    client.answer(question, answer, **({"reason": "I cannot tell"} if answer == "skip" else {}))
    assert client.answer(question, answer)["stored"] is False, "the same again, under another key"
    client.answer(question, "equal" if answer != "equal" else "first", 409)
    assert client.undo(question)["stored"] is True
    client.undo(question, 409)
    assert client.lease()[0]["id"] == question, "what was taken back is asked first"
    client.answer(question, "second")
    (label,) = labels(folder, client.annotator)
    assert label.revision == 2 and label.answer in {"first", "second"}
    with AnswerStore(folder / NAME) as store:
        noted = [text for asked, who, text in store.remarks() if who == client.annotator]
    assert noted == (["I cannot tell"] if answer == "skip" else [])


def test_a_post_that_is_replayed_is_acknowledged_and_stored_once(client, folder) -> None:
    question = client.lease()[0]["id"]
    body = {"key": client.key(), "annotator": client.annotator, "question": question, "answer": "first"}
    assert [client.post("/api/answers", body)["stored"] for _ in range(3)] == [True, False, False]
    client.undo(question)
    assert client.post("/api/answers", body)["stored"] is False, "what was taken back does not come again"
    assert [label.answer for label in labels(folder, client.annotator)] == ["withdrawn"]
    client.post("/api/answers", {**body, "answer": "second"}, 409)


def test_posts_that_arrive_at_one_time_are_stored_once_each(client, folder) -> None:
    question = client.lease()[0]["id"]
    said = []

    def send(number: int) -> None:
        body = {"key": f"at-one-time-{number % 3}", "annotator": client.annotator, "question": question}
        said.append(client.ask("POST", "/api/answers", json.dumps({**body, "answer": "equal"}).encode())[1])

    threads = [threading.Thread(target=send, args=(number,)) for number in range(12)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert [one["stored"] for one in said].count(True) == 1
    assert len(labels(folder, client.annotator)) == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"answer": "banana"}, 422),
        ({"answer": 1}, 422),
        ({"more": 1}, 422),
        ({"key": "x"}, 422),
        ({"key": "../../../etc"}, 422),
        ({"annotator": ""}, 422),
        ({"annotator": "<script>"}, 422),
        ({"annotator": "a\nb"}, 422),
        ({"response_ms": -1}, 422),
        ({"response_ms": 2.5}, 422),
        ({"response_ms": True}, 422),
        ({"reason": "x" * 300}, 422),
        ({"reason": "\x1b[2J"}, 422),
        ({"reason": "\u202eright to left"}, 422),
        ({"question": "pair." + "0" * 32 + ".team.0"}, 404),
        ({"question": "pair.../../x.team.0"}, 404),
        ({"question": "QUESTION".replace("Q", "pair.")}, 404),
    ],
)
def test_what_is_no_answer_is_refused_and_leaves_nothing(client, folder, change, status) -> None:
    question = client.lease()[0]["id"]
    body = {"key": client.key(), "annotator": client.annotator, "question": question, "answer": "first", **change}
    said = client.post("/api/answers", body, status)
    assert said["error"] and "Traceback" not in said["error"]
    assert labels(folder, client.annotator) == []


def test_answers_about_agents_that_are_not_there_and_repeats_that_were_not_asked_are_refused(client) -> None:
    kind, item, _, _ = client.lease()[0]["id"].split(".")
    client.answer(f"{kind}.{item}.agent_7.0", "first", 404)
    client.answer(f"{kind}.{item}.team.1", "first", 404)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"key": NaN}', b"[" * 9000])
def test_bodies_that_are_no_posts_are_refused(client, body) -> None:
    status, said, _ = client.ask("POST", "/api/answers", body)
    assert status == 422 and said["error"]


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"bearer {TOKEN}x"])
def test_nothing_is_told_or_taken_without_the_token(port, given) -> None:
    client = Client(port)
    for method, path in [
        ("GET", "/api/progress"),
        ("GET", "/api/labels"),
        ("GET", f"/api/clips/{'0' * 32}.team"),
        ("POST", "/api/answers"),
        ("POST", "/api/lease"),
        ("POST", "/api/rounds"),
        ("GET", "/api/nothing"),
    ]:
        body = b"{}" if method == "POST" else None
        status, said, headers = client.ask(method, path, body, {"Authorization": given or ""})
        assert status == 401 and set(said) == {"error"} and "access-control-allow-origin" not in headers


def test_the_page_itself_and_its_parts_are_served_and_forbid_everything_else(port) -> None:
    client = Client(port)
    for path in ("/", "/label.css", "/label.js", "/players.js", "/queue.js"):
        status, content, headers = client.ask("GET", path, None, {"Authorization": ""})
        assert status == 200 and len(content) > 500 and "http://" not in content.decode().replace("http://www.w3", "")
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and "server" not in {name.lower() for name in headers}
    assert client.ask("GET", "/healthz", None, {"Authorization": ""})[1] == {"ok": True}
    assert client.ask("GET", "/label.html")[0] == 404 and client.ask("GET", "/docs")[0] == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1.evil.example"},
        {"Host": "evil.example"},
        {"Host": "evil.example:80", "Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_origins_are_refused_though_they_have_the_token(port, headers) -> None:
    client = Client(port)
    for method, path, body in [("POST", "/api/lease", b'{"annotator": "x"}'), ("GET", "/api/progress", None)]:
        status, said, back = client.ask(method, path, body, headers)
        assert status in {403, 421} and not any(name.lower().startswith("access-control") for name in back)
    own = {"Origin": f"http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}
    assert client.ask("POST", "/api/lease", b'{"annotator": "own"}', own)[0] == 200


def test_a_preflight_is_answered_with_no_permission(port) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    status, _, headers = Client(port).ask("OPTIONS", "/api/answers", None, asked)
    assert status >= 400 and not any(name.lower().startswith("access-control") for name in headers)


def test_forms_and_plain_text_are_no_posts(port) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert Client(port).ask("POST", "/api/lease", b"{}", {"Content-Type": kind})[0] == 415


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2flabels.sqlite",
        "..%2Flabel_token",
        "%2e%2e/labels.sqlite",
        "....//label_token",
        "0" * 32,
        "0" * 32 + ".team",
        "0" * 32 + ".team/../../label_token",
        "0" * 32 + ".team%00",
        "0" * 32 + ".agent_9999",
        "Ａ" * 32 + ".team",
    ],
)
def test_no_name_of_a_clip_leads_to_a_file(port, name) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        head = f"GET /api/clips/{name} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        raw.sendall(f"{head}Connection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert b" 404 " in answer[:20] or b" 400 " in answer[:20]
    assert b"SQLite" not in answer and TOKEN.encode() not in answer


def test_a_body_of_100_mb_is_refused_before_it_is_read(port) -> None:
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        head = f"POST /api/answers HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {100_000_000}\r\n\r\n"
        raw.sendall(head.encode() + b" " * 1000)
        assert raw.recv(200).split()[1] == b"413"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        head = f"POST /api/answers HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        raw.sendall(f"{head}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        said = b""
        with contextlib.suppress(OSError):
            for _ in range(6_000):  # without a stated length
                raw.sendall(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
        raw.settimeout(5)
        with contextlib.suppress(OSError):
            said = raw.recv(200)
    assert not said or said.split()[1] == b"413"
    assert time.monotonic() - begun < 10 and Client(port).get("/healthz") == {"ok": True}


def test_heads_without_end_are_refused(port) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        try:
            raw.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X-Long: " + b"a" * 200_000)
            said = raw.recv(100)
        except OSError:
            said = b""
    assert not said or said.split()[1] in {b"400", b"431"}
    assert Client(port).get("/healthz") == {"ok": True}


def test_a_full_disk_refuses_the_answer_aloud_and_stores_none_of_it(client, folder, monkeypatch) -> None:
    question = client.lease()[0]["id"]

    record = AnswerStore._record

    def full(self, post):
        record(self, post)
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(AnswerStore, "_record", full)
        body = {"key": client.key(), "annotator": client.annotator, "question": question, "answer": "first"}
        assert "disk is full" in client.post("/api/answers", body, 507)["error"]
    assert labels(folder, client.annotator) == []
    assert client.post("/api/answers", body)["stored"] is True, "sent again by the page, when there is room"


def test_more_answers_than_can_wait_are_refused_for_now(client, monkeypatch) -> None:
    async def busy(self, request):
        raise clerk.BusyStoreError("Too many answers wait.")

    question = client.lease()[0]["id"]
    with monkeypatch.context() as patch:
        patch.setattr(clerk.Clerk, "post", busy)
        client.answer(question, "first", 503)
    assert client.answer(question, "first")["stored"] is True


def test_a_second_server_on_one_store_is_refused(port, folder) -> None:
    with pytest.raises(BusyStoreFolderError, match="Another server"), alone(folder):
        pass


def test_answers_of_others_and_new_pairs_are_seen_without_a_restart(client, folder, port) -> None:
    question = client.lease()[0]
    other = Client(port, f"{client.annotator} 2")
    with AnswerStore(folder / NAME) as store:  # by another process, such as an import
        from offline_marl.preferences.labels import Label

        store.add([Label(question["id"].split(".")[1], "first", "importer", source="imported")])
    assert question["id"] not in {one["id"] for one in client.lease(10, [question["id"]])}
    assert question["id"] not in {one["id"] for one in other.lease(10)}
    for one in (client, other):
        one.post("/api/release", {"annotator": one.annotator, "held": [each["id"] for each in one.lease(10)]})


def test_progress_counts_answers_and_trainers_read_rows_by_number(client, folder) -> None:
    question = client.lease()[0]["id"]
    before = client.get("/api/labels?since=0")
    client.answer(question, "skip")
    after = client.get(f"/api/labels?since={before['since']}")
    assert [one["annotator"] for one in after["labels"]] == [client.annotator] and after["more"] is False
    assert client.get(f"/api/labels?since={after['since']}")["labels"] == []
    told = client.get("/api/progress")
    assert told["answered"] + told["open"] == 120 and set(told["answers"]) == {"first", "second", "equal", "skip"}
    assert client.ask("GET", "/api/labels?since=x")[0] == 422


def test_the_token_stays_over_restarts_and_only_its_owner_reads_it(folder) -> None:
    token = token_of(folder)
    assert len(token) > 40 and token_of(folder) == token
    assert (folder / "label_token").stat().st_mode & 0o077 == 0
    assert token_of(folder, new=True) != token


def test_a_browser_asks_every_time_whether_its_clip_is_still_the_one_that_is_served(client, folder) -> None:
    with ComparisonFolder(folder) as opened:
        name = f"{opened.store.pairs()[0].pair.first.id}.team"
    file = clips_of(folder) / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"of": "one folder"}')
    _, content, headers = client.ask("GET", f"/api/clips/{name}")
    held = {"If-None-Match": headers["etag"]}
    assert content == {"of": "one folder"} and headers["cache-control"] == "private, no-cache"
    assert client.ask("GET", f"/api/clips/{name}", headers=held)[:2] == (304, b"")
    file.write_text('{"of": "another folder"}')
    assert client.ask("GET", f"/api/clips/{name}", headers=held)[:2] == (200, {"of": "another folder"})
