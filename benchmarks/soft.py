"""`masac` with one agent beside a plain SAC: `python benchmarks/soft.py [--seeds 0 1 2 3 4] [--jobs N] [--table]`.

On whole bodies as one agent, 100,000 environment steps each. Trains what is missing with the presets of MASAC, and
with plain_sac.py; a row a run goes to results/soft.csv as it ends, and what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import plain_sac
import torch
from rows import commit_of, missing, over_seeds, read, replace
from run import PRESETS, train

from offline_marl.environments.scores import summarize
from offline_marl.runs.software import describe_software, short_commit

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "soft.csv"
BODIES = {"hopper_1x3_full": "Hopper-v5", "halfcheetah_1x6_full": "HalfCheetah-v5"}
LEARNERS = ("masac", "plain SAC")
STEPS, WARMUP, EPISODES = 100_000, 5_000, 100
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
    "wall_s",
)


def of_masac(body: str, seed: int, out: Path) -> dict[str, object] | None:
    """A row of the library's learner; None if it did not end."""
    folder = out / f"masac_{body}_{seed}"
    if not (folder / "DONE").exists():
        train(PRESETS / "masac" / f"{body}.toml", seed, folder)
    if not (folder / "DONE").exists():
        return None
    done = json.loads((folder / "DONE").read_text())
    score = {name: round(done["score"][name], 2) for name in ("return", "return_low", "return_high")}
    return {
        **row("masac", body, seed),
        **score,
        "episodes": done["score"]["episodes"],
        "commit": commit_of(folder),
        "wall_s": done["wall_s"],
    }


def of_plain(body: str, seed: int) -> dict[str, object]:
    """A row of the plain one."""
    torch.set_num_threads(1)
    commit = short_commit(describe_software().get("commit") or "")
    returns, seconds = plain_sac.train(BODIES[body], seed, STEPS, WARMUP, EPISODES)
    score = summarize(returns)
    told = {"return": round(score.mean, 2), "return_low": round(score.low, 2), "return_high": round(score.high, 2)}
    return {**row("plain SAC", body, seed), **told, "episodes": EPISODES, "commit": commit, "wall_s": round(seconds, 1)}


def row(algo: str, body: str, seed: int) -> dict[str, object]:
    return {"algo": algo, "environment": body, "seed": seed, "environment_steps": STEPS}


def one(algo: str, body: str, seed: int, out: Path) -> dict[str, object] | None:
    return of_masac(body, seed, out) if algo == "masac" else of_plain(body, seed)


def print_table() -> None:
    """A row for each body and learner: the mean over seeds, the least and the largest."""
    print("| body | learner | seeds | return (least to largest) |")
    print("|---|---|---|---|")
    for body in BODIES:
        for algo in LEARNERS:
            ends = [float(r["return"]) for r in read(RESULTS) if (r["environment"], r["algo"]) == (body, algo)]
            if ends:
                print(f"| `{body}` | {algo} | {len(ends)} | {over_seeds(ends, 0)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--bodies", nargs="+", choices=BODIES, default=list(BODIES), help="which bodies")
    parser.add_argument("--out", type=Path, default=Path("runs/soft"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="train nothing: print the table of the committed CSV")
    options = parser.parse_args()
    cells = [(algo, body, seed) for seed in options.seeds for body in options.bodies for algo in LEARNERS]
    plan = missing(RESULTS, ("algo", "environment", "seed"), cells)
    if not options.table:
        with ProcessPoolExecutor(options.jobs) as pool:
            for ended in pool.map(one, *zip(*plan, strict=True), [options.out] * len(plan)) if plan else []:
                if ended is not None:
                    replace(RESULTS, [ended], FIELDS, ("environment", "algo", "seed"))
                    print(f"{ended['algo']} {ended['environment']} {ended['seed']}", file=sys.stderr)
    print_table()


if __name__ == "__main__":
    main()
