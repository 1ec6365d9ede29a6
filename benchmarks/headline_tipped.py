"""What tells agents which convention: `python benchmarks/headline_tipped.py [--out FOLDER] [--jobs N] [--table]`.

Trains MAIQL, which agrees in the coordination game, on the game's data without some of the episodes that all three
agents begin with blue. The fewer are left, the less a first blue is worth to each agent beside a first red; the table
says by how much, and what each run settles on. Rows go to results/tipped.csv as runs end.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from rows import commit_of, missing, read, replace, trained

import offline_marl
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.episode_index import starts
from offline_marl.environments.coordination import CONVENTIONS, STEPS, Coordination
from offline_marl.environments.episodes import episode_seeds, play

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "tipped.csv"
DATA = "coordination-mix-v0"
GAMMA = 0.9
LEFT_OUT, SEEDS = (0, 66, 133, 200), (10, 11, 12, 13, 14)
RED, BLUE = CONVENTIONS.index("red"), CONVENTIONS.index("blue")
SETTINGS = "--hidden 128,128 --batch-size 128 --window 0 --mixer monotonic --steps 6000 --cosine-steps 6000"
"""Those that the headline's protocol chose, with fewer updates."""
WORTH = ("worth_0", "worth_1", "worth_2")
FIELDS = ("left_out", "seed", *WORTH, "followed", "return", "commit")


def tipped(left_out: int) -> Dataset:
    """The data without so many of the episodes that all agents begin with blue."""
    data = offline_marl.load_dataset(DATA)
    begun = data.actions[starts(data.lengths)]
    kept = torch.ones(len(data.lengths), dtype=torch.bool)
    kept[(begun == BLUE).all(1).nonzero().flatten()[:left_out]] = False
    return data.select(kept)


def worths(data: Dataset) -> list[float]:
    """How much more episodes return, discounted, in which an agent begins with blue than those with red."""
    begun, steps = data.actions[starts(data.lengths)], torch.arange(STEPS)
    returns = (data.rewards.mean(-1).view(-1, STEPS) * GAMMA**steps).sum(-1)
    return [float(returns[own == BLUE].mean() - returns[own == RED].mean()) for own in begun.T]


def one(left_out: int, seed: int, out: Path) -> None:
    """A run, and its row."""
    folder, file = out / f"{left_out}_{seed}", out / f"without_{left_out}.safetensors"
    words = ["train", "ma-iql", "--dataset", str(file), *SETTINGS.split(), "--gamma", str(GAMMA), "--seed", str(seed)]
    if not trained(folder, [*words, "--eval-every", "0", "--final-episodes", "1"]):
        return
    episode = play(offline_marl.load(folder), Coordination.make(None, 1), episode_seeds(0, 1))
    assert episode.ends is not None, "the game's last states are known"
    conventions = Coordination.conventions(episode.ends, None)
    row = {
        **{"left_out": left_out, "seed": seed, "return": float(episode.returns[0]), "commit": commit_of(folder)},
        **{name: round(value, 4) for name, value in zip(WORTH, worths(tipped(left_out)), strict=True)},
        "followed": " ".join(conventions.names[choice] for choice in conventions.followed[0]),
    }
    replace(RESULTS, [row], FIELDS, ("left_out", "seed"))
    print(f"done  {folder}: {row['followed']}", file=sys.stderr)


def table() -> None:
    """What first blue is worth to each agent, and how many runs settle on what."""
    rows = read(RESULTS)
    worth = "what a first blue returns more to each agent, discounted"
    print(f"| episodes left out | {worth} | runs | all blue | all red | parted |")
    print("|---|---|---|---|---|---|")
    for left_out in LEFT_OUT:
        held = [row for row in rows if row["left_out"] == str(left_out)]
        if held:
            worth = ", ".join(f"{float(held[0][name]):+.3f}" for name in WORTH)
            ways = Counter(row["followed"] for row in held)
            blue, red = (ways[" ".join([way] * len(WORTH))] for way in ("blue", "red"))
            print(f"| {left_out} | {worth} | {len(held)} | {blue} | {red} | {len(held) - blue - red} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/tipped"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="train nothing: print the table of the committed CSV")
    options = parser.parse_args()
    if not options.table:
        plan = missing(RESULTS, ("left_out", "seed"), [(count, seed) for count in LEFT_OUT for seed in SEEDS])
        options.out.mkdir(parents=True, exist_ok=True)
        for count in {count for count, _ in plan}:
            tipped(count).save(options.out / f"without_{count}.safetensors")
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda each: one(*each, options.out), plan))
    table()


if __name__ == "__main__":
    main()
