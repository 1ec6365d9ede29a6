"""The labelling page in a real Chromium: people who click, type, lose the network, use a screen reader or a phone."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser.chromium import DESKTOP, PHONE, Chromium, MissingBrowserError, chromium
from PIL import Image
from worlds import saved, world

from offline_marl.labelling.makeshift import clips_of
from offline_marl.preferences.answers import AnswerStore
from offline_marl.preferences.label_store import NAME

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
PICTURES = "return [...document.querySelectorAll('canvas')].map((each) => each.toDataURL('image/png').split(',')[1])"
ANSWERED = "return document.getElementById('bar').value"
WIDER = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def window() -> Iterator[Chromium]:
    try:
        with chromium() as found:
            found.cdp("Network.enable")
            yield found
    except MissingBrowserError as error:
        pytest.skip(str(error))


class Served:
    """`offline-marl label` as a process that can be killed and begun again at the same port."""

    def __init__(self, *words: str, port: str = "0") -> None:
        self.words, self.port, self.process = words, port, None
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "offline_marl", "label", *self.words, "--port", self.port, "--ahead", "6"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if line.startswith("page"):
                self.url = line.split()[1]
                self.port = re.search(r":(\d+)/", self.url)[1]
            if line.startswith("answers"):
                return self.wait()
        raise AssertionError("it did not begin")

    def wait(self) -> None:
        """Until it listens: the address is printed a moment before."""
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", int(self.port)), 1).close()
                return
            except OSError:
                assert time.monotonic() < until and self.process.poll() is None, "it does not listen"
                time.sleep(0.02)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(30)


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten episodes of chance in MPE's simple-spread."""
    place = tmp_path_factory.mktemp("spread")
    words = [
        "collect",
        "simple-spread",
        "--out",
        str(place / "spread.safetensors"),
        "--who",
        "random",
        "--episodes",
        "40",
    ]
    subprocess.run([sys.executable, "-m", "offline_marl", *words], check=True, capture_output=True)
    return place / "spread.safetensors"


@pytest.fixture(params=["click on a desk", "type on a desk", "tap on a phone"])
def way(request) -> str:
    return request.param


def wait(window: Chromium, script: str, what: str, seconds: float = 30.0) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = window.run(script)
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: {window.run('return document.body.innerText')[:600]} {window.said()}")


def enter(window: Chromium, url: str, name: str = "ann") -> None:
    window.driver.get("about:blank")
    window.said()
    window.driver.get(url.partition("#")[0])
    window.run("localStorage.clear()")
    window.driver.get("about:blank")
    window.driver.get(url)
    wait(window, "return !document.getElementById('who').hidden", "the page asks for a name")
    window.driver.find_element("id", "name").send_keys(name)
    window.driver.find_element("css selector", "#who button").click()
    ready(window)


def ready(window: Chromium, before: str = "") -> str:
    script = f"const shown = document.body.dataset.shown || ''; return shown !== '{before}' && shown"
    return str(wait(window, script, "a question is shown"))


def network(window: Chromium, offline: bool) -> None:
    window.cdp(
        "Network.emulateNetworkConditions", offline=offline, latency=0, downloadThroughput=-1, uploadThroughput=-1
    )


def give(window: Chromium, way: str, answer: str) -> None:
    """Answer as people do."""
    from selenium.webdriver.common.by import By

    if way.startswith("type"):
        body = window.driver.find_element(By.TAG_NAME, "body")
        body.send_keys({"first": "1", "second": "\ue014", "equal": "0", "skip": "s"}[answer])
        if answer == "skip":
            window.driver.switch_to.active_element.send_keys("2")
    elif answer == "skip":
        window.driver.find_element("id", "skip").click()
        window.driver.find_elements("css selector", "#reasons button")[1].click()
    else:
        window.driver.find_element("css selector", f"#choices [data-answer={answer}]").click()


def pictures(window: Chromium) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB")) for one in window.run(PICTURES)]


def refuse_blank(frames: list[np.ndarray]) -> None:
    """Neither black nor one colour, and no two alike."""
    for one in frames:
        assert one.mean() > 20 and one.std() > 4, "a film is black or empty"
    for one, other in itertools.combinations(frames, 2):
        assert np.abs(one.astype(int) - other.astype(int)).mean() > 0.2, "two films are alike"


def test_thirty_pairs_with_the_network_gone_in_between_and_the_server_lost_in_the_middle(
    window: Chromium, spread: Path, tmp_path: Path, way: str
) -> None:
    folder = tmp_path / "pairs"
    served = Served(str(spread), "--out", str(folder), "--budget", "30", "--repeats", "0")
    try:
        window.look(PHONE if "phone" in way else DESKTOP)
        enter(window, served.url)
        assert window.violations() == [] and window.run(WIDER) <= 0
        shown, answers = "", itertools.cycle(["first", "second", "equal", "first", "skip", "second"])
        seen = []
        for number in range(30):
            if number == 8:
                network(window, offline=True)
            if number == 12:
                assert "waiting to be sent" in window.driver.find_element("id", "progress").text
                network(window, offline=False)
                wait(window, f"return {ANSWERED[7:]} >= 12", "what was answered without a network arrives")
            if number == 18:
                served.kill()
            if number == 21:
                assert "no connection" in window.driver.find_element("id", "progress").text
                served.start()
                wait(window, f"return {ANSWERED[7:]} >= 21", "what was answered without a server arrives")
            shown = ready(window, shown)
            if number in {0, 13}:
                seen += pictures(window)
                if os.environ.get("LABEL_PICTURES"):
                    Path(os.environ["LABEL_PICTURES"], f"{way} {number}.png").write_bytes(window.png())
            give(window, way, next(answers))
        wait(window, "return !document.getElementById('idle').hidden", "all is answered")
        wait(window, f"return {ANSWERED[7:]} >= 30", "all has arrived")
        assert window.violations() == []
        refuse_blank(seen)
    finally:
        network(window, offline=False)
        served.kill(signal.SIGINT)
    with AnswerStore(folder / NAME) as store:
        labels = store.labels()
        assert len(labels) == len({label.pair_id for label in labels}) == 30 and len(store.history()) == 30
        counts = {answer: sum(label.answer == answer for label in labels) for answer in ("equal", "skip")}
        assert counts == {"equal": 5, "skip": 5} and len(store.remarks()) == 5
        assert {label.shown_order for label in labels} == {"as stored", "swapped"}
        assert all(label.response_ms is not None for label in labels)
    complaints = [line for line in window.said() if "net::ERR" not in line and "Failed to load resource" not in line]
    assert complaints == []


def test_answers_that_wait_reach_their_own_folder_only_and_tabs_lose_nothing_to_each_other(
    window: Chromium, spread: Path, tmp_path: Path
) -> None:
    words = [str(spread), "--budget", "6", "--repeats", "0"]
    one = Served(*words, "--seed", "1", "--out", str(tmp_path / "one"))
    window.look()
    first = window.driver.current_window_handle
    enter(window, one.url)
    window.driver.switch_to.new_window("tab")
    second = window.driver.current_window_handle
    window.cdp("Network.enable")
    window.driver.get(one.url)
    ready(window)
    one.kill()
    for tab in (first, second):  # both answer while nobody listens
        window.driver.switch_to.window(tab)
        give(window, "click", "first")
        wait(window, "return document.getElementById('progress').textContent.includes('1 waiting')", "it is kept")
    window.driver.close()
    window.driver.switch_to.window(first)
    window.driver.get("about:blank")
    other = Served(*words, "--seed", "2", "--out", str(tmp_path / "other"), port=one.port)
    try:
        window.driver.get(other.url)
        wait(window, "return document.getElementById('progress').textContent.includes('2 about another')", "they wait")
        with AnswerStore(tmp_path / "other" / NAME) as store:
            assert store.labels() == []
    finally:
        other.kill(signal.SIGINT)
    one.start()
    try:
        window.driver.get("about:blank")
        window.driver.get(one.url)
        wait(window, f"return {ANSWERED[7:]} >= 1", "they arrive")
        wait(window, "return !Object.keys(localStorage).some((name) => name.startsWith('answer.'))", "none is left")
    finally:
        one.kill(signal.SIGINT)
    with AnswerStore(tmp_path / "one" / NAME) as store:
        assert 1 <= len(store.labels()) <= 2 and len(store.history()) == len(store.labels())


def test_a_page_that_was_left_open_loses_nothing_when_another_folder_is_served_at_its_address(
    window: Chromium, spread: Path, tmp_path: Path
) -> None:
    words = [str(spread), "--budget", "6", "--repeats", "0", "--no-token"]
    one = Served(*words, "--seed", "1", "--out", str(tmp_path / "one"))
    other = None
    try:
        window.look()
        enter(window, one.url)
        shown = ready(window)
        one.kill()
        other = Served(*words, "--seed", "2", "--out", str(tmp_path / "other"), port=one.port)
        give(window, "click", "first")  # the page knows of no other folder yet
        said = "return document.getElementById('progress').textContent.includes('1 about another folder')"
        wait(window, said, "it waits for its own folder")
        assert window.run("return document.getElementById('alert').hidden"), "nothing was refused"
        assert window.run("return document.getElementById('undo').disabled"), "what the other folder does not hold"
        with AnswerStore(tmp_path / "other" / NAME) as store:
            pairs = [asked.pair.id for asked in store.pairs()]
            assert store.labels() == [] and shown.split(".")[1] not in pairs
        wait(window, f"return {pairs}.includes(document.body.dataset.shown.split('.')[1])", "its own are asked")
        other.kill()
        one.start()
        window.run("dispatchEvent(new Event('online'))")
        wait(window, "return !Object.keys(localStorage).some((name) => name.startsWith('answer.'))", "it arrives")
        wait(window, f"return {ANSWERED[7:]} == 1", "it is counted")
    finally:
        for each in filter(None, (one, other)):
            each.kill(signal.SIGINT)
    with AnswerStore(tmp_path / "one" / NAME) as store:
        assert [label.pair_id for _, label in store.history()] == [shown.split(".")[1]]


def test_films_of_another_folder_are_not_shown_where_both_name_a_segment_alike(
    window: Chromium, spread: Path, tmp_path: Path
) -> None:
    words = [str(spread), "--budget", "6", "--repeats", "0", "--no-token", "--seed", "1"]
    other = Served(*words, "--out", str(tmp_path / "other"))
    other.kill()
    agents = [{"name": f"agent_{agent}", "color": "rgb(0, 0, 0)"} for agent in range(3)]
    clip = {"kind": "series", "frames": 2, "fps": 1, "every": 1, "rows": [], "steps": 2, "agents": agents}
    with AnswerStore(tmp_path / "other" / NAME) as store:
        for key in {key for one in store.pairs() for key in (one.pair.first, one.pair.second)}:
            file = clips_of(tmp_path / "other") / f"{key.id}.team.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(clip | {"note": "of the other folder"}))
    one = Served(*words, "--out", str(tmp_path / "one"))
    again = None
    noted = "return document.querySelector('#players .note').textContent === 'of the other folder'"
    try:
        enter(window, one.url)
        ready(window)
        assert not window.run(noted)
        one.kill()
        again = Served(*words, "--out", str(tmp_path / "other"), port=one.port)
        window.run("dispatchEvent(new Event('online'))")
        wait(window, noted, "the film of the folder that is served now")
    finally:
        for each in filter(None, (one, again)):
            each.kill(signal.SIGINT)


@pytest.fixture(scope="module")
def page(spread: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    folder = tmp_path_factory.mktemp("page") / "pairs"
    served = Served(str(spread), "--out", str(folder), "--budget", "60", "--repeats", "0", "--target", "agent_1")
    yield served, folder
    served.kill(signal.SIGINT)


@pytest.mark.parametrize(("size", "scheme"), list(itertools.product((DESKTOP, PHONE), ("light", "dark"))))
def test_axe_finds_nothing_while_asking_for_a_name_a_pair_or_a_reason(
    window: Chromium, page: tuple[Served, Path], size: tuple[int, int], scheme: str
) -> None:
    window.look(size, scheme)
    window.driver.get(page[0].url.partition("#")[0])
    window.run("localStorage.clear()")
    window.driver.get("about:blank")
    window.driver.get(page[0].url)
    wait(window, "return !document.getElementById('who').hidden", "the name")
    assert window.violations() == []
    enter(window, page[0].url, "axe")
    window.driver.find_element("id", "skip").click()
    assert window.violations() == [] and window.run(WIDER) <= 0
    assert "agent 1" in window.driver.find_element("id", "asked").text
    assert window.driver.find_element("css selector", ".agents .asked").text == "agent 1"


def test_a_key_that_is_held_down_counts_once(window: Chromium, page: tuple[Served, Path]) -> None:
    window.look()
    enter(window, page[0].url, "held")
    before = window.run(ANSWERED)
    for repeated in (False, *[True] * 20):
        window.run(
            "const held = {key: '1', bubbles: true, repeat: arguments[0]};"
            "document.body.dispatchEvent(new KeyboardEvent('keydown', held))",
            repeated,
        )
    wait(window, f"return {ANSWERED[7:]} > {before}", "it is stored")
    time.sleep(0.3)
    assert window.run(ANSWERED) == before + 1


def test_players_run_on_one_clock_and_can_be_scrubbed_stepped_and_slowed(
    window: Chromium, page: tuple[Served, Path]
) -> None:
    window.look()
    enter(window, page[0].url, "player")
    frames = "return [...document.querySelectorAll('canvas')].map((each) => Number(each.dataset.frame))"
    body = window.driver.find_element("tag name", "body")
    body.send_keys(" ")
    one = window.run(frames)
    time.sleep(0.5)
    assert window.run(frames) == one and one[0] == one[1], "paused, both at one picture"
    body.send_keys(".")
    assert window.run(frames) == [one[0] + 1] * 2 or one[0] == 24
    window.run("const bar = document.getElementById('time'); bar.value = 500; bar.dispatchEvent(new Event('input'))")
    assert window.run(frames) == [12, 12]
    first = pictures(window)
    window.run("const bar = document.getElementById('time'); bar.value = 1000; bar.dispatchEvent(new Event('input'))")
    assert np.abs(first[0].astype(int) - pictures(window)[0].astype(int)).mean() > 0.05, "time changes the picture"

    def pace(speed: str) -> float:
        window.run(
            "const pick = document.getElementById('speed'); pick.value = arguments[0];"
            "pick.dispatchEvent(new Event('change'));"
            "const bar = document.getElementById('time'); bar.value = 0; bar.dispatchEvent(new Event('input'));"
            "document.getElementById('play').click()",
            speed,
        )
        begun = time.monotonic()
        wait(window, "return Number(document.getElementById('time').value) > 400", "it plays")
        took = time.monotonic() - begun
        window.run("document.getElementById('play').click()")
        return took

    body.send_keys("l")
    window.run("document.getElementById('play').click()")
    wait(window, "return document.getElementById('play').textContent === 'Play'", "what does not loop ends")
    assert window.run("return document.getElementById('time').value") == "1000"
    body.send_keys("l")

    speed = "return document.getElementById('speed').value"
    assert window.run(speed) == "1" and pace("0.5") > 2.0 * pace("2")
    window.driver.get("about:blank")
    window.driver.get(page[0].url)
    ready(window)
    assert window.run(speed) == "2", "as it was chosen"


FRAMES = "return [...document.querySelectorAll('canvas')].map((each) => Number(each.dataset.frame))"
SEEK = "const bar = document.getElementById('time'); bar.value = arguments[0]; bar.dispatchEvent(new Event('input'))"


def test_an_episode_that_ended_sooner_is_seen_and_said_to_end_sooner(window: Chromium, tmp_path: Path) -> None:
    data = saved(tmp_path, world("continuous", episodes=20))
    served = Served(data, "--out", str(tmp_path / "pairs"), "--budget", "12", "--length", "0", "--repeats", "0")
    try:
        window.look(PHONE)
        enter(window, served.url)
        shown, lasts = ready(window), [0, 0]
        for _ in range(11):
            window.run(SEEK, 1000)
            lasts = window.run(FRAMES)
            if lasts[0] != lasts[1]:
                break
            give(window, "click", "equal")
            shown = ready(window, shown)
        short, long = sorted(range(2), key=lambda side: lasts[side])
        assert lasts[short] < lasts[long], "no two episodes of different lengths were asked about"
        over = "return [...document.querySelectorAll('.over')].map((each) => each.innerText)"
        said = window.run(over)
        assert said[short] == f"Ended after {lasts[short] + 1} steps" and said[long] == ""
        assert window.violations() == [] and window.run(WIDER) <= 0
        names = window.run("return [...document.querySelectorAll('canvas')].map((each) => each.ariaLabel)")
        assert ["ended before the other" in name for name in names] == [side == short for side in range(2)]
        window.run(SEEK, round(1000 * lasts[short] / lasts[long]))
        assert window.run(FRAMES) == [lasts[short]] * 2 and window.run(over) == ["", ""], "the same step of both"
        body = window.driver.find_element("tag name", "body")
        body.send_keys(".")
        assert window.run(FRAMES)[long] == lasts[short] + 1 and window.run(over) == said
    finally:
        served.kill(signal.SIGINT)


def test_nothing_is_answered_before_its_films_are_seen_though_it_can_be_skipped(
    window: Chromium, spread: Path, tmp_path: Path
) -> None:
    served = Served(str(spread), "--out", str(tmp_path / "pairs"), "--budget", "6", "--repeats", "0")
    try:
        window.look()
        enter(window, served.url)
        shown = ready(window)
        give(window, "click", "skip")
        ready(window, shown)
        script = window.cdp(
            "Page.addScriptToEvaluateOnNewDocument",
            source="const fetched = window.fetch; window.fetch = (path, ...more) => String(path).includes('/clips/')"
            " && !window.come ? Promise.resolve(new Response('{}', {status: 202})) : fetched(path, ...more);",
        )
        window.driver.get("about:blank")
        window.driver.get(served.url)
        wait(window, "return !document.getElementById('question').hidden", "a question")
        window.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
        assert window.violations() == []
        asked = "return document.querySelector('canvas').dataset.name"
        before = window.run(asked)
        for key in ("1", "\ue014", "0"):
            window.driver.find_element("tag name", "body").send_keys(key)
        enabled = "return document.querySelectorAll('#choices button:enabled').length"
        assert window.run(asked) == before and window.run(enabled) == 0, "nothing is answered unseen"
        give(window, "type", "skip")
        wait(window, f"return document.querySelector('canvas').dataset.name !== '{before}'", "it is skipped")
        assert window.run("window.come = true; " + enabled) == 0
        ready(window)
        assert window.run(enabled) == 3
        give(window, "type", "first")
        wait(window, f"return {ANSWERED[7:]} >= 3", "all has arrived")
    finally:
        served.kill(signal.SIGINT)
    with AnswerStore(tmp_path / "pairs" / NAME) as store:
        assert [label.answer == "skip" for _, label in store.history()] == [True, True, False]


def test_a_clip_that_failed_is_shown_once_it_could_be_drawn_while_its_question_is_looked_at(
    window: Chromium, page: tuple[Served, Path]
) -> None:
    failed = {"kind": "none", "frames": 1, "fps": 1, "every": 1, "steps": 0, "agents": [], "note": "The disk is full."}
    window.look()
    enter(window, page[0].url, "patient")
    script = window.cdp(
        "Page.addScriptToEvaluateOnNewDocument",
        source="const fetched = window.fetch, later = window.setTimeout;"
        "window.setTimeout = (act, pause) => later(act, Math.min(pause, 200));"
        "window.fetch = (path, ...more) => String(path).includes('/clips/') && !window.room"
        f" ? Promise.resolve(new Response({json.dumps(json.dumps(failed))})) : fetched(path, ...more);",
    )
    window.driver.get("about:blank")
    window.driver.get(page[0].url)
    shown = ready(window)
    window.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    notes = "return [...document.querySelectorAll('.note')].map((each) => each.textContent).join()"
    assert window.run(notes) == "The disk is full.,The disk is full."
    window.run("window.room = true")
    wait(window, f"return ({notes[7:]}) === ','", "both are there")
    names = "return [...document.querySelectorAll('canvas')].map((each) => each.ariaLabel)"
    assert all("agent 1 moves" in name for name in window.run(names))
    refuse_blank(pictures(window))
    assert window.run("return document.body.dataset.shown") == shown and window.run(FRAMES)
    give(window, "click", "skip")
    ready(window, shown)
    assert window.run(notes) == ",", "the next one was asked for before"


def test_undo_takes_the_answer_back_and_asks_again(window: Chromium, page: tuple[Served, Path]) -> None:
    window.look()
    enter(window, page[0].url, "undoer")
    question = ready(window)
    give(window, "click", "first")
    ready(window, question)
    window.driver.find_element("tag name", "body").send_keys("u")
    assert wait(window, f"return document.body.dataset.shown === '{question}'", "it is asked again")
    give(window, "click", "second")
    wait(window, "return !document.getElementById('progress').textContent.includes('waiting')", "all was sent")
    with AnswerStore(page[1] / NAME) as store:
        rows = [label for _, label in store.history() if label.annotator == "undoer"]
    assert [row.revision for row in rows] in ([0, 1, 2], [0]) and rows[-1].answer != "withdrawn"


def test_an_undo_that_waits_stays_behind_its_answer_though_the_clock_is_set_back(
    window: Chromium, page: tuple[Served, Path]
) -> None:
    window.look()
    enter(window, page[0].url, "traveller")
    question = ready(window)
    window.run("window.fetch = () => Promise.reject(new TypeError('nobody answers'))")
    give(window, "click", "first")
    wait(window, "return document.getElementById('progress').textContent.includes('no connection')", "it waits")
    window.run("Date.now = () => 1000")
    window.driver.find_element("tag name", "body").send_keys("u")
    wait(window, "return document.getElementById('progress').textContent.includes('2 waiting')", "the undo waits")
    window.driver.get("about:blank")
    window.driver.get(page[0].url)
    wait(window, "return !Object.keys(localStorage).some((name) => name.startsWith('answer.'))", "both arrive")
    with AnswerStore(page[1] / NAME) as store:
        rows = [label for _, label in store.history() if label.annotator == "traveller"]
    assert [row.answer == "withdrawn" for row in rows] == [False, True] and rows[0].pair_id == question.split(".")[1]


def test_the_page_speaks_to_those_who_do_not_see(window: Chromium, page: tuple[Served, Path]) -> None:
    window.look()
    enter(window, page[0].url, "reader")
    nodes = window.cdp("Accessibility.getFullAXTree")["nodes"]
    names = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if "role" in node]
    buttons = {name for role, name in names if role == "button"}
    assert {"First key 1 or ←", "Both alike key 0 or =", "Second key 2 or →", "Undo", "Skip…"} <= buttons
    images = [name for role, name in names if role in {"image", "img"}]
    assert len(images) == 2 and all("agent 1 moves" in name and "steps of 3 agents" in name for name in images)
    live = window.run("return document.getElementById('progress').getAttribute('aria-live')")
    assert live == "polite" and "questions answered" in window.run(
        "return document.getElementById('progress').innerText"
    )
    assert window.run("return document.activeElement.id") == "asked", "the question is what is read first"


def test_the_next_person_answers_under_a_name_of_their_own_and_what_waits_keeps_its_own(
    window: Chromium, spread: Path, tmp_path: Path
) -> None:
    served = Served(str(spread), "--out", str(tmp_path / "pairs"), "--budget", "6", "--repeats", "0")
    try:
        window.look(PHONE)
        enter(window, served.url)
        assert window.driver.find_element("id", "you").text.startswith("You answer as ann")
        shown = ready(window)
        window.run(
            "const fetched = window.fetch; window.fetch = (path, ...more) => String(path).includes('/answers')"
            " && !window.there ? Promise.reject(new TypeError('nobody answers')) : fetched(path, ...more);"
        )
        give(window, "type", "first")
        ready(window, shown)
        window.driver.find_element("id", "other").send_keys("\ue007")
        assert window.run("return document.activeElement.id") == "name" and window.violations() == []
        assert window.run(WIDER) <= 0 and not window.driver.find_element("id", "question").is_displayed()
        window.driver.switch_to.active_element.send_keys("हिन्दी\ue007")
        wait(
            window, "return document.querySelectorAll('#question:not([hidden]) #choices :enabled').length", "it goes on"
        )
        assert window.run("return document.getElementById('undo').disabled"), "the answer of another"
        assert window.violations() == [] and "हिन्दी" in window.driver.find_element("id", "you").text
        other = window.run("return document.body.dataset.shown")
        give(window, "type", "second")
        wait(window, "return document.getElementById('progress').textContent.includes('2 waiting')", "both wait")
        window.run("window.there = true")
        wait(window, "return !Object.keys(localStorage).some((name) => name.startsWith('answer.'))", "both arrive")
        assert window.run("return document.getElementById('alert').hidden")
    finally:
        served.kill(signal.SIGINT)
    with AnswerStore(tmp_path / "pairs" / NAME) as store:
        rows = {label.annotator: label.pair_id for label in store.labels()}
    assert rows == {"ann": shown.split(".")[1], "हिन्दी": other.split(".")[1]}


def test_who_left_is_forgotten_before_the_next_person_has_a_name(window: Chromium, page: tuple[Served, Path]) -> None:
    window.look()
    enter(window, page[0].url, "left")
    window.driver.find_element("id", "other").click()
    assert window.run("return document.getElementById('name').value") == "left", "in case it was a slip"
    window.driver.get("about:blank")
    window.driver.get(page[0].url)
    wait(window, "return !document.getElementById('who').hidden", "the page asks for a name")
    assert not window.driver.find_element("id", "question").is_displayed()
    assert window.run("return document.getElementById('name').value") == ""


def test_a_name_that_the_server_refuses_is_asked_for_again(window: Chromium, page: tuple[Served, Path]) -> None:
    window.look()
    enter(window, page[0].url, "locked out")
    waits = {"store": "elsewhere", "path": "/api/answers", "body": {"key": "waits-elsewhere"}}
    window.run("localStorage.annotator = 'x²'; localStorage['answer.1'] = arguments[0]", json.dumps(waits))
    window.driver.get("about:blank")
    window.driver.get(page[0].url)
    wait(window, "return !document.getElementById('alert').hidden", "it is told")
    assert "x²" in window.driver.find_element("id", "alert").text and window.violations() == []
    field = window.driver.find_element("id", "name")
    for name, mismatch in {"½ann": True, "Ⅻ": False, "می\u200cخواهم": False, "found again": False}.items():
        field.clear()
        field.send_keys(name)
        assert window.run("return document.getElementById('name').validity.patternMismatch") is mismatch, name
    field.send_keys("\ue007")
    wait(window, "return !document.getElementById('question').hidden", "it goes on")
    assert window.run("return document.getElementById('alert').hidden && localStorage['answer.1']") == json.dumps(waits)


def test_no_sound_unless_asked_for(window: Chromium, page: tuple[Served, Path]) -> None:
    window.look()
    enter(window, page[0].url, "quiet")
    assert not window.run(
        "return document.getElementById('sound').checked || document.getElementById('sound-idle').checked"
    )
    assert window.run("return document.body.dataset.rung || 0") == 0


def test_what_was_answered_is_not_asked_again_by_a_slow_reply(window: Chromium, spread: Path, tmp_path: Path) -> None:
    served = Served(str(spread), "--out", str(tmp_path / "pairs"), "--budget", "8", "--repeats", "0")
    try:
        window.look()
        enter(window, served.url)
        window.run(
            "const fetched = window.fetch; window.fetch = async (...asked) => { const reply = await fetched(...asked);"
            "if (String(asked[0]).includes('/api/lease')) await new Promise((done) => setTimeout(done, 400));"
            "return reply; }"
        )
        shown, seen = "", []
        for _ in range(8):
            shown = ready(window, shown)
            seen.append(shown)
            window.driver.find_element("css selector", "#choices button").click()
        wait(window, "return !document.getElementById('idle').hidden", "all is answered")
        wait(window, f"return {ANSWERED[7:]} == 8", "all is counted")
        assert len(set(seen)) == 8
    finally:
        served.kill(signal.SIGINT)


def test_bodies_of_the_simulator_are_seen_moving_in_their_agents_colours(window: Chromium, tmp_path: Path) -> None:
    data = "reacher-scripted-mix-v0_2x1notip_0"
    served = Served(data, "--out", str(tmp_path / "pairs"), "--budget", "4", "--ask", "pairs,ratings,credit")
    try:
        window.look()
        enter(window, served.url)
        assert window.run("return document.querySelectorAll('canvas')[0].width") == 288
        assert window.run("return document.getElementById('speed').value") == "0.5", "they last a second"
        seen = pictures(window)
        refuse_blank(seen)
        blue, orange = (46, 134, 222), (240, 160, 20)
        for color in (blue, orange):
            near = [(np.abs(one.astype(int) - color).sum(-1) < 120).sum() for one in seen]
            assert min(near) > 20, "both limbs are painted"
        if os.environ.get("LABEL_PICTURES"):
            Path(os.environ["LABEL_PICTURES"], "reacher.png").write_bytes(window.png())
        shown, kinds = "", []
        for _ in range(4 + 8 + 8):
            shown = ready(window, shown)
            kinds.append(shown.partition(".")[0])
            window.driver.find_element("css selector", "#choices button").click()
            if len(kinds) == 5:
                assert window.violations() == []
        wait(window, "return !document.getElementById('idle').hidden", "all is answered")
        wait(window, "return !document.getElementById('progress').textContent.includes('waiting')", "all was sent")
        assert set(kinds) == {"pair", "rating", "credit"}
    finally:
        served.kill(signal.SIGINT)
    with AnswerStore(tmp_path / "pairs" / NAME) as store:
        assert len(store.labels()) == 4
        assert {one.answer for one in store.judgements()} == {"1", "agent_0"}


def test_numbers_are_drawn_where_nothing_else_can_be(window: Chromium, tmp_path: Path) -> None:
    served = Served(
        saved(tmp_path, world("continuous", episodes=20)), "--out", str(tmp_path / "pairs"), "--budget", "6"
    )
    try:
        window.look()
        enter(window, served.url)
        refuse_blank(pictures(window))
    finally:
        served.kill(signal.SIGINT)
    assert json.loads(next((tmp_path / "pairs" / "clips").glob("*/*.json")).read_text())["kind"] == "series"


def run_of_people(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """A trainer in a process of its own, which waits for people."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "offline_marl", *words], stdout=log, stderr=log)


def asked_of(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a run has asked about so many pairs."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if (folder / "preferences" / NAME).exists():
            with AnswerStore(folder / "preferences" / NAME) as store:
                if store.pair_count() >= count:
                    return
        assert process.poll() is None, folder.with_suffix(".log").read_text()[-2000:]
        time.sleep(0.2)
    raise AssertionError(f"it asked about fewer than {count} pairs")


def test_a_run_that_plays_is_taught_on_the_page_from_its_first_question_to_its_end_though_it_is_killed(
    window: Chromium, tmp_path: Path
) -> None:
    run, queries, a_round = tmp_path / "runs" / "taught", 9, 3
    words = ["train", "masac", "--environment", "rendezvous", "--environment-steps", "400", "--warmup-steps", "100"]
    words += [
        "--teacher",
        "human",
        "--queries",
        str(queries),
        "--queries-per-round",
        str(a_round),
        "--query-length",
        "10",
    ]
    words += [
        "--reward-fit",
        '{"hidden":[8],"batch_size":4}',
        "--reward-updates",
        "5",
        "--hidden",
        "8",
        "--batch-size",
        "8",
    ]
    trainer = run_of_people(run, *words, "--eval-every", "0", "--final-episodes", "2", "--out", str(run))
    served = None
    try:
        asked_of(run, a_round, trainer)
        watched = subprocess.run(
            [sys.executable, "-m", "offline_marl", "watch", str(run), "--once"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "3 questions" in watched.stdout, watched.stdout
        served = Served(str(run), "--repeats", "0")
        window.look()
        enter(window, served.url, "teacher")
        shown = ""
        for number in range(queries):
            shown = ready(window, shown)
            give(window, "type", "first")
            if number == a_round:  # killed while it waits for the rest of its second round
                trainer.kill()
                trainer.wait(30)
                trainer = run_of_people(run, "resume", str(run))
            if (number + 1) % a_round == 0 and number + 1 < queries:
                asked_of(run, number + 1 + a_round, trainer)
        assert trainer.wait(120) == 0, run.with_suffix(".log").read_text()[-2000:]
    finally:
        trainer.kill()
        if served is not None:
            served.kill(signal.SIGINT)
    assert json.loads((run / "DONE").read_text())["labels"] == queries
    rounds = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert [row["labels"] for row in rounds] == [3, 6, 9]
    with AnswerStore(run / "preferences" / NAME) as store:
        labels = store.labels()
    assert len(labels) == len({label.pair_id for label in labels}) == queries
    assert {label.annotator for label in labels} == {"teacher"}
