"""Who can play with whom: `python benchmarks/crossplay.py [--seeds N] [--runs DIR]`.

Trains bc and iql on Reacher data of either convention, agents seeing their own joint and the target alone, lets all
runs play together, and writes results/crossplay.csv and docs/pictures/crossplay.png. Runs that are there stay.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
STEPS = {"bc": 2_000, "iql": 3_000}
SMALL = ["--hidden", "64,64", "--lr", "0.001", "--eval-every", "0", "--device", "cpu"]
"""Small networks and few updates: the data is one expert's, and whoever imitates it reaches its score early."""
DATA = "reacher-scripted-{}-v0_2x1notip_0"
CONVENTIONS = ("clockwise", "counterclockwise")


def offline_marl(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "offline_marl", *words], cwd=HERE.parent, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each learner on each convention")
    parser.add_argument("--runs", type=Path, default=Path("runs/crossplay"), help="where runs are kept")
    flags = parser.parse_args()
    runs = []
    for algorithm, steps in STEPS.items():
        for convention in CONVENTIONS:
            for seed in range(flags.seeds):
                runs.append(flags.runs / f"{algorithm}_{convention}_{seed}")
                if not (runs[-1] / "DONE").exists():
                    words = ["--dataset", DATA.format(convention), "--steps", str(steps), "--seed", str(seed)]
                    offline_marl("train", algorithm, *words, *SMALL, "--out", str(runs[-1]))
    made = flags.runs / "crossplay"
    offline_marl("crossplay", *map(str, runs), "--out", str(made))
    shutil.copyfile(made / "crossplay.csv", HERE / "results" / "crossplay.csv")
    shutil.copyfile(made / "crossplay.png", HERE.parent / "docs" / "pictures" / "crossplay.png")


if __name__ == "__main__":
    main()
