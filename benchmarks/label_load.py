"""Loads a server of the labelling page: 200 requests a second of reads and answers for a minute, on this machine.

    python benchmarks/label_load.py            # three times; writes benchmarks/results/label_load.csv

Requests leave on a clock, whether or not those before were answered, and latencies count from when they should have
left. Memory is that of the server's process, sampled each second.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import torch

from offline_marl.core.types import Spec
from offline_marl.datasets.base import Dataset
from offline_marl.preferences.answers import AnswerStore
from offline_marl.preferences.label_store import NAME

OUT = Path(__file__).parent / "results" / "label_load.csv"
PEOPLE = 8
MIX = (("lease", 0.3), ("answer", 0.3), ("clip", 0.2), ("progress", 0.1), ("labels", 0.1))
"""Of the requests."""


def make_data(place: Path) -> Path:
    """Episodes of two agents that see and do anything."""
    lengths = torch.full((400,), 60)
    generator = torch.Generator().manual_seed(0)
    rows, ends = int(lengths.sum()), int(lengths.sum()) + len(lengths)
    obs = torch.randn(ends, 2, 6, generator=generator)
    actions = torch.rand(rows, 2, 2, generator=generator) * 2 - 1
    data = Dataset.from_arrays(obs, actions, actions.sum(-1), lengths=lengths)
    data.save(place)
    assert data.spec == Spec((6, 6), (2, 2))
    return place


class Line:
    """A connection that is kept."""

    def __init__(self, port: int, token: str) -> None:
        self.port, self.token = port, token
        self.reader: Any = None
        self.writer: Any = None

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {self.token}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self.writer.write(head.encode() + content)
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status = int(lines.split()[1])
        stated = re.search(r"(?i)\r\ncontent-length: *(\d+)", lines)
        return status, await self.reader.readexactly(int(stated[1]) if stated else 0)


class Load:
    """The requests of one run."""

    def __init__(self, port: int, token: str) -> None:
        self.lines: asyncio.Queue[Line] = asyncio.Queue()
        for _ in range(48):
            self.lines.put_nowait(Line(port, token))
        self.chance, self.took, self.errors = random.Random(0), list[float](), list[str]()
        self.there, self.measuring = list[str](), False
        self.ready: dict[str, list[dict[str, Any]]] = {f"person {number}": [] for number in range(PEOPLE)}
        self.clips, self.since, self.answers, self.given = list[str](), 0, 0, set[str]()

    def next(self) -> tuple[str, str, str, Any]:
        kind = self.chance.choices([name for name, _ in MIX], [share for _, share in MIX])[0]
        who = self.chance.choice(list(self.ready))
        if kind == "answer" and not self.ready[who]:
            kind = "lease"
        # What is asked for is there: how fast this machine renders is another question.
        clips = self.there if self.measuring else self.clips
        if kind == "clip" and not clips:
            kind = "progress"
        if kind == "lease":
            held = [question["id"] for question in self.ready[who]]
            return kind, who, "/api/lease", {"annotator": who, "count": min(10, len(held) + 4), "held": held[:10]}
        if kind == "answer":
            question = self.ready[who].pop()
            self.given.add(question["id"])
            answer = self.chance.choice(["first", "second", "equal", "skip"])
            told = {"key": uuid.uuid4().hex, "annotator": who, "question": question["id"], "answer": answer}
            return kind, who, "/api/answers", {**told, "response_ms": 1000}
        if kind == "clip":
            return kind, who, f"/api/clips/{self.chance.choice(clips)}", None
        return kind, who, "/api/progress" if kind == "progress" else f"/api/labels?since={self.since}", None

    async def send(self, due: float) -> None:
        kind, who, path, body = self.next()
        line = await self.lines.get()
        try:
            status, content = await line.ask("GET" if body is None else "POST", path, body)
            if kind == "clip" and status == 200 and not self.measuring:
                self.there.append(path.rpartition("/")[2])
            if status != 200:
                self.errors.append(f"{kind} {status} {content[:100]!r}")
            elif kind == "lease":
                self._take(who, json.loads(content)["questions"])
            elif kind == "labels":
                self.since = max(self.since, json.loads(content)["since"])
            self.answers += kind == "answer" and status == 200
        except (OSError, asyncio.IncompleteReadError) as error:
            self.errors.append(f"{kind} {error!r}")
            line.writer = None
        finally:
            self.lines.put_nowait(line)
        self.took.append(time.monotonic() - due)

    def _take(self, who: str, questions: list[dict[str, Any]]) -> None:
        # A question may be offered once more while its answer is on the way.
        known = self.given | {question["id"] for question in self.ready[who]}
        self.ready[who] += [question for question in questions if question["id"] not in known]
        if len(self.clips) < 20:
            self.clips += [name for question in questions for name in question["segments"]]


async def drive(load: Load, rate: float, seconds: float, process: int) -> list[float]:
    """Send on the clock; the server's memory in MB, each second."""
    begun, sent, memory, tasks = time.monotonic(), 0, list[float](), set[Any]()
    while (now := time.monotonic() - begun) < seconds:
        while sent < now * rate:
            task = asyncio.create_task(load.send(begun + sent / rate))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        if now > len(memory):
            memory.append(resident(process))
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    return memory


def resident(process: int) -> float:
    text = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def measure(rate: float, seconds: float) -> dict[str, Any]:
    """One run against a server of its own."""
    with tempfile.TemporaryDirectory() as place:
        data, folder = make_data(Path(place) / "data.safetensors"), Path(place) / "pairs"
        budget = int(rate * seconds * 0.5) + 400
        words = ["label", str(data), "--out", str(folder), "--budget", str(budget), "--length", "20", "--port", "0"]
        server = subprocess.Popen([sys.executable, "-m", "offline_marl", *words], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        url = next(line.split()[1] for line in server.stdout if line.startswith("page"))
        next(line for line in server.stdout if line.startswith("answers"))
        port, token = re.search(r":(\d+)/#token=(.*)", url).groups()  # type: ignore[union-attr]

        async def run() -> tuple[Load, list[float]]:
            load = Load(int(port), token)
            await drive(load, 20, 15, server.pid)  # the renderer begins, and its first clips are there
            load.took, load.errors, load.answers, load.measuring = [], [], 0, True
            return load, await drive(load, rate, seconds, server.pid)

        load, memory = asyncio.run(run())
        server.send_signal(signal.SIGINT)
        server.wait(30)
        with AnswerStore(folder / NAME) as store:
            stored = len(store.history())
    took = sorted(load.took)
    for error in load.errors[:5]:
        print(error, file=sys.stderr)
    return {
        "requests": len(took),
        "seconds": seconds,
        "errors": len(load.errors),
        "answers": load.answers,
        "labels": stored,
        "p50_ms": round(1000 * statistics.median(took), 1),
        "p99_ms": round(1000 * took[int(0.99 * len(took))], 1),
        "max_ms": round(1000 * took[-1], 1),
        "memory_mb_first": round(statistics.median(memory[:10]), 1),
        "memory_mb_last": round(statistics.median(memory[-10:]), 1),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    flags = parser.parse_args()
    rows = []
    for number in range(flags.times):
        rows.append({"run": number + 1, **measure(flags.rate, flags.seconds)})
        print(rows[-1], flush=True)
    with flags.out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    best = min(rows, key=lambda row: (row["errors"], row["p99_ms"]))
    print(f"best of {len(rows)}: {best['errors']} errors, p99 {best['p99_ms']} ms, memory {best['memory_mb_first']} to "
          f"{best['memory_mb_last']} MB")  # fmt: skip


if __name__ == "__main__":
    main()
