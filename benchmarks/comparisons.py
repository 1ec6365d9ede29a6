"""What comparisons are worth: `python benchmarks/comparisons.py [--sets NAME] [--seeds 0 1 2] [--jobs N] [--table]`.

On data of experts and worse actors, which a teacher compares who never errs: `o-mapl`, its two baselines, OMIGA on the
rewards of a model that was fitted to the same comparisons (the way in two phases), OMIGA on the environment's own
rewards, which nobody else sees, and `bc` on all of the data. Every seed has comparisons and a reward model of its own.
Runs that have a row are not done again, and stopped ones go on, so that the command can be repeated, also elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rows import command, commit_of, missing, read, replace, trained

from offline_marl.preferences.teachers import TeacherConfig
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.kinds import fit_reward
from offline_marl.training.preferences.answering import simulate
from offline_marl.training.preferences.asking import Plan, ask
from offline_marl.training.preferences.folders import ComparisonFolder

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "comparisons.csv"
SETS = {
    "rendezvous": "collect rendezvous --who left=1,random=4 --episodes 1000",
    "simple-spread": "collect simple-spread --who tier:expert=1,tier:medium=1,tier:trivial=1 --episodes 1500",
}
"""Continuous and discrete."""
PAIRS, TEACHER = 500, TeacherConfig(steepness="perfect")
COMMON = "--steps 2000 --cosine-steps 2000 --lr 1e-3 --hidden 64,64 --device cpu --eval-every 0 --final-episodes 500"
ROWS, OMIGA = "--batch-size 128", "--alpha 1"
LEARNERS = {
    "bc": f"bc {ROWS}",
    "omiga, true rewards": f"omiga {ROWS} {OMIGA}",
    "omiga, learned rewards": f"omiga {ROWS} {OMIGA} --reward-model {{rewards}}",
    "o-mapl": f"o-mapl {OMIGA} --preferences {{pairs}}",
    "o-mapl vdn": f"o-mapl {OMIGA} --mixer vdn --preferences {{pairs}}",
    "o-mapl independent": f"o-mapl {OMIGA} --mixer independent --preferences {{pairs}}",
}
KEY = ("set", "learner", "seed")
FIELDS = (*KEY, "return", "normalized_return", "commit", "wall_s")


def prepare(name: str, seed: int, out: Path) -> None:
    """The comparisons of a seed and the reward model that is fitted to them."""
    data, pairs, rewards = out / f"{name}.safetensors", out / f"{name}_pairs{seed}", out / f"{name}_rewards{seed}"
    with ComparisonFolder(pairs, make=True) as folder:
        if not folder.store.pairs():
            ask(folder, open_task(str(data)), Plan(budget=PAIRS, seed=seed))
        simulate(folder, TEACHER, seed=seed)
    if not (rewards / "DONE").exists():
        fit_reward(str(data), pairs, out=rewards, seed=seed, device="cpu", hidden=[64, 64], steps=1000)


def train(name: str, learner: str, seed: int, out: Path) -> None:
    """One run, and its row."""
    words = LEARNERS[learner].format(rewards=out / f"{name}_rewards{seed}", pairs=out / f"{name}_pairs{seed}").split()
    fresh = ["train", *words, *COMMON.split(), "--dataset", str(out / f"{name}.safetensors"), "--seed", str(seed)]
    folder = out / f"{name}_{learner.replace(', ', '_').replace(' ', '_')}_{seed}"
    if not trained(folder, fresh):
        return
    done = json.loads((folder / "DONE").read_text())
    score = {key: round(done["score"][key], 4) for key in ("return", "normalized_return")}
    rest = {"commit": commit_of(folder), "wall_s": done["wall_s"]}
    replace(RESULTS, [{"set": name, "learner": learner, "seed": seed, **score, **rest}], FIELDS, KEY)


def print_table() -> None:
    """Mean over seeds of the normalised return, and its least and most."""
    rows = read(RESULTS)
    names = [name for name in SETS if any(row["set"] == name for row in rows)]
    print("| learner |" + "".join(f" {name} |" for name in names))
    print("|---|" + "---|" * len(names))
    for learner in LEARNERS:
        cells = []
        for name in names:
            found = [float(r["normalized_return"]) for r in rows if (r["set"], r["learner"]) == (name, learner)]
            cells.append(f"{np.mean(found):.1f} [{min(found):.1f}, {max(found):.1f}] ({len(found)})" if found else "")
        print(f"| {learner} |" + "".join(f" {cell} |" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS])
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=[*LEARNERS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/comparisons"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="print the committed rows as a table, and do no more")
    options = parser.parse_args()
    if options.table:
        return print_table()
    out = options.out.absolute()
    cells = [(name, learner, seed) for seed in options.seeds for name in options.sets for learner in options.learners]
    plan = missing(RESULTS, KEY, cells)
    for name in dict.fromkeys(name for name, *_ in plan):
        if not (out / f"{name}.safetensors").exists():
            command([*SETS[name].split(), "--out", str(out / f"{name}.safetensors")], out / f"{name}.log")
    for name, seed in dict.fromkeys((name, seed) for name, _, seed in plan):
        prepare(name, seed, out)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda cell: train(*cell, out), plan))
    print_table()


if __name__ == "__main__":
    main()
