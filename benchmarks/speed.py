"""Speed as ratios inside one run: `python benchmarks/speed.py [--only cql rollout] [--size ant] [--window 10]`.

1. Every learner's update over the bare matrix products it makes: every product of two real updates in a
   row, forward and backward, is recorded with its shapes and strides and replayed alone. Two, because some
   learners improve their policy at every second update; times are of one. MA-PPO's is of 2,000 steps.
2. The same mathematics as a loop over agents (loop_baselines) over our update; of `omiga`, its update over `ma-iql`'s.
3. Both for a world model (speed_models.py): an update of its fit, and a rollout; imagined tokens (speed_tokens.py).
4. An update with each reader of a history of ten steps, over the update without one.
5. Updates of recurrent learners, and what it costs to play with one (speed_recurrent.py).
6. A step of a run that plays and replays, over a bare loop of policy and simulator, and steps of bodies over MuJoCo's
   own (speed_play.py).
7. Everything else that is registered (speed_rows.py): its update over the bare products.
8. Updates as `--compile` makes them, over eager ones (speed_compiled.py); asked for alone, since code takes a minute.
9. Seconds per million transitions to load, split among agents, and window.

Beside each update stand its page faults and the process's peak of memory. apart.py measures in processes of their own.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from loop_baselines import LOOPS, Setup
from speed_compiled import LEARNERS as COMPILED
from speed_compiled import WIDTHS, compare_compiled
from speed_models import MODELS
from speed_play import BODIES, PLAYS, compare_body, compare_play
from speed_recurrent import RECURRENT, compare_acting
from speed_rows import make_segments, names, prepare
from speed_tokens import TOKENS
from timing import SIZES, Patience, make_batch, medians, print_ratios

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import build
from offline_marl.core.partition import partition
from offline_marl.core.types import Batch
from offline_marl.datasets.base import Recording
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.files import load_data, save_data

LEARNERS: dict[str, tuple[str, dict[str, str]]] = {
    "bc": ("bc", {}),
    "iql": ("iql", {}),
    "ma-iql": ("ma-iql", {}),
    "omiga": ("omiga", {}),
    "td3-bc": ("td3-bc", {}),
    "td3-bc-centralised": ("td3-bc", {"critic": "centralised"}),
    "cql": ("cql", {}),
    "cql-centralised": ("cql", {"critic": "centralised"}),
    "omar": ("omar", {}),
    "omar-centralised": ("omar", {"critic": "centralised"}),
    "ma-ppo": ("ma-ppo", {}),
}
BESIDE = {"omiga": "ma-iql"}
"""Learners that are timed against another one, too."""
HISTORIES: dict[str, dict[str, object]] = {
    "none": {},
    "frame_stack": {"frame_stack": 11},
    "attention": {"window": 10},
    "gru": {"window": 10, "history_encoder": "gru"},
}
"""Settings of learners that read ten steps of the past, each in its own way; the first ones read none."""
DATA = {"reacher": ("reacher", "2x1notip", "0"), "ant": ("ant", "t4x2", "0")}


def compare(learner: str, size: str, window: int, patience: Patience) -> None:
    spec = SIZES[size]
    name, settings = LEARNERS[learner]
    kind = algorithms.get(name)
    if kind.needs.view == "segments":
        batch, updates = make_segments(spec, window), 1
    else:
        batch, updates = make_batch(spec, 256, window), 2
    ours = kind(build(kind.Config, {"window": window, **settings}), spec)
    others = {}
    if learner in BESIDE:
        other = algorithms.get(BESIDE[learner])
        others[BESIDE[learner]] = other(build(other.Config, {"window": window}), spec).update
    loop = LOOPS[name](Setup(spec, window, centralised=settings.get("critic") == "centralised", lr=ours.lr))

    def repeated(update: Callable[[Batch], object]) -> Callable[[], None]:
        def call() -> None:
            for _ in range(updates):
                update(batch)

        return call

    title = f"{learner:18}  {size:8} history {window:2}"
    timed = {name: repeated(update) for name, update in others.items()}
    print_ratios(title, repeated(ours.update), repeated(loop.update), patience, updates, timed)


def compare_histories(name: str, size: str, patience: Patience) -> None:
    spec, kind, batch = SIZES[size], algorithms.get(name), make_batch(SIZES[size], 256, 10)
    learners = {label: kind(build(kind.Config, settings), spec) for label, settings in HISTORIES.items()}
    found = medians({label: functools.partial(made.update, batch) for label, made in learners.items()}, *patience)
    ratios = "   ".join(f"{label} {seconds / found['none']:.2f}" for label, seconds in found.items() if label != "none")
    print(f"history of {name:7}  {size:8} none {found['none'] * 1e3:6.1f} ms   over none: {ratios}", flush=True)


def time_data(size: str, scenario: str, conf: str, view: str) -> None:
    """Seconds per million transitions, each step on its own."""
    shares = partition(scenario, conf, view)
    episodes, length = 10_000, 100
    width = 1 + max(column for row in shares.obs_index for column in row)
    steps = episodes * length
    ends = torch.zeros(steps, dtype=torch.bool)
    ends[length - 1 :: length] = True
    recording = Recording(
        state=torch.randn(steps + episodes, width),
        actions=torch.rand(steps, sum(shares.act_dims)) * 2 - 1,
        rewards=torch.randn(steps),
        terminations=torch.zeros(steps, dtype=torch.bool),
        truncations=ends,
        lengths=torch.full((episodes,), length),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "million.safetensors"
        save_data(path, recording)
        began = time.perf_counter()
        loaded = load_data(path)
        assert isinstance(loaded, Recording)
        read = time.perf_counter()
    data = loaded.split(shares)
    split = time.perf_counter()
    buffer = TransitionBuffer(data, window=10)
    windowed = time.perf_counter()
    index = torch.randint(len(buffer), (256,))
    drawn = time.perf_counter()
    for _ in range(100):
        buffer.transitions(index)
    sample = (time.perf_counter() - drawn) / 100
    print(
        f"data    {size:8} 1M transitions   load and verify {read - began:.2f} s   split {split - read:.2f} s   "
        f"window {windowed - split:.2f} s   a batch of 256 with history {sample * 1e3:.2f} ms"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    plain = [name for name in names() if name not in {*LEARNERS, *MODELS, *RECURRENT}]
    rows = [*LEARNERS, *plain, *MODELS, *TOKENS, *RECURRENT, "playing", "history", "replay", "bodies"]
    parser.add_argument("--only", nargs="+", choices=[*rows, "compiled"], default=rows, help="rows to time")
    parser.add_argument("--size", nargs="+", choices=SIZES, default=[*SIZES], help="sizes of team to time")
    parser.add_argument("--window", nargs="+", type=int, default=[0, 10], help="lengths of learners' history to time")
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds of each comparison, at most")
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each comparison, about")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    patience = Patience(options.rounds, options.seconds)
    print(f"torch {torch.__version__}, {options.threads} thread(s), batch 256, hidden 2 x 256, float32, CPU")
    for row in options.only:
        if row == "playing":
            compare_acting(patience)
            continue
        if row == "bodies":
            for name in BODIES:
                compare_body(name, patience)
            continue
        if row == "replay":
            for name, algorithm in PLAYS:
                compare_play(name, algorithm, patience)
            continue
        for size in options.size:
            if row in MODELS or row in TOKENS or row in RECURRENT:
                {**MODELS, **TOKENS, **RECURRENT}[row](size, patience)
                continue
            if row in plain:
                call, updates = prepare(row, size)
                print_ratios(f"{row:18}  {size:8}           ", call, None, patience, updates)
                continue
            if row == "compiled":
                for name in COMPILED:
                    for width in WIDTHS:
                        compare_compiled(name, size, width, patience)
                continue
            if row == "history":
                for name in ("bc", "iql"):
                    compare_histories(name, size, patience)
                continue
            for window in options.window:
                compare(row, size, window, patience)
    if options.only == rows:
        for size in set(options.size) & DATA.keys():
            time_data(size, *DATA[size])


if __name__ == "__main__":
    main()
