"""Kills a server of the labelling page and a trainer again and again: `python label_killing.py FOLDER DATA KILLS SEED`.

Three people answer all the while, as the page does: each sends an answer, under one key, until it is acknowledged. A
trainer enters rounds of pairs, and reads labels by number into a file. Says as JSON what was acknowledged.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import starlette.applications  # noqa: F401 - once for all forks
import torch
import uvicorn.protocols.http.h11_impl  # noqa: F401
from labelled_page import TOKEN, Client

from offline_marl.labelling.questions import Asking
from offline_marl.labelling.serve import Address, alone, bind, make_server
from offline_marl.labelling.shelf import Shelf
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.preferences.asking import Plan, ask
from offline_marl.training.preferences.folders import ComparisonFolder

ROUND, ROUNDS = 25, 120


async def render_nothing(self: Shelf, names: Any) -> None:
    """Clips are of no matter here."""


def serve(folder: Path, port: int) -> None:
    Shelf.want = render_nothing
    with alone(folder):
        make_server(folder, Asking(repeats=0.05), TOKEN, ahead=0).run(sockets=[bind(Address(port=port))])


def learn(folder: Path, data: str) -> None:
    """Enter rounds, and read labels from where the last process stopped."""
    task, read = open_task(data), folder / "read.jsonl"
    plan = Plan(budget=ROUND * ROUNDS, length=2, rounds=ROUNDS)
    while True:
        with ComparisonFolder(folder, make=True) as opened:
            store = opened.store
            open_pairs = store.pair_count() - len({label.pair_id for label in store.labels()})
            if open_pairs < ROUND and len({one.session for one in store.pairs()}) < ROUNDS:
                ask(opened, task, plan)
            lines = read.read_text().splitlines() if read.exists() else []
            # A line that was cut off by a kill is read again: its cursor was not kept.
            whole = [json.loads(line) for line in lines if line.endswith("]")]
            since = whole[-1][0] if whole else 0
            with read.open("a") as stream:
                stream.write("\n" if lines and not lines[-1].endswith("]") else "")
                for number, label in store.history(since):
                    row = [number, label.pair_id, label.annotator, label.repeat, label.answer]
                    stream.write(json.dumps(row) + "\n")
        time.sleep(0.02)


def fork(work: Callable[..., None], *words: Any) -> int:
    process = os.fork()
    if process:
        return process
    try:
        work(*words)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


class Person(threading.Thread):
    """Somebody who answers, and goes on after every loss of the server."""

    def __init__(self, port: int, name: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.client, self.chance = Client(port, name), random.Random(seed)
        self.acknowledged: list[tuple[str, str, bool]] = []
        self.ended = threading.Event()
        self.sent = self.stored = 0

    def run(self) -> None:
        while not self.ended.is_set():
            question = self._until(lambda: self.client.lease(1))
            if not question:
                time.sleep(0.02)
                continue
            answer = self.chance.choice(["first", "second", "equal", "skip"])
            key = self.client.key()
            body = {"key": key, "annotator": self.client.annotator, "question": question[0]["id"], "answer": answer}
            said = self._until(lambda body=body: self.client.post("/api/answers", body))
            if said is not None:
                self.stored += said["stored"]
                self.acknowledged.append((question[0]["id"], answer, said["stored"]))

    def _until(self, act: Callable[[], Any]) -> Any:
        while not self.ended.is_set():
            try:
                self.sent += 1
                return act()
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.01)
        return None


def main() -> None:
    folder, data, kills, seed = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:5])
    torch.set_num_threads(1)
    listening = bind(Address(port=0))
    port = listening.getsockname()[1]
    listening.close()
    chance = random.Random(seed)
    trainer = fork(learn, folder, data)
    while not (folder / "read.jsonl").exists():
        time.sleep(0.02)
    server = fork(serve, folder, port)
    people = [Person(port, f"person {number}", seed + number) for number in range(3)]
    [one.start() for one in people]
    done = {"server": 0, "trainer": 0}
    while sum(done.values()) < kills:
        stood = sum(len(one.acknowledged) for one in people)
        until = time.monotonic() + 20
        while sum(len(one.acknowledged) for one in people) <= stood and time.monotonic() < until:
            time.sleep(0.002)  # somebody got on: kill at any moment after that
        time.sleep(chance.uniform(0, 0.25))
        which = "server" if chance.random() < 0.6 else "trainer"
        process = server if which == "server" else trainer
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        done[which] += 1
        if which == "server":
            server = fork(serve, folder, port)
        else:
            trainer = fork(learn, folder, data)
    time.sleep(1.5)
    for one in people:
        one.ended.set()
    [one.join(10) for one in people]
    time.sleep(0.5)
    for process in (server, trainer):
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    told = {one.client.annotator: one.acknowledged for one in people}
    print(json.dumps({"acknowledged": told, "kills": done, "sent": sum(one.sent for one in people)}))


if __name__ == "__main__":
    main()
