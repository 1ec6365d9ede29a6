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


def test_an_undo_stays_behind_its_answer_though_the_clock_is_set_back_and_the_page_is_closed() -> None:
    told = under_node(
        "queue.js",
        """
        const open = () => Object.assign(new page.Queue(() => new Promise(() => {}), () => {}), { store: "s" });
        const old = { store: "s", path: "/api/answers", body: { key: "old", question: "q0" } };
        localStorage.setItem("answer.001900000000000.old", JSON.stringify(old));
        Date.now = () => 2000;
        open().push("/api/answers", { key: "answer", question: "q1" });
        Date.now = () => 1000;
        open().push("/api/undo", { key: "undo", question: "q1" });
        open().items.forEach((item) => say(item.body.key));
        """,
    )
    assert told == ["old", "answer", "undo"], "what an earlier version of the page left is sent first"
