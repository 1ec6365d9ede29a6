"""Makes the policies of tiers that ship with the package: `python benchmarks/tiers.py [ENVIRONMENT ...] [--table]`.

For each environment two seeds of VDN learn online with its preset, shortened, and keep all checkpoints. Of the first
seed's, scored on the same starts as uniform play, `expert` is the best one and the others lie nearest to a fraction of
the way from uniform play to it; `deviator` is one of the second seed's, for data in which one agent deviates. Policies
are rounded to half precision before anything is scored, and what the files say of them comes from fresh starts. A call
that was stopped goes on where it stood.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offline_marl.algorithms.base import Algorithm
from offline_marl.environments.base import environments
from offline_marl.environments.episodes import Memoryless, episode_seeds, play, run_episodes
from offline_marl.environments.scores import summarize
from offline_marl.runs import checkpoint
from offline_marl.runs.folder import RunFolder
from offline_marl.runs.loading import load
from offline_marl.runs.policies import SHIPPED, load_policy, save_policy, shipped_names

TIERS = {"expert": None, "good": 0.75, "medium": 0.5, "poor": 0.25, "trivial": 0.0}
"""Fractions of the way from uniform play to the best checkpoint, which `expert` is."""
DEVIATOR = 0.6
LENGTHS = {
    "simple-spread": (100_000, 25_000),
    "simple-reference": (60_000, 20_000),
    "simple-tag-prey": (400_000, 300_000),
}
"""Environment steps of both seeds."""
TASKS = tuple(LENGTHS)
SCORED = 20
"""Checkpoints of a run that are scored, most of them of its beginning, where it changes fastest."""
PICKING, STATING = {"simple-spread": 60, "simple-reference": 60, "simple-tag-prey": 400}, 300
"""Episodes by which checkpoints are picked, many where few of them pay, and by which files say how good they are."""


def train(task: str, seed: int, folder: Path) -> None:
    """One run in a process of its own, on one thread; a stopped one goes on."""
    if (folder / "DONE").exists():
        return
    program = [sys.executable, "-m", "offline_marl"]
    keep = ["--keep-checkpoints", "0", "--checkpoint-every", "100", "--eval-every", "0"]
    keep += ["--environment-steps", str(LENGTHS[task][seed])]
    fresh = ["train", "vdn", "--preset", task, "--seed", str(seed), *keep, "--out", str(folder)]
    again = (folder / "config.json").exists()
    done = subprocess.run(
        [*program, *(["resume", str(folder)] if again else fresh)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode:
        sys.exit(f"error: The run in {folder} stopped; the same command goes on with it.")


def returns(task: str, policy: Algorithm | None, seed: int, episodes: int) -> np.ndarray:
    """Returns of a policy, or of uniform play, each averaged over agents."""
    env = environments.get(task).make(None, min(episodes, 100))
    seeds = episode_seeds(seed, episodes)
    try:
        if policy is not None:
            return play(policy, env, seeds).returns
        draw, parts = np.random.default_rng(seed), []
        choices = np.array(env.spec.act_dims)
        for first in range(0, episodes, env.copies):
            chunk = seeds[first : first + env.copies]
            uniform = Memoryless(lambda seen, step: draw.integers(choices, size=(len(seen.obs), len(choices))))
            steps = [step.rewards.mean(1, dtype=np.float64) for step in run_episodes(env, chunk, uniform)]
            parts.append(np.sum(steps, axis=0))
        return np.concatenate(parts)
    finally:
        env.close()


def rounded(run: Path, step: int) -> Algorithm:
    """The policy of a checkpoint as its file would hold it."""
    path = run / "rounded.safetensors"
    save_policy(path, load(run, step), "vdn", {})
    return load_policy(path).policy


def scores(task: str, run: Path) -> dict[int, float]:
    """Mean return of each checkpoint; what has been scored is kept in the run folder."""
    file = run / "tiers.json"
    known: dict[int, float] = (
        {int(step): value for step, value in json.loads(file.read_text()).items()} if file.exists() else {}
    )
    steps = [step for step, _ in reversed(checkpoint.found(RunFolder(run).checkpoints))]
    places = np.unique(np.geomspace(1, len(steps), SCORED).round().astype(int) - 1)
    for step in (steps[place] for place in places):
        if step not in known:
            known[step] = float(returns(task, rounded(run, step), 0, PICKING[task]).mean())
            file.write_text(json.dumps(known))
    return known


def nearest(scored: Mapping[int, float], random: float, expert: float, fraction: float) -> int:
    """The checkpoint nearest to a fraction of the way."""
    return min(scored, key=lambda step: (abs((scored[step] - random) / (expert - random) - fraction), step))


def export(task: str, name: str, run: Path, step: int, reference: tuple[float, float]) -> None:
    """Write a policy's file, with its score on fresh starts."""
    score = summarize(returns(task, rounded(run, step), 1, STATING))
    config = RunFolder(run).config()
    random, expert = reference
    about: dict[str, Any] = {
        "tier": name,
        "environment": task,
        **{"return": score.mean, "low": score.low, "high": score.high, "episodes": STATING},
        "fraction": (score.mean - random) / (expert - random),
        **{"random_return": random, "expert_return": expert},
        **{"seed": config.seed, "updates": step, "torch": torch.__version__},
    }
    save_policy(SHIPPED / task / f"{name}.safetensors", load(run, step), "vdn", about)
    print(f"{task} {name}: step {step}, return {score.mean:.2f} [{score.low:.2f}, {score.high:.2f}]", flush=True)


def make(task: str, runs: Path) -> None:
    """All policies of one environment."""
    first, second = (runs / f"{task}-{seed}" for seed in range(2))
    for seed, folder in enumerate((first, second)):
        train(task, seed, folder)
    scored = scores(task, first)
    best = max(scored, key=lambda step: (scored[step], -step))
    picking = float(returns(task, None, 0, PICKING[task]).mean())
    picked = {
        name: best if fraction is None else nearest(scored, picking, scored[best], fraction)
        for name, fraction in TIERS.items()
    }
    reference = (
        float(returns(task, None, 1, STATING).mean()),
        float(returns(task, rounded(first, best), 1, STATING).mean()),
    )
    for name, step in picked.items():
        export(task, name, first, step, reference)
    export(task, "deviator", second, nearest(scores(task, second), picking, scored[best], DEVIATOR), reference)


def table() -> None:
    """Returns of all that ships, as a table of the page on collecting."""
    print("| environment | uniform play | " + " | ".join(f"`tier:{name}`" for name in (*TIERS, "deviator")) + " |")
    print("|---|---|" + "---|" * (len(TIERS) + 1))
    for task in TASKS:
        if not shipped_names(task):
            continue
        told = {name: load_policy(SHIPPED / task / f"{name}.safetensors").about for name in (*TIERS, "deviator")}
        cells = [f"{about['return']:.1f} ({about['fraction']:.2f})" for about in told.values()]
        print(f"| `{task}` | {told['expert']['random_return']:.1f} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", nargs="*", default=TASKS, metavar="ENVIRONMENT", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--runs", type=Path, default=Path("runs/tiers"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="make nothing: print what ships")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task in () if options.table else options.tasks:
        make(task, options.runs)
    table()


if __name__ == "__main__":
    main()
