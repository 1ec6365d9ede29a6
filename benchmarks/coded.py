"""Price of coded iterations: `python benchmarks/coded.py local|ray [--rounds 40] [--width 64]`.

MADDPG's gradients for 8 agents at the size of simple-spread (1,024 rows, two layers of 64 as published, or of
`--width`), computed bare in this process and by 8 learners that each have one agent (`uncoded`: no redundancy, so that
what is beyond the bare gradients is the engine's price). Prints and appends to results/coded.csv:

- `cpu_ratio`: processor time of an iteration without the optimisers' step, of this process and of all learners (with
  Ray, of all its processes too), over the processor time of the bare gradients of all agents in one call; median of
  turns, in each of which both are measured. All processes are held on one core: on several, learners would compute
  side by side and the bare gradients alone, and a second of a core is worth less while its neighbour computes.
- `split_ratio`: the gradients agent by agent in this process, without any engine, over the bare ones: the floor.
- `wall_ms`: from batch to parameters with all cores of this machine, `cores`.
- `added_ms`: what an iteration takes beyond its gradients where each learner has a core of its own: learners sleep for
  the processor time of their gradients, measured alone, and do all else. For `uncoded` and for a dense code, N = 12.
- `late_ratio`, `late_s`: seconds of an iteration with real gradients while one (dense code, bears 4) and four learners
  are late by .5 s, over one without; and seconds while five are, which it does not bear.

Ray listens on all addresses of a machine: measure it in a network namespace (`unshare -n`).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offline_marl.algorithms.maddpg import MADDPG, MADDPGConfig
from offline_marl.core import allocator
from offline_marl.core.types import Batch, Spec
from offline_marl.distributed.coding import Code
from offline_marl.distributed.engine import Engine, Message, Payload, Program
from offline_marl.distributed.local import LocalEngine
from offline_marl.distributed.ray import RayEngine
from offline_marl.distributed.schemes import make_code
from offline_marl.training.coded import Controller, GradientProgram, Stragglers, rows_of, unpack

HERE = Path(__file__).resolve().parent
ROWS = HERE / "results" / "coded.csv"
AGENTS, DENSE_LEARNERS = 8, 12
TURNS = 8


def team(width: int) -> tuple[MADDPG, Batch]:
    """The learner and a minibatch of random numbers."""
    allocator.keep_memory()  # as the commands do that learn
    torch.set_num_threads(1)
    torch.manual_seed(0)
    obs_dim, rows = 6 * AGENTS, 1024
    spec = Spec((obs_dim,) * AGENTS, (5,) * AGENTS, action_kind="discrete")
    learner = MADDPG(MADDPGConfig(batch_size=rows, hidden=(width, width)), spec)
    learner.place("cpu", 0)
    obs, next_obs = torch.randn(2, rows, AGENTS, obs_dim)
    flags = torch.zeros(rows, AGENTS, dtype=torch.bool)
    actions = torch.randint(5, (rows, AGENTS))
    return learner, Batch(obs, actions, torch.randn(rows, AGENTS), next_obs, flags, flags)


@dataclass(frozen=True)
class Maker:
    """Makes a learner's program in its process, from nothing that has to be sent."""

    code: str
    learners: int
    width: int
    pace_s: float | None = None
    """Seconds that an agent's gradients take where they are slept through; None to compute them."""

    def __call__(self) -> Program:
        learner, _ = team(self.width)
        code = make_code(self.code, AGENTS, self.learners)
        return GradientProgram(learner, code) if self.pace_s is None else Paced(learner, code, self.pace_s)


class Paced:
    """A learner that does all but its gradients, for which it sleeps as long as they take on a core of their own."""

    def __init__(self, learner: MADDPG, code: Code, pace_s: float) -> None:
        self.learner, self.code, self.pace_s = learner, code, pace_s
        self._rows: tuple[Any, bytes] | None = None

    def __call__(self, learner: int, payload: Payload) -> Message:
        work = unpack(payload)
        self.learner.load_snapshot(work.snapshot, lent=True)
        if self._rows is None:
            self._rows = rows_of(self.learner, work, self.code.assigned(learner))
        time.sleep(self.pace_s * self.code.loads[learner])
        rows, note = self._rows
        return Message(self.code.encode(learner, rows), note)


def engine_of(kind: str, maker: Maker) -> Engine:
    return LocalEngine(maker.learners, maker) if kind == "local" else RayEngine(maker.learners, maker)


def others_s(engine: Engine) -> float:
    """Processor seconds so far of all learners; with Ray, of all other processes in this network namespace."""
    if isinstance(engine, LocalEngine):
        processes = [process for n in range(engine.learners) if (process := engine.process_of(n)) is not None]
    else:
        ours = os.readlink("/proc/self/ns/net")
        processes = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(folder / "ns" / "net") == ours and int(folder.name) != os.getpid():
                    processes.append(int(folder.name))
            except OSError:
                continue
    total = 0
    for process in processes:
        for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # it has just ended
                total += int(thread.read_text().split()[0])
    return 1e-9 * total


def timed(work: Callable[[], object], rounds: int) -> float:
    """Processor seconds of this process for one round, in the mean."""
    begun = time.process_time()
    for _ in range(rounds):
        work()
    return (time.process_time() - begun) / rounds


def one_by_one(learner: MADDPG, batch: Batch) -> None:
    """The gradients of all agents without any engine, each by itself."""
    prepared = learner.prepare(batch)
    for agent in range(AGENTS):
        learner.gradients(batch, [agent], prepared)


def price(kind: str, rounds: int, width: int) -> dict[str, float]:
    """Processor time of an iteration beside that of the bare gradients, measured in turns on one core."""
    learner, batch = team(width)
    owner, agents = copy.deepcopy(learner), range(AGENTS)
    gradients = learner.gradients(batch, agents)
    counts = max(rounds // TURNS, 1)
    taken: dict[str, list[float]] = {name: [] for name in ("bare", "apart", "apply", "owner", "others")}
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # and with it all that are started from here
    with engine_of(kind, Maker("uncoded", AGENTS, width)) as engine:
        controller = Controller(owner, make_code("uncoded", AGENTS, AGENTS), engine)
        assert controller.await_learners(120.0) == AGENTS
        for turn in range(TURNS + 1):
            bare_s = timed(lambda: learner.gradients(batch, agents), counts)
            apart_s = timed(lambda: one_by_one(learner, batch), counts)
            apply_s = timed(lambda: learner.apply_gradients(gradients), counts)
            before = others_s(engine)
            owner_s = timed(lambda: controller.update(batch), counts)
            row = (bare_s, apart_s, apply_s, owner_s - apply_s, (others_s(engine) - before) / counts)
            if turn:  # the first one warms up
                for name, value in zip(taken, row, strict=False):
                    taken[name].append(value)
    os.sched_setaffinity(0, cores)
    middle = {f"{name}_ms": 1e3 * statistics.median(values) for name, values in taken.items()}
    turns = [{name: values[turn] for name, values in taken.items()} for turn in range(TURNS)]
    return {
        **middle,
        "split_ratio": statistics.median(turn["apart"] / turn["bare"] for turn in turns),
        "cpu_ratio": statistics.median((turn["owner"] + turn["others"]) / turn["bare"] for turn in turns),
        "pace_s": 1e-3 * middle["apart_ms"] / AGENTS,
        "cores": len(cores),
        "wall_ms": 1e3 * iteration_s(kind, Maker("uncoded", AGENTS, width), rounds // 2),
    }


def iteration_s(kind: str, maker: Maker, rounds: int, late: int = 0, delay_s: float = 0.5) -> float:
    """Median seconds of an iteration, until its gradients are decoded and applied."""
    learner, batch = team(maker.width)
    code = make_code(maker.code, AGENTS, maker.learners)
    stragglers = Stragglers(code.learners, late, delay_s, torch.Generator().manual_seed(0)) if late else None
    with engine_of(kind, maker) as engine:
        controller = Controller(learner, code, engine, stragglers)
        assert controller.await_learners(120.0) == code.learners
        taken = []
        for _ in range(rounds + 2):
            begun = time.monotonic()
            controller.update(batch)
            taken.append(time.monotonic() - begun)
    return float(np.median(taken[2:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("engine", choices=["local", "ray"])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--width", type=int, default=64)
    args = parser.parse_args()
    row: dict[str, Any] = {"engine": args.engine, "agents": AGENTS, "width": args.width, "rounds": args.rounds}
    row |= price(args.engine, args.rounds, args.width)
    pace = row.pop("pace_s")
    for name, code, learners in (("uncoded", "uncoded", AGENTS), ("dense", "chebyshev", DENSE_LEARNERS)):
        slept = pace * float(make_code(code, AGENTS, learners).loads.max())
        taken = iteration_s(args.engine, Maker(code, learners, args.width, pace), args.rounds // 2)
        row[f"{name}_gradients_ms"], row[f"{name}_added_ms"] = 1e3 * slept, 1e3 * (taken - slept)
    dense = Maker("chebyshev", DENSE_LEARNERS, args.width)
    nobody, one, four, five = (iteration_s(args.engine, dense, args.rounds // 5, late) for late in (0, 1, 4, 5))
    row |= {"late_0_s": nobody, "late_1_ratio": one / nobody, "late_4_ratio": four / nobody, "late_5_s": five}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    line = {name: f"{value:.3f}" if isinstance(value, float) else str(value) for name, value in row.items()}
    line["commit"] = commit.stdout.strip()
    new = not ROWS.exists()
    with ROWS.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(line), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(line)
    for name, value in line.items():
        print(f"{name:<22}{value}")


if __name__ == "__main__":
    main()
