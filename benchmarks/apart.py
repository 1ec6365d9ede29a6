"""Two ways of the same work, each in a process of its own, that take turns call by call: ratios of processor time.

    python benchmarks/apart.py loops                       CQL and OMAR as the command line starts them, and plain loops
    python benchmarks/apart.py loops --only bc iql --size one    the same of others, with one agent
    python benchmarks/apart.py commits --before CHECKOUT   every learner here, and in another checkout of the repository
    python benchmarks/apart.py commits --before CHECKOUT --only acting --size reacher   100 episodes played

A new pair of processes a round, forked from two that have imported everything, one thread each; what goes on beside
them on the machine slows both alike. A row is the median over rounds, of medians over calls. Beside the time stand page
faults an update and the peak of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
LEAST_TURNS, MOST_TURNS = 3, 200
"""Calls of each process that count."""


class Cost(NamedTuple):
    seconds: float
    faults: float
    megabytes: float


class Side(NamedTuple):
    """What one of both processes does."""

    name: str
    size: str
    kind: Literal["ours", "loop"]
    """An update as the checkout's command line starts it, or a plain loop's with the C library's defaults."""


def serve() -> None:
    """For each `BEGIN` line a child that makes calls; the imports, which take longest, are done once."""
    import speed_rows  # noqa: F401 - heavy, and only here
    import torch

    torch.set_num_threads(1)
    print("imported", flush=True)
    while line := sys.stdin.readline():
        child = os.fork()
        if not child:
            call_in_turn(*json.loads(line))
            sys.stdout.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            return


def call_in_turn(name: str, size: str, kind: str) -> None:
    """Make a call for each empty line that comes in and print its seconds; then what a call needs."""
    import speed_rows
    import torch
    from timing import SIZES, footprint, make_batch

    torch.manual_seed(0)
    if kind == "loop":
        from loop_baselines import LOOPS, Setup

        loop, batch, updates = LOOPS[name](Setup(SIZES[size])), make_batch(SIZES[size], 256, 0), 2
        if name == "ma-ppo":
            batch, updates = speed_rows.make_segments(SIZES[size], 0), 1

        def call() -> None:
            for _ in range(updates):
                loop.update(batch)

    else:
        with contextlib.suppress(ImportError):  # earlier checkouts have none
            from offline_marl.core.allocator import keep_memory

            keep_memory()
        call, updates = speed_rows.prepare(name, size)
    for _ in range(2):
        call()
    print("ready", flush=True)
    while sys.stdin.readline() == "\n":
        began = time.process_time()
        call()
        print((time.process_time() - began) / updates, flush=True)
    faults, megabytes = footprint(call, 1)
    print(json.dumps({"faults": faults / updates, "megabytes": megabytes}), flush=True)


class Server:
    """A process that imports the package from a checkout, and the benchmarks from here, and its children."""

    def __init__(self, checkout: Path) -> None:
        words = [sys.executable, str(HERE / "apart.py"), "serve"]
        env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, env=env, cwd=HERE, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.times: list[float] = []
        self.read()

    def read(self) -> str:
        """Its next line.

        Raises:
            RuntimeError: It has ended; its last words say why.
        """
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            said = self.process.stderr.read().strip().splitlines()
            raise RuntimeError(said[-1] if said else f"ended with {self.process.wait()}")
        return line

    def write(self, line: str) -> None:
        """Say a line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def begin(self, side: Side) -> None:
        """Fork a child for this side, with the calls that warm it up."""
        self.times = []
        self.write(json.dumps([side.name, side.size, side.kind]))
        self.read()

    def turn(self) -> None:
        """Let the child make a call."""
        self.write("")
        self.times.append(float(self.read()))

    def end(self) -> Cost:
        """What an update cost the child, which ends."""
        self.write("end")
        return Cost(statistics.median(self.times), **json.loads(self.read()))

    def stop(self) -> None:
        """End it, wherever it is."""
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self.process.kill()
        self.process.wait()


def take_turns(sides: Sequence[Side], servers: Sequence[Server], seconds: float) -> list[Cost]:
    """What an update costs in each of two processes that live side by side and make their calls in turn."""
    for side, server in zip(sides, servers, strict=True):
        server.begin(side)
    spent, turns = 0.0, 0
    while turns < LEAST_TURNS or (spent < seconds and turns < MOST_TURNS):
        began = time.perf_counter()
        for server in servers if turns % 2 else servers[::-1]:  # so that neither always goes first
            server.turn()
        spent, turns = spent + time.perf_counter() - began, turns + 1
    return [server.end() for server in servers]


def compare(title: str, sides: Sequence[Side], servers: Sequence[Server], rounds: int, seconds: float) -> float:
    """Print a row: the second side's time over the first's, the median over pairs of processes, and what both need."""
    pairs: list[list[Cost]] = []
    for number in range(1, rounds + 1):
        mine, theirs = pair = take_turns(sides, servers, seconds)
        pairs.append(pair)
        ratio = theirs.seconds / mine.seconds
        print(f"{title}   pair {number}   other over ours {ratio:.2f}", file=sys.stderr, flush=True)
    ratios = [theirs.seconds / mine.seconds for mine, theirs in pairs]

    def needs(side: int) -> str:
        spent, faults, megabytes = (statistics.median(of_both[side][what] for of_both in pairs) for what in range(3))
        return f"{spent * 1e3:6.1f} ms {faults:6.0f} faults {megabytes:5.0f} MB"

    print(
        f"{title}   ours {needs(0)}   other {needs(1)}   other over ours {statistics.median(ratios):.2f} "
        f"[{min(ratios):.2f}, {max(ratios):.2f}]",
        flush=True,
    )
    return statistics.median(ratios)


def main(arguments: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["serve"]:
        serve()
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["loops", "commits"])
    parser.add_argument("--before", type=Path, help="another checkout, for commits")
    parser.add_argument("--only", nargs="+", help="names; cql and omar, or everything that learns, unless said")
    parser.add_argument("--size", nargs="+", default=["reacher", "ant"], help="sizes of team")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each pair, about, its start left out")
    parser.add_argument("--limit", type=float, default=0.0, help="fail where a median ratio is below this")
    options = parser.parse_args(words)
    if options.what == "commits" and options.before is None:
        parser.error("commits needs --before CHECKOUT")
    rows = options.only or (["cql", "omar"] if options.what == "loops" else everything())
    there = REPOSITORY if options.what == "loops" else options.before.resolve()
    slow: list[str] = []
    servers: list[Server] = []
    try:
        for name, size in itertools.product(rows, options.size):
            other = Side(name, size, "loop" if options.what == "loops" else "ours")
            try:
                servers = servers or [Server(REPOSITORY), Server(there)]
                sides = (Side(name, size, "ours"), other)
                ratio = compare(f"{name:14} {size:8}", sides, servers, options.rounds, options.seconds)
            except RuntimeError as error:
                print(f"{name:14} {size:8}   not measured: {error}", flush=True)
                while servers:
                    servers.pop().stop()
                continue
            slow += [f"{name} at {size} size: {ratio:.2f}"] * (ratio < options.limit)
    finally:
        for server in servers:
            server.stop()
    if slow:
        sys.exit(f"Below {options.limit}: {'; '.join(slow)}")


def everything() -> list[str]:
    from speed_rows import names

    return names()


if __name__ == "__main__":
    main()
