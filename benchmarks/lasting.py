"""What lasts 100,000 updates: `python benchmarks/lasting.py [--seeds 0 1] [--jobs N] [--table]`.

Trains MAIQL, as published and with what is said to keep mixed values in bounds, and OMAR, on the Reacher data of two
conventions with the presets' sizes, and writes the evaluations of each run to results/lasting.csv as it ends. Runs
that were stopped go on. Two arms are no settings of the library; they are subclasses here. The table says what agents
return and how often they agree after so many updates, always on the same starts.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from rows import commit_of, missing, over_seeds, read, replace
from torch import Tensor

import offline_marl
from offline_marl.algorithms.base import algorithms, present_next, team_ended, team_rewards
from offline_marl.algorithms.ma_iql import MAIQL, MAIQLConfig
from offline_marl.core.types import Batch, Spec
from offline_marl.losses import bellman
from offline_marl.networks.targets import frozen_copy

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "lasting.csv"
DATA = "reacher-scripted-mix-v0_2x1notip_0"
COMMON: dict[str, Any] = {"hidden": [128, 128], "batch_size": 128, "device": "cpu", "log_every": 1_000}
COMMON |= {"eval_seed": 1_000, "eval_episodes": 50, "final_episodes": 50, "checkpoint_every": 5_000}
STEPS = {"ma-iql": 100_000, "omar": 30_000}
"""Updates of a run; one of OMAR takes twice as long as one of MAIQL."""
POINTS = 10
"""Evaluations of a run."""


class Bounded(MAIQL):
    """MAIQL whose targets stay between the least and the largest return-to-go of the data."""

    worst_team: Tensor

    def __init__(self, config: MAIQLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.register_buffer("worst_team", torch.tensor(worst_value(config.gamma)))

    def td_targets(self, batch: Batch) -> Annotated[Tensor, "batch"]:
        """Not below what the worst episode returns."""
        return super().td_targets(batch).clamp(min=self.worst_team)


class SlowValue(MAIQL):
    """MAIQL that bootstraps from a slow copy of V and its mixer, as OMIGA does."""

    def __init__(self, config: MAIQLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.target_value, self.target_v_mixer = frozen_copy(self.value), frozen_copy(self.v_mixer)

    def td_targets(self, batch: Batch) -> Annotated[Tensor, "batch"]:
        """The same with the slow copies."""
        values = self.target_value(self.target_inputs(batch.next_obs, batch.next_history))
        next_v = self.target_v_mixer(values.unsqueeze(0), self.joint(batch.next_obs), present_next(batch))[0]
        target = bellman.td_target(team_rewards(batch), team_ended(batch), next_v, self.config.gamma)
        return target.clamp(max=self.best_team)


ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "ma-iql, as published": ("ma-iql", {}),
    "ma-iql, gamma .9": ("ma-iql", {"gamma": 0.9}),
    "ma-iql, monotonic": ("ma-iql", {"mixer": "monotonic"}),
    "ma-iql, a sum": ("ma-iql", {"mixer": "vdn"}),
    "ma-iql, SVN": ("ma-iql", {"normalize_values": True}),
    "ma-iql, targets in bounds": ("bounded-ma-iql", {}),
    "ma-iql, slow V": ("slow-value-ma-iql", {}),
    "ma-iql, cosine": ("ma-iql", {"cosine_steps": STEPS["ma-iql"]}),
    "omar, as published": ("omar", {}),
    "omar, bc_weight 1": ("omar", {"bc_weight": 1.0}),
    "omar, gamma .9": ("omar", {"gamma": 0.9}),
    "omar, cosine": ("omar", {"cosine_steps": STEPS["omar"]}),
}
"""Algorithm and settings, beside those that all have."""
FIELDS = ("arm", "seed", "updates", "normalized_return", "agreement", "q", "critic_loss", "commit")
KEY = ("arm", "seed", "updates")


def worst_value(gamma: float) -> float:
    """The least discounted return-to-go of the team in the data."""
    data = offline_marl.load_dataset(DATA)
    worst, at = 0.0, 0
    for length in data.lengths.tolist():
        ahead = 0.0
        for reward in reversed(data.rewards[at : at + length].mean(-1).tolist()):
            ahead = reward + gamma * ahead
            worst = min(worst, ahead)
        at += length
    return worst


def fields_of(arm: str, seed: int) -> dict[str, Any]:
    """All that an arm's run is given."""
    steps = STEPS[arm.partition(",")[0]]
    own = {"cql_samples": 4} if arm.startswith("omar") else {}
    return {**COMMON, **own, **ARMS[arm][1], "steps": steps, "eval_every": steps // POINTS, "seed": seed}


def train(arm: str, seed: int, folder: Path) -> None:
    """Train, or go on, in this process."""
    torch.set_num_threads(1)
    algorithms.register("bounded-ma-iql")(Bounded)
    algorithms.register("slow-value-ma-iql")(SlowValue)
    if (folder / "config.json").exists():
        offline_marl.resume(folder)
    else:
        offline_marl.train(ARMS[arm][0], DATA, out=folder, **fields_of(arm, seed))


def evaluations(arm: str, seed: int, folder: Path) -> list[dict[str, object]]:
    """Rows of a finished run."""
    with (folder / "metrics.csv").open() as stream:
        logged = {row["step"]: row for row in csv.DictReader(stream)}
    rows = []
    with (folder / "eval.csv").open() as stream:
        for row in csv.DictReader(stream):
            metrics = logged[row["step"]]
            known = {"arm": arm, "seed": seed, "updates": row["step"], "commit": commit_of(folder)}
            values = {name: round(float(row[name]), 3) for name in ("normalized_return", "agreement")}
            q, loss = (float(metrics[name]) for name in ("q/mean", "loss/critic"))
            rows.append({**known, **values, "q": f"{q:.3g}", "critic_loss": f"{loss:.3g}"})
    return rows


def one(arm: str, seed: int, out: Path) -> None:
    """A run in a process of its own, and its rows."""
    folder = out / f"{arm.replace(', ', '_').replace(' ', '-')}_{seed}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not (folder / "DONE").exists():
        job = [sys.executable, __file__, "--job", arm, "--seeds", str(seed), "--out", str(folder)]
        with folder.with_suffix(".log").open("a") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            code = subprocess.run(job, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False).returncode
        if code:
            print(f"FAILED  {folder}", file=sys.stderr)
            return
    replace(RESULTS, evaluations(arm, seed, folder), FIELDS, KEY)
    print(f"done  {folder}", file=sys.stderr)


def table() -> None:
    """Normalised return over updates, mean over seeds with the least and the largest, and the mean agreement."""
    rows = read(RESULTS)
    for algorithm, steps in STEPS.items():
        shown = [steps // 10, steps // 5, steps // 2, steps]
        mine = {arm: [row for row in rows if row["arm"] == arm] for arm in ARMS if arm.startswith(algorithm)}
        if not any(mine.values()):
            continue
        counts = " | ".join(f"{count:,}" for count in shown)
        print(f"| `{algorithm}` | seeds | {counts} | mean Q, critic's loss at the end |")
        print("|---|---|" + "---|" * (len(shown) + 1))
        for arm, held in mine.items():
            if not held:
                continue
            at = {count: [row for row in held if int(row["updates"]) == count] for count in shown}
            cells = [
                f"{over_seeds([float(row['normalized_return']) for row in here])}, {_mean(here, 'agreement'):.2f}"
                for here in at.values()
            ]
            end = at[steps]
            ended = f"{_mean(end, 'q'):.1f}, {_mean(end, 'critic_loss'):.2g}"
            print(f"| {arm.partition(', ')[2]} | {len(end)} | {' | '.join(cells)} | {ended} |")
        print()


def _mean(rows: list[dict[str, str]], name: str) -> float:
    return float(np.mean([float(row[name]) for row in rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/lasting"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="train nothing: print the table of the committed CSV")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        train(options.job, options.seeds[0], options.out)
        return
    if not options.table:
        plan = missing(RESULTS, ("arm", "seed"), [(arm, seed) for seed in options.seeds for arm in ARMS])
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda each: one(*each, options.out), plan))
    table()


if __name__ == "__main__":
    main()
