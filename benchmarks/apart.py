"""Two ways of the same work, each in processes of its own that take turns: ratios of processor time, medians.

    python benchmarks/apart.py loops                       CQL and OMAR as the command line starts them, and plain loops
    python benchmarks/apart.py commits --before CHECKOUT   every learner here, and in another checkout of the repository

A pair of processes a round, one thread each; what goes on beside them on the machine slows both alike. Beside the time
stand page faults an update and the peak of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent


def measure(name: str, size: str, side: str, seconds: float) -> dict[str, float]:
    """Seconds, page faults and megabytes of one update; in the process that is to be measured."""
    import torch
    from timing import SIZES, footprint, make_batch, time_calls

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if side == "kept":
        from offline_marl.core.allocator import keep_memory

        keep_memory()
    if side == "loop":
        from loop_baselines import LOOPS, Setup

        loop, batch = LOOPS[name](Setup(SIZES[size])), make_batch(SIZES[size], 256, 0)
        call, updates = lambda: (loop.update(batch), loop.update(batch)), 2
    else:
        from speed_rows import prepare

        call, updates = prepare(name, size)
    spent = time_calls(call, seconds) / updates
    faults, megabytes = footprint(call)
    return {"seconds": spent, "faults": faults / updates, "megabytes": megabytes}


def in_process(name: str, size: str, side: str, seconds: float, checkout: Path) -> dict[str, float]:
    """`measure` in a process that imports the package from this checkout, and the benchmarks from here."""
    words = [sys.executable, str(HERE / "apart.py"), "measure", name, size, side, str(seconds)]
    env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=env, cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr else f"ended with {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(title: str, ours: tuple[Any, ...], other: tuple[Any, ...], rounds: int) -> float:
    """Print a row: the other's time over ours, the median over rounds, and what both need."""
    pairs = []
    for number in range(rounds):
        sides = (ours, other) if number % 2 == 0 else (other, ours)  # so that neither always goes first
        first, second = (in_process(*side) for side in sides)
        pairs.append((first, second) if number % 2 == 0 else (second, first))
    ratios = [theirs["seconds"] / mine["seconds"] for mine, theirs in pairs]

    def needs(side: int) -> str:
        spent, faults, megabytes = (
            statistics.median(pair[side][what] for pair in pairs) for what in ("seconds", "faults", "megabytes")
        )
        return f"{spent * 1e3:6.1f} ms {faults:6.0f} faults {megabytes:5.0f} MB"

    print(
        f"{title}   ours {needs(0)}   other {needs(1)}   other over ours {statistics.median(ratios):.2f} "
        f"[{min(ratios):.2f}, {max(ratios):.2f}]",
        flush=True,
    )
    return statistics.median(ratios)


def main(arguments: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["measure"]:
        name, size, side, seconds = words[1:]
        print(json.dumps(measure(name, size, side, float(seconds))))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["loops", "commits"])
    parser.add_argument("--before", type=Path, help="another checkout, for commits")
    parser.add_argument("--only", nargs="+", help="names; cql and omar, or everything that learns, unless said")
    parser.add_argument("--size", nargs="+", default=["reacher", "ant"], help="sizes of team")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each process, about, its start left out")
    parser.add_argument("--limit", type=float, default=0.0, help="fail where a median ratio is below this")
    options = parser.parse_args(words)
    if options.what == "commits" and options.before is None:
        parser.error("commits needs --before CHECKOUT")
    rows = options.only or (["cql", "omar"] if options.what == "loops" else everything())
    slow = []
    for name in rows:
        for size in options.size:
            mine = (name, size, "kept" if options.what == "loops" else "ours", options.seconds, REPOSITORY)
            other = (
                (name, size, "loop", options.seconds, REPOSITORY)
                if options.what == "loops"
                else (name, size, "ours", options.seconds, options.before.resolve())
            )
            try:
                ratio = compare(f"{name:14} {size:8}", mine, other, options.rounds)
            except RuntimeError as error:
                print(f"{name:14} {size:8}   not measured: {error}", flush=True)
                continue
            slow += [f"{name} at {size} size: {ratio:.2f}"] * (ratio < options.limit)
    if slow:
        sys.exit(f"Below {options.limit}: {'; '.join(slow)}")


def everything() -> list[str]:
    from speed_rows import names

    return names()


if __name__ == "__main__":
    main()
