"""MADDPG in MPE, each side against chance: `python benchmarks/sides.py [--seeds 0 1 2] [--jobs N] [--table]`.

Trains what is missing with the presets of MADDPG in Spread, Tag and Adversary; runs that were stopped go on. Of a
finished run each side is scored against the other side acting uniformly, and beside it uniform play of that side
itself, over the same episodes; Spread has one side. A row a run and side goes to results/sides.csv as the run ends.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rows import commit_of, missing, over_seeds, read, replace
from run import PRESETS, train

import offline_marl
from offline_marl.core.permissions import ImportPath
from offline_marl.environments.base import Seen, TeamActions
from offline_marl.environments.episodes import Memoryless, episode_seeds, run_episodes
from offline_marl.environments.scores import Score, summarize
from offline_marl.tasks.environment_tasks import find_environment_task

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "sides.csv"
TASKS = {
    "simple-spread": ("all",),
    "simple-tag": ("adversaries", "good"),
    "simple-adversary": ("adversaries", "good"),
}
"""With the sides that are scored."""
OTHER = {"adversaries": "good", "good": "adversaries"}
EPISODES = 100
FIELDS = (
    *("environment", "side", "seed", "environment_steps", "return", "return_low", "return_high"),
    *("random_return", "random_low", "random_high", "episodes", "commit", "wall_s"),
)


def settings_of(side: str) -> dict[str, Any]:
    """Settings of the environment in which this side is scored."""
    return {} if side == "all" else {"random_side": OTHER[side]}


def by_chance(task: str, side: str) -> Score:
    """Score of uniform play of the side."""
    env = find_environment_task(task, settings_of(side), permit=ImportPath).make(EPISODES)
    spec, draw = env.spec, np.random.default_rng(0)

    def act(seen: Seen, step: int) -> TeamActions:
        return draw.integers(0, spec.act_dims, (len(seen.obs), spec.n_agents))

    returns = sum(
        step.rewards.mean(1, dtype=np.float64)
        for step in run_episodes(env, episode_seeds(0, EPISODES), Memoryless(act))
    )
    env.close()
    return summarize(np.asarray(returns))


def rows_of(folder: Path) -> list[dict[str, object]]:
    """A finished run's rows, one for each side."""
    if not (folder / "DONE").exists():
        return []
    done, config = (json.loads((folder / name).read_text()) for name in ("DONE", "config.json"))
    task, rows = config["environment"], []
    for side in TASKS[task]:
        score = offline_marl.evaluate(folder, EPISODES, 0, task, settings_of(side))
        chance = by_chance(task, side)
        rows.append(
            {
                "environment": task,
                "side": side,
                "seed": config["seed"],
                "environment_steps": config["environment_steps"],
                "return": round(score.mean, 3),
                "return_low": round(score.low, 3),
                "return_high": round(score.high, 3),
                "random_return": round(chance.mean, 3),
                "random_low": round(chance.low, 3),
                "random_high": round(chance.high, 3),
                "episodes": EPISODES,
                "commit": commit_of(folder),
                "wall_s": done["wall_s"],
            }
        )
    return rows


def print_table() -> None:
    """A row for each task and side: the mean over seeds, the least and the largest, and uniform play."""
    print("| task | side | seeds | return (least to largest) | uniform play | environment steps |")
    print("|---|---|---|---|---|---|")
    for task, sides in TASKS.items():
        for side in sides:
            rows = [row for row in read(RESULTS) if (row["environment"], row["side"]) == (task, side)]
            if rows:
                ends = [float(row["return"]) for row in rows]
                chance, steps = float(rows[0]["random_return"]), int(rows[0]["environment_steps"])
                shown = over_seeds(ends)
                print(f"| `{task}` | {side} | {len(rows)} | {shown} | {chance:.1f} | {steps // 1000}k |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="which of the tasks")
    parser.add_argument("--out", type=Path, default=Path("runs/sides"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="train nothing: print the table of the committed CSV")
    options = parser.parse_args()

    def one(task: str, seed: int) -> list[dict[str, object]]:
        folder = options.out / f"maddpg_{task}_{seed}"
        if not (folder / "DONE").exists():
            train(PRESETS / "maddpg" / f"{task}.toml", seed, folder)
        return rows_of(folder)

    # Seed by seed, so that a call that is stopped leaves whole columns.
    cells = [(task, seed) for seed in options.seeds for task in options.tasks]
    plan = missing(RESULTS, ("environment", "seed"), cells)
    if not options.table:
        with ThreadPoolExecutor(options.jobs) as pool:
            for rows in pool.map(lambda each: one(*each), plan):
                if rows:
                    replace(RESULTS, rows, FIELDS, ("environment", "side", "seed"))
                    print(f"{rows[0]['environment']} {rows[0]['seed']}", file=sys.stderr)
    print_table()


if __name__ == "__main__":
    main()
