"""Return over environment steps: `python benchmarks/online.py [--seeds 0 1 2] [--jobs N] [--table]`.

Trains what is missing with the presets of VDN, QMIX and MA-PPO in two of MPE's tasks, and writes the evaluations of
each run to results/online/curves.csv as it ends. Runs that were stopped go on. The table says what each learner
returns after so many environment steps, and how many it takes to what MA-PPO reaches in the end: by evaluations on the
way, which are of the same 20 starts. The score in the end is of 100, and stands apart.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rows import commit_of, missing, over_seeds, read, replace
from run import PRESETS, train

HERE = Path(__file__).resolve().parent
CURVES = HERE / "results" / "online" / "curves.csv"
TASKS = ("simple-spread", "simple-reference")
LEARNERS = ("vdn", "qmix", "ma-ppo")
FIELDS = (
    "algo",
    "environment",
    "seed",
    "environment_steps",
    "return",
    "return_low",
    "return_high",
    "episodes",
    "commit",
)
ON_THE_WAY = 20
"""Episodes of an evaluation during training, always the same starts."""
SHOWN = (50_000, 100_000, 200_000, 400_000, 800_000, 1_200_000)
"""Environment steps of the table's columns."""


def rows_of(folder: Path) -> list[dict[str, object]]:
    """The evaluations of a finished run."""
    if not (folder / "DONE").exists():
        return []
    config, commit = json.loads((folder / "config.json").read_text()), commit_of(folder)
    rows = []
    with (folder / "eval.csv").open() as stream:
        for row in csv.DictReader(stream):
            # On-policy learners play a batch for each update.
            played = row.get("environment_steps") or int(row["step"]) * config["settings"]["batch_size"]
            known = {"algo": config["algorithm"], "environment": config["environment"], "seed": config["seed"]}
            told = {name: row[name] for name in ("return", "return_low", "return_high", "episodes")}
            rows.append({**known, "environment_steps": played, **told, "commit": commit})
    return rows


def curves(algo: str, task: str) -> tuple[dict[str, list[tuple[int, float]]], list[float]]:
    """Evaluations of each seed on the way, environment steps and return, and how each seed scored in the end.

    The score of the end is of more episodes, whose starts are others: it compares with scores of the end alone.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    ends = list[float]()
    for row in read(CURVES):
        if (row["algo"], row["environment"]) != (algo, task):
            continue
        if int(row["episodes"]) == ON_THE_WAY:
            found.setdefault(row["seed"], []).append((int(row["environment_steps"]), float(row["return"])))
        else:
            ends.append(float(row["return"]))
    return found, ends


def table(task: str) -> None:
    """Mean return over seeds, with the least and the largest, at the last evaluation before so many steps."""
    steps = " | ".join(f"{count // 1000}k" for count in SHOWN)
    print(f"| `{task}` | seeds | {steps} | end, 100 episodes | as MA-PPO in the end |")
    print("|---|---|---|---|" + "---|" * len(SHOWN))
    last = [curve[-1][1] for curve in curves("ma-ppo", task)[0].values()]
    for algo in LEARNERS:
        seeds, ends = curves(algo, task)
        if not seeds:
            continue
        cells = []
        for count in SHOWN:
            values = [[value for steps, value in curve if steps <= count] for curve in seeds.values()]
            played = max(curve[-1][0] for curve in seeds.values())
            lacks = not all(values) or count > 1.1 * played
            cells.append("" if lacks else over_seeds([each[-1] for each in values]))
        reached = ""
        if last:
            firsts = [
                next((steps for steps, value in curve if value >= np.mean(last)), None) for curve in seeds.values()
            ]
            reached = ", ".join("never" if first is None else f"{first // 1000}k" for first in firsts)
        print(f"| `{algo}` | {len(seeds)} | {' | '.join(cells)} | {over_seeds(ends)} | {reached} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/online"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="train nothing: print the tables of the committed CSV")
    options = parser.parse_args()

    def one(algo: str, task: str, seed: int) -> list[dict[str, object]]:
        folder = options.out / f"{algo}_{task}_{seed}"
        if not (folder / "DONE").exists():
            train(PRESETS / algo.replace("-", "_") / f"{task}.toml", seed, folder)
        return rows_of(folder)

    # Seed by seed, so that a call that is stopped leaves whole columns.
    cells = [(algo, task, seed) for seed in options.seeds for task in TASKS for algo in LEARNERS]
    plan = missing(CURVES, ("algo", "environment", "seed"), cells)
    if not options.table:
        with ThreadPoolExecutor(options.jobs) as pool:
            for rows in pool.map(lambda each: one(*each), plan):
                if rows:
                    replace(CURVES, rows, FIELDS, ("environment", "algo", "seed"))
                    print(f"{rows[-1]['algo']} {rows[-1]['environment']} {rows[-1]['seed']}", file=sys.stderr)
    for place, task in enumerate(TASKS):
        print("\n" * (place > 0), end="")
        table(task)


if __name__ == "__main__":
    main()
