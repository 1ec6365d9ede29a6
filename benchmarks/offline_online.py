"""From offline to online on Reacher: `python benchmarks/offline_online.py [--seeds 0 1 2] [--jobs N] [--table]`.

TD3+BC trained from the mixed data first and then played, beside the same learner that plays from the first update on,
with the data and without, and MASAC without data. Trains what is missing, goes on with what was stopped, and writes
the evaluations of each run to results/offline_online.csv as it ends. The table says return and agreement over
environment steps; at 0 stands what offline training alone reached.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rows import commit_of, missing, over_seeds, read, replace, trained

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "offline_online.csv"
DATA, ENVIRONMENT = "reacher-scripted-mix-v0_2x1notip_0", "reacher_2x1notip_0"
STEPS, OFFLINE, EVERY = 30_000, 10_000, 3_000
"""Environment steps of every arm, updates before the first of them where there are any, and between evaluations."""
SIZES = ["--hidden", "[128,128]", "--batch-size", "128"]
PLAYED = ["--environment-steps", str(STEPS), "--eval-every", str(EVERY), "--eval-episodes", "20"]
WITH_DATA = ["--dataset", DATA, "--online"]
FIRST = "td3-bc, offline"
ARMS = {
    "td3-bc, offline then online": ["td3-bc", *WITH_DATA, "--init", "{offline}"],
    "td3-bc, online with the data": ["td3-bc", *WITH_DATA],
    "td3-bc, from nothing": ["td3-bc", "--environment", ENVIRONMENT],
    "masac, from nothing": ["masac", "--environment", ENVIRONMENT],
}
FIELDS = ("arm", "seed", "environment_steps", "return", "normalized_return", "agreement", "episodes", "commit")
KEY = ("arm", "seed", "environment_steps")
SHOWN = (0, 4_000, 10_000, 19_000, 30_000)
"""Environment steps of the table's columns."""


def place(arm: str, seed: int, out: Path) -> Path:
    return out / f"{arm.replace(', ', '_').replace(' ', '-')}_{seed}"


def one(arm: str, seed: int, out: Path) -> None:
    """A run of an arm, after the offline run that it begins with, and its rows."""
    first, folder = place(FIRST, seed, out), place(arm, seed, out)
    common = [*SIZES, "--seed", str(seed), "--device", "cpu", "--final-episodes", "100"]
    if "{offline}" in ARMS[arm]:
        words = ["train", "td3-bc", "--dataset", DATA, "--steps", str(OFFLINE), "--eval-every", "0", *common]
        if not trained(first, words):
            return
    words = [word.format(offline=first) if word.startswith("{") else word for word in ARMS[arm]]
    if trained(folder, ["train", *words, *PLAYED, *common]):
        rows = evaluations(arm, seed, folder)
        if "{offline}" in ARMS[arm]:
            rows.insert(0, ended(arm, seed, first, 0))
        replace(RESULTS, rows, FIELDS, KEY)
        print(f"done  {folder}", file=sys.stderr)


def evaluations(arm: str, seed: int, folder: Path) -> list[dict[str, object]]:
    """Rows of a finished run: its evaluations on the way and, by more episodes, its end."""
    with (folder / "eval.csv").open() as stream:
        found = [row for row in csv.DictReader(stream) if int(row["environment_steps"]) < 0.99 * STEPS]
    rows = [about(arm, seed, folder, int(row["environment_steps"])) | scores(row) for row in found]
    return [*rows, ended(arm, seed, folder, STEPS)]


def ended(arm: str, seed: int, folder: Path, played: int) -> dict[str, object]:
    """Row of a run's end."""
    score = json.loads((folder / "DONE").read_text())["score"]
    return about(arm, seed, folder, played) | scores(score)


def about(arm: str, seed: int, folder: Path, played: int) -> dict[str, object]:
    return {"arm": arm, "seed": seed, "environment_steps": played, "commit": commit_of(folder)}


def scores(row: dict[str, str]) -> dict[str, object]:
    told = {name: row.get(name) for name in ("return", "normalized_return", "agreement")}
    return {name: "" if value in (None, "") else round(float(value), 4) for name, value in told.items()} | {
        "episodes": row["episodes"]
    }


def table() -> None:
    """Mean over seeds of the normalised return, its least and largest, and the mean agreement."""
    rows = sorted(read(RESULTS), key=lambda row: int(row["environment_steps"]))
    print("| arm | seeds | " + " | ".join(f"{count // 1000}k" for count in SHOWN) + " |")
    print("|---|---|" + "---|" * len(SHOWN))
    for arm in ARMS:
        mine = [row for row in rows if row["arm"] == arm]
        cells = []
        for count in SHOWN:
            # The last evaluation until then: a warm-up shifts those of the arms without data.
            seeds = {row["seed"]: row for row in mine if int(row["environment_steps"]) <= 1.01 * count}
            here = list(seeds.values())
            values = [float(row["normalized_return"]) for row in here]
            agreed = [float(row["agreement"]) for row in here if row["agreement"]]
            told = over_seeds(values) if values else ""
            cells.append(told + (f", {np.mean(agreed):.2f}" if agreed else ""))
        if mine:
            print(f"| {arm} | {len({row['seed'] for row in mine})} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/offline_online"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="train nothing: print the table of the committed CSV")
    options = parser.parse_args()
    if not options.table:
        plan = missing(RESULTS, ("arm", "seed"), [(arm, seed) for seed in options.seeds for arm in ARMS])
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda each: one(*each, options.out), plan))
    table()


if __name__ == "__main__":
    main()
