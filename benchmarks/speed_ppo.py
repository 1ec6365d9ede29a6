"""Speed of one MA-PPO update of 2,000 steps as ratios inside one run: `python benchmarks/speed_ppo.py [--rounds N]`.

Ours over the bare matrix products it makes, and the same mathematics as a loop over agents (loop_ppo.py) over ours.
The rounds of all contestants alternate and medians of CPU time are printed, so a busy machine shifts all alike.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from loop_ppo import LoopPPO
from speed import SIZES, ProductRecorder, make_batch, medians

from offline_marl.algorithms.base import algorithms
from offline_marl.core.types import Batch, Spec

EPISODES, LENGTH = 40, 50


def make_segments(spec: Spec, window: int) -> Batch:
    """Episodes of equal length, each ended by the clock."""
    rows = make_batch(spec, EPISODES * LENGTH, window).map(lambda value: value.unflatten(0, (EPISODES, LENGTH)))
    truncations = torch.zeros_like(rows.truncations)
    truncations[:, -1] = True
    return replace(rows, truncations=truncations)


def compare(size: str, window: int, rounds: int) -> None:
    """Print one row."""
    spec = SIZES[size]
    batch = make_segments(spec, window)
    kind = algorithms.get("ma-ppo")
    ours = kind(kind.Config(window=window), spec)
    loop = LoopPPO(spec, window)
    with ProductRecorder() as recorder:
        ours.update(batch)

    @torch.no_grad()
    def bare() -> None:
        for func, tensors in recorder.calls:
            func(*tensors)

    contestants = {"ours": lambda: ours.update(batch), "bare": bare, "loop": lambda: loop.update(batch)}
    found = medians(contestants, rounds, 1, clock=time.process_time)
    print(
        f"ma-ppo  {size:8} history {window:2}   ours {found['ours'] * 1e3:6.0f} ms   "
        f"over bare products {found['ours'] / found['bare']:.2f}   loop over ours {found['loop'] / found['ours']:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each comparison")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--windows", type=int, nargs="+", default=[0, 10], help="lengths of the history")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {options.threads} thread(s), {EPISODES} x {LENGTH} steps, 5 epochs, minibatch 64, "
        "hidden 2 x 256, float32, CPU time"
    )
    for window in options.windows:
        compare("reacher", window, options.rounds)


if __name__ == "__main__":
    main()
