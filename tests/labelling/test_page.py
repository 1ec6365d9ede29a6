"""Modules of the page under node, where there is one; tests/browser has the whole page in a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.resources import files
from typing import Any

import pytest

PAGE = files("offline_marl.labelling").joinpath("page")
BROWSER = """
globalThis.requestAnimationFrame = () => 0;
globalThis.addEventListener = () => {};
const held = {};
globalThis.localStorage = new Proxy(held, { get: (_, name) => ({
  getItem: (key) => held[key] ?? null,
  setItem: (key, value) => { held[key] = value; },
  removeItem: (key) => { delete held[key]; },
})[name] ?? held[name] });
const told = [], say = (what) => told.push(what);
const canvas = () => ({ dataset: {}, getContext: () => new Proxy({}, { get: () => () => {}, set: () => true }) });
"""
"""What the modules ask of a browser."""


def under_node(module: str, script: str) -> list[Any]:
    """What a script told, with a module of the page as `page`."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    source = json.dumps(PAGE.joinpath(module).read_text(encoding="utf-8"))
    load = f'const page = await import("data:text/javascript," + encodeURIComponent({source}));'
    words = [node, "--input-type=module", "-e", f"{BROWSER}{load}{script};console.log(JSON.stringify(told))"]
    told: list[Any] = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return told


def test_films_run_on_one_clock_of_steps_and_the_shorter_one_ends_first() -> None:
    told = under_node(
        "players.js",
        """
        const clip = { kind: "series", fps: 10, rows: [] };
        const film = (frames, every = 1) => new page.Player(canvas(), { ...clip, frames, every });
        const see = (...films) => films.map((each) => [each.canvas.dataset.frame, each.over]);
        const clock = new page.Clock(() => {});
        for (const [short, long] of [[film(10), film(50)], [film(10), film(25, 2)]]) {
          clock.show([short, long]);
          for (const step of [4, 10, 48]) { clock.seek(step / long.reach); say(see(short, long)); }
        }
        clock.seek(0);
        clock.step(3);
        say(see(clock.players[1]));
        clock.show([film(7), film(7)]);
        clock.seek(1);
        say(see(...clock.players));
        """,
    )
    assert told == [
        [[4, False], [4, False]],
        [[9, True], [10, False]],
        [[9, True], [48, False]],
        [[4, False], [2, False]],
        [[9, True], [5, False]],
        [[9, True], [24, False]],
        [[3, False]],
        [[6, False], [6, False]],
    ]


def test_a_short_film_is_slow_until_a_speed_is_chosen_and_rests_at_its_end_before_it_begins_anew() -> None:
    speeds, short, default, usual, long = under_node(
        "players.js",
        """
        const speeds = [0.125, 0.25, 0.5, 1, 1.5, 2];
        say([17 / 125, 60 / 125, 50 / 50, 25 / 10, 120].map((seconds) => page.unhurried(seconds, speeds)));
        const play = (frames, fps, speed, loop = true) => {
          const film = new page.Player(canvas(), { kind: "series", rows: [], fps, frames });
          let tick, begun = 0, ended = null, before = 0;
          globalThis.requestAnimationFrame = (next) => { tick = next; };
          const clock = new page.Clock((part) => { begun += part < before; before = part; });
          clock.show([film]);
          Object.assign(clock, { speed, loop, playing: true });
          for (let now = 0; now <= 10000; now += 10) {
            tick(now);
            if (ended === null && clock.part === 1) ended = now / 1000;
          }
          say([begun, ended, clock.playing]);
        };
        play(17, 125, 2);
        play(60, 125, 0.25);
        play(25, 10, 1);
        play(25, 10, 1, false);
        """,
    )
    assert speeds == [0.125, 0.25, 0.5, 1, 1]
    assert short == [12, pytest.approx(0.1, abs=0.02), True], "fewer than two flashes a second"
    assert default == [3, pytest.approx(1.92, abs=0.02), True]
    assert usual == [3, pytest.approx(2.5, abs=0.02), True]
    assert long == [0, pytest.approx(2.5, abs=0.02), False]


def test_what_is_compared_is_drawn_on_one_scale() -> None:
    told = under_node(
        "players.js",
        """
        const clip = { kind: "positions", fps: 10, frames: 2, agents: [{}], landmarks: [] };
        const film = (...places) => new page.Player(canvas(), { ...clip, places: [places] }, "team");
        const near = film([0, 0], [1, 1]), far = film([0, 0], [4, -3]), clock = new page.Clock(() => {});
        near.draw = far.draw = () => {};
        clock.show([near, far]);
        say([near.bounds, far.bounds]);
        clock.show([near]);
        say(near.bounds);
        """,
    )
    both = {"low": [-1.25, -3.7], "size": 5.45}
    alone = {"low": [-1.25, -1.25], "size": 2.5}
    assert told[0][0] == told[0][1]
    assert told[0][0]["size"] == pytest.approx(both["size"]) and told[0][0]["low"] == pytest.approx(both["low"])
    assert told[1] == alone


def test_an_undo_stays_behind_its_answer_though_the_clock_is_set_back_and_the_page_is_closed() -> None:
    told = under_node(
        "queue.js",
        """
        const open = () => Object.assign(new page.Queue(() => new Promise(() => {}), () => {}), { store: "s" });
        const old = { store: "s", path: "/api/answers", body: { key: "old", question: "q0" } };
        localStorage.setItem("answer.001900000000000.old", JSON.stringify(old));
        Date.now = () => 2000;
        open().push("/api/answers", { key: "answer", question: "q1" }, "s");
        Date.now = () => 1000;
        open().push("/api/undo", { key: "undo", question: "q1" }, "s");
        open().items.forEach((item) => say(item.body.key));
        """,
    )
    assert told == ["old", "answer", "undo"], "what an earlier version of the page left is sent first"


def test_an_answer_waits_for_its_own_folder_though_another_one_is_served_before_the_page_knows() -> None:
    told = under_node(
        "queue.js",
        """
        let serving = "B", there = true;
        const send = async (path, { key, of }) => {
          if (!there) throw new TypeError("nobody answers");
          say(`${key} to ${serving}`);
          const reply = of === serving ? { stored: true } : { error: "There is no such pair here." };
          return { ok: of === serving, status: of === serving ? 200 : 404, json: async () => reply };
        };
        const served = async () => { queue.store = serving; };
        const queue = Object.assign(new page.Queue(send, () => {}, served), { store: "A" });
        const rest = () => new Promise((done) => setTimeout(done, 20));
        const about = () => [queue.items.length, queue.elsewhere, Object.keys(held).length, queue.trouble];
        queue.push("/api/answers", { key: "first", question: "q1", of: "A" }, "A");
        await rest();
        say(about());
        there = false;
        queue.push("/api/answers", { key: "second", question: "q2", of: "B" }, "B");
        await rest();
        serving = "A"; there = true;
        await queue.flush();
        say(about());
        queue.push("/api/answers", { key: "third", question: "q3", of: "nowhere" }, "A");
        await rest();
        say(about());
        clearTimeout(queue.timer);
        """,
    )
    kept = [0, 1, 1, ""]
    refused = "An answer was refused: There is no such pair here."
    assert told == ["first to B", kept, "first to A", kept, "third to A", [0, 1, 1, refused]]


def test_a_tab_sends_no_answer_that_another_one_took_back() -> None:
    told = under_node(
        "queue.js",
        """
        let there = false;
        const send = async (path, { key }) => {
          if (!there) throw new TypeError("nobody answers");
          say(key);
          return { ok: true, status: 200, json: async () => ({}) };
        };
        const open = () => Object.assign(new page.Queue(send, () => {}, async () => {}), { store: "s" });
        const rest = () => new Promise((done) => setTimeout(done, 20));
        const one = open();
        one.push("/api/answers", { key: "sent before", question: "q1" }, "s");
        one.push("/api/answers", { key: "taken back", question: "q2" }, "s");
        await rest();
        const other = open();
        say(one.drop("q2"));
        one.push("/api/answers", { key: "given anew", question: "q2" }, "s");
        await rest();
        there = true;
        await other.flush();
        await one.flush();
        say([one.all.length, other.all.length, Object.keys(held).length]);
        const full = open();
        globalThis.localStorage = { ...localStorage, setItem: () => { throw new Error("full"); }, getItem: () => null };
        full.push("/api/answers", { key: "kept nowhere", question: "q3" }, "s");
        await rest();
        for (const each of [one, other, full]) clearTimeout(each.timer);
        """,
    )
    assert told == [True, "sent before", "given anew", [0, 0, 0], "kept nowhere"]
