"""Updates of several seeds side by side over the same updates one learner after another, in one process.

`python benchmarks/speed_seeds.py [--only iql] [--hidden 64 128 256] [--rows 64 256] [--seeds 8] [--size reacher]
[--window 10]`: one thread, processor time, rounds that take turns; a number above 1 says how many times faster side by
side is. Sampling is left out on both sides; laying rows side by side is not.
"""

from __future__ import annotations

import argparse

import torch
from timing import SIZES, Patience, make_batch, medians

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.algorithms.together import apart, beside, join
from offline_marl.core.config import build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch, Spec
from offline_marl.training.seeds import largest_product

LEARNERS = ("bc", "iql", "td3-bc", "cql", "omar")


def make(name: str, spec: Spec, seed: int, **settings: object) -> Algorithm:
    kind = algorithms.get(name)
    with seeded_globally(seed, "initialisation"):
        learner = kind(build(kind.Config, dict(settings)), spec)
    learner.place("cpu", seed)
    return learner


def compare(name: str, spec: Spec, hidden: int, rows: int, window: int, seeds: int, patience: Patience) -> None:
    settings = {"hidden": (hidden, hidden), "batch_size": rows, "window": window}
    alone, joined = ([make(name, spec, seed, **settings) for seed in range(seeds)] for _ in range(2))
    whole, batches = join(joined), [make_batch(spec, rows, window) for _ in range(seeds)]

    def one_by_one() -> None:
        for _ in range(2):  # some improve their policy at every second update
            for learner, batch in zip(alone, batches, strict=True):
                learner.update(batch)

    def side_by_side() -> None:
        for _ in range(2):
            apart(whole.update(beside(Batch.cat(batches), seeds)), seeds)

    found = medians({"alone": one_by_one, "together": side_by_side}, *patience)
    print(
        f"{name:8} hidden {hidden:4} rows {rows:4}   largest product {largest_product(alone[0]):12,}   "
        f"{seeds} alone {found['alone'] / 2 * 1e3:7.1f} ms   together {found['alone'] / found['together']:.2f} times",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=LEARNERS, choices=LEARNERS)
    parser.add_argument("--hidden", nargs="+", type=int, default=(64, 128, 256))
    parser.add_argument("--rows", nargs="+", type=int, default=(64, 256))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--size", choices=SIZES, default="reacher")
    parser.add_argument("--window", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=6.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.only:
        for rows in args.rows:
            for hidden in args.hidden:
                compare(
                    name, SIZES[args.size], hidden, rows, args.window, args.seeds, Patience(args.rounds, args.seconds)
                )


if __name__ == "__main__":
    main()
