"""Return over real steps: `python benchmarks/marie_online.py [--seeds 0 1 2] [--jobs N] [--table] [--picture]`.

In Spread, 50,000 environment steps each: `marie`, which learns in a model of tokens of what it plays, beside `ma-ppo`
and `qmix`, which play alone. Evaluations of each run go to results/online/marie.csv as it ends; runs that were stopped
go on. The table says what each learner returns after so many steps, how many it takes to what `ma-ppo` reaches in the
end, and the hours that a run took.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rows

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "online" / "marie.csv"
PICTURE = HERE.parent / "docs" / "pictures" / "marie_online.png"
TASK, STEPS = "simple-spread", 50_000
LEARNERS: dict[str, tuple[str, ...]] = {
    "marie": (
        *("--environment-steps", str(STEPS)),
        *("--round-steps", "500", "--model-updates", "120", "--tokenizer-updates", "60", "--imagined-updates", "10"),
        *("--gamma", "0.95", "--lr", "1e-3", "--entropy-weight", "0.01"),
        *("--fit", "decoding=parallel,members=1", "--eval-every", "50"),
    ),
    # Of the presets, which are for many more steps: smaller batches, more updates a step, exploration that ends sooner.
    "ma-ppo": (
        *(
            "--preset",
            TASK,
            "--steps",
            str(STEPS // 500),
            "--batch-size",
            "500",
            "--minibatch-size",
            "125",
            "--cosine-steps",
            "100",
        ),
        *("--eval-every", "5"),
    ),
    "qmix": (
        *("--preset", TASK, "--environment-steps", str(STEPS), "--updates-per-step", "0.25"),
        *("--epsilon-steps", "10000", "--eval-every", "625"),
    ),
}
"""With their settings, so that each is scored about every 2,500 steps."""
FIELDS = ("algo", "seed", "environment_steps", "return", "return_low", "return_high", "episodes", "commit", "wall_s")
SHOWN = (5_000, 10_000, 20_000, 30_000, 50_000)


def rows_of(folder: Path) -> list[dict[str, object]]:
    """The evaluations of a finished run, the last one of its end."""
    done, config = (json.loads((folder / name).read_text()) for name in ("DONE", "config.json"))
    known = {"algo": config["algorithm"], "seed": config["seed"], "commit": rows.commit_of(folder)}
    told = []
    with (folder / "eval.csv").open() as stream:
        for row in csv.DictReader(stream):
            # On-policy learners play a batch for each update.
            played = row.get("environment_steps") or int(row["step"]) * config["settings"]["batch_size"]
            score = {name: row[name] for name in ("return", "return_low", "return_high", "episodes")}
            told.append({**known, "environment_steps": int(played), **score, "wall_s": ""})
    told[-1]["wall_s"] = round(done["wall_s"])
    return told


def curves(algo: str) -> list[list[tuple[int, float]]]:
    """Evaluations of each seed: environment steps and return."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows.read(RESULTS):
        if row["algo"] == algo:
            found.setdefault(row["seed"], []).append((int(row["environment_steps"]), float(row["return"])))
    return [sorted(curve) for curve in found.values()]


def first_to(curve: list[tuple[int, float]], value: float) -> str:
    return next((f"{steps / 1000:.0f}k" for steps, reached in curve if reached >= value), "never")


def print_table() -> None:
    """Mean return over seeds, with the least and the largest, at the last evaluation before so many steps."""
    print("| learner | seeds | " + " | ".join(f"{count // 1000}k" for count in SHOWN), end="")
    print(" | as `ma-ppo` in the end | hours a run |")
    print("|---|---|" + "---|" * (len(SHOWN) + 2))
    aim = np.mean([curve[-1][1] for curve in curves("ma-ppo")] or [np.inf])
    for algo in LEARNERS:
        if not (seeds := curves(algo)):
            continue
        cells = []
        for count in SHOWN:
            ends = [[value for steps, value in curve if steps <= 1.02 * count] for curve in seeds]
            values = [each[-1] for each in ends if each]
            cells.append(rows.over_seeds(values) if values else "")
        hours = [float(row["wall_s"]) / 3600 for row in rows.read(RESULTS) if row["algo"] == algo and row["wall_s"]]
        cells += [", ".join(first_to(curve, float(aim)) for curve in seeds), f"{np.mean(hours):.1f}"]
        print(f"| `{algo}` | {len(seeds)} | " + " | ".join(cells) + " |")


def draw() -> None:
    """Return over environment steps, a line a seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for number, algo in enumerate(LEARNERS):
        for seed, curve in enumerate(curves(algo)):
            axis.plot(*zip(*curve, strict=True), color=f"C{number}", alpha=0.8, label=None if seed else algo)
    axis.set(xlabel="environment steps", ylabel="return", title=TASK)
    axis.legend()
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS), help="which")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/marie_online"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="train nothing: print the table of the committed CSV")
    parser.add_argument("--picture", action="store_true", help="draw the picture of the page, too")
    options = parser.parse_args()

    def one(algo: str, seed: int) -> None:
        folder = options.out / f"{algo}_{seed}"
        # The end is scored as the evaluations before it, on the same 20 starts: others may be harder.
        fresh = ["train", algo, "--environment", TASK, *LEARNERS[algo], "--final-episodes", "20"]
        if rows.trained(folder, [*fresh, "--seed", str(seed)]):
            rows.replace(RESULTS, rows_of(folder), FIELDS, ("algo", "seed"))
            print(f"{algo}, seed {seed}", file=sys.stderr)

    # Seed by seed, so that a call that is stopped leaves whole columns.
    cells = [(algo, seed) for seed in options.seeds for algo in options.learners]
    plan = rows.missing(RESULTS, ("algo", "seed"), cells)
    if not options.table and plan:
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda each: one(*each), plan))
    print_table()
    if options.picture:
        draw()


if __name__ == "__main__":
    main()
