"""The main job, whole: data made, MAIQL and cloning trained on it, scored, drawn. `make demo` runs this.

Both learn from data that holds two conventions (the elbow bends clockwise in one half of the episodes,
counterclockwise in the other), each agent moves one joint and sees no other.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from matplotlib.figure import Figure

import offline_marl
from offline_marl.training.metrics import read_rows

DATASET = "reacher-scripted-mix-v0_2x1notip_0"
STEPS = {"bc": 4_000, "ma-iql": 3_000}


def draw(out: Path, results: dict[str, offline_marl.Result]) -> Path:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    curves, spread = figure.subplots(1, 2)
    for number, (name, result) in enumerate(results.items()):
        rows = [row for row in read_rows(result.folder / "metrics.jsonl") if row["kind"] == "eval"]
        steps = [row["step"] for row in rows]
        curves.plot(steps, [row["normalized_return"] for row in rows], marker="o", markersize=3, label=name)
        low, high = ([row[f"normalized_{end}"] for row in rows] for end in ("low", "high"))
        curves.fill_between(steps, low, high, alpha=0.2, linewidth=0)
        score = result.score
        assert score is not None and score.normalized is not None and score.reference is not None
        values = [score.reference.normalized(value) for value in score.returns]
        spread.hist(values, bins=25, alpha=0.55, label=f"{name}: mean {score.normalized[0]:.0f}", color=f"C{number}")
    for axes in (curves, spread):
        axes.legend(frameon=False)
    curves.axhline(100, color="grey", linestyle="--", linewidth=1)
    curves.set(xlabel="updates", ylabel="normalized return", title="learning curves, 95 % intervals (dashed: expert)")
    spread.set(xlabel="normalized return", ylabel="episodes", title="100 evaluation episodes at the end")
    figure.suptitle(DATASET)
    path = out / "demo.png"
    figure.savefig(path, dpi=130)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the demo's runs, made anew")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of updates")
    options = parser.parse_args()
    results = {}
    for name, steps in STEPS.items():
        folder = options.out / name
        if (folder / "config.json").exists():  # a run of an earlier demo, never anything else
            shutil.rmtree(folder)
        count = max(2, round(steps * options.scale))
        results[name] = offline_marl.train(
            name, DATASET, out=folder, steps=count, eval_every=max(1, count // 4), eval_episodes=50
        )
    picture = draw(options.out, results)
    print(f"\n{DATASET}: 0 is random, 100 is the expert")
    for name, result in results.items():
        print(f"  {name:7} {result.score}")
    print(f"picture: {picture}")
    print(f"go on:   .venv/bin/offline-marl evaluate {results['ma-iql'].folder} --episodes 200")


if __name__ == "__main__":
    main()
