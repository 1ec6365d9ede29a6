"""The headline, in minutes: cloning and MOMA-PPO on data that holds two conventions. `make demo` runs this.

The elbow bends clockwise in one half of the episodes and counterclockwise in the other; each agent moves one joint
and sees no other. Cloning copies both halves and cannot agree; MOMA-PPO agrees inside a world model of the data.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import offline_marl
from offline_marl.algorithms.presets import read_preset
from offline_marl.training.run_picture import draw_conventions

DATASET = "reacher-scripted-mix-v0_2x1notip_0"


def settings(scale: float) -> dict[str, dict[str, Any]]:
    """Shorter schedules than the presets'."""

    def times(count: int) -> int:
        return max(2, round(count * scale))

    dreaming = read_preset("moma-ppo", DATASET)
    del dreaming["dataset"]
    dreaming |= {"steps": times(110), "cosine_steps": times(110), "eval_every": 0}
    dreaming["fit"] |= {"steps": times(3_500), "cosine_steps": times(3_500), "eval_every": times(500)}
    return {"bc": {"steps": times(4_000), "eval_every": 0}, "moma-ppo": dreaming}


def draw(out: Path, results: dict[str, offline_marl.Result]) -> Path:
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    spread, *maps = figure.subplots(1, 1 + len(results))
    for axes, (name, result) in zip(maps, results.items(), strict=True):
        score = result.score
        assert score is not None and score.normalized is not None and score.reference is not None
        assert score.conventions is not None
        values = [score.reference.normalized(value) for value in score.returns]
        spread.hist(values, bins=25, alpha=0.55, label=f"{name}: mean {score.normalized[0]:.0f}")
        draw_conventions(axes, score.conventions)
        axes.set_title(f"{name}: {axes.get_title()}")
    spread.axvline(100, color="grey", linestyle="--", linewidth=1, label="expert")
    spread.set(xlabel="normalized return", ylabel="episodes", title="100 evaluation episodes")
    spread.legend(frameon=False)
    figure.suptitle(f"{DATASET}: which way both joints bend, by target")
    path = out / "demo.png"
    figure.savefig(path, dpi=130)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the demo's runs, made anew")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of updates")
    options = parser.parse_args()
    results = {}
    for name, fields in settings(options.scale).items():
        folder = options.out / name
        if (folder / "config.json").exists():  # a run of an earlier demo, never anything else
            shutil.rmtree(folder)
        results[name] = offline_marl.train(name, DATASET, out=folder, **fields)
    picture = draw(options.out, results)
    print(f"\n{DATASET}: 0 is random, 100 is the expert")
    for name, result in results.items():
        print(f"  {name:8} {result.score}")
    print(f"picture: {picture}")
    print(f"model:   {results['moma-ppo'].folder / 'world_model' / 'report.png'}")
    print(f"go on:   .venv/bin/offline-marl evaluate {results['moma-ppo'].folder} --episodes 200")


if __name__ == "__main__":
    main()
