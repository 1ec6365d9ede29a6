"""Values mixed offline: `python benchmarks/mixing.py [--tasks coordination] [--seeds 0 1 2] [--jobs N] [--table]`.

VDN and QMIX as they are, with CQL's gap and with BCQ's cloned policy, beside cloning and discrete CQL: on the
coordination game's two conventions, and on simple-spread data of several tiers, which policies that ship record
first. Trains what is missing, resumes what was stopped, and writes a row to results/mixing.csv as each run ends.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rows import command, commit_of, missing, over_seeds, read, replace, trained

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "mixing.csv"
FIELDS = ("task", "algo", "seed", "updates", "return", "return_low", "return_high", "agreement", "episodes", "commit")
LEARNERS = {
    "bc": ("bc", []),
    "cql": ("cql", []),
    **{
        f"{name} {kind}".removesuffix(" none"): (name, ["--conservative", kind])
        for name in ("vdn", "qmix")
        for kind in ("none", "cql", "bcq")
    },
}
TASKS = {"coordination": ("coordination-mix-v0", "600", "2e-3"), "spread": ("spread.safetensors", "3000", "1e-3")}
"""Data, updates and step size; learners differ in nothing else but what they are."""
MIXTURE = "tier:expert=2,tier:medium=1,tier:trivial=1"
EPISODES = 2_000


def record(out: Path) -> None:
    """The spread data, if it is not there."""
    path = out / TASKS["spread"][0]
    if not path.exists():
        who = ["--who", MIXTURE, "--noise", "0.05", "--episodes", str(EPISODES)]
        command(["collect", "simple-spread", *who, "--out", str(path)], out / "spread.log")


def one(task: str, learner: str, seed: int, out: Path) -> None:
    """One run, and its row."""
    data, updates, lr = TASKS[task]
    name, settings = LEARNERS[learner]
    folder = out / f"{task}_{learner.replace(' ', '-')}_{seed}"
    source = data if task == "coordination" else str(out / data)
    fresh = ["train", name, "--dataset", source, "--steps", updates, "--lr", lr, "--seed", str(seed), *settings]
    fresh += ["--eval-every", "0", "--final-episodes", "100"]
    if not trained(folder, fresh):
        return
    done = json.loads((folder / "DONE").read_text())
    row = {name: done["score"].get(name) for name in FIELDS} | {"commit": commit_of(folder)}
    row |= {"task": task, "algo": learner, "seed": seed, "updates": done["steps"]}
    replace(RESULTS, [row], FIELDS, ("task", "algo", "seed"))


def table(task: str) -> None:
    """Mean return over seeds, with the least and the largest, and agreement where there is any to be had."""
    print(f"| `{task}` | seeds | return (least to largest) | agreement |\n|---|---|---|---|")
    for learner in LEARNERS:
        rows = [row for row in read(RESULTS) if (row["task"], row["algo"]) == (task, learner)]
        if not rows:
            continue
        values = [float(row["return"]) for row in rows]
        agreed = [float(row["agreement"]) for row in rows if row["agreement"]]
        told = f"{np.mean(agreed):.2f}" if agreed else ""
        print(f"| {learner} | {len(rows)} | {over_seeds(values)} | {told} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/mixing"), help="folder of the runs and of the data")
    parser.add_argument("--table", action="store_true", help="train nothing: print the tables of the committed CSV")
    options = parser.parse_args()
    if not options.table:
        cells = [(task, learner, seed) for task in options.tasks for seed in options.seeds for learner in LEARNERS]
        plan = missing(RESULTS, ("task", "algo", "seed"), cells)
        if any(task == "spread" for task, _, _ in plan):
            record(options.out)
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda each: one(*each, options.out), plan))
    for place, task in enumerate(TASKS):
        print("\n" * (place > 0), end="")
        table(task)


if __name__ == "__main__":
    main()
