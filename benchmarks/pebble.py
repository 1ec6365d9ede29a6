"""PEBBLE beside `masac` on true and on useless rewards: `python benchmarks/pebble.py [--seeds 0 1 2] [--table]`.

Trains what is missing, the smallest runs first, and goes on with what was stopped; a row a run goes to
results/pebble.csv as it ends. Exploration is trained once per body and seed; all runs that begin with it take it over.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rows import commit_of, read, replace

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "pebble.csv"
FIELDS = (
    *("environment", "variant", "seed", "environment_steps", "labels", "return", "return_low", "return_high"),
    *("episodes", "correlation", "accuracy_of_new", "commit", "wall_s"),
)
COMMON = {
    "hidden": [128, 128],
    "batch_size": 128,
    "critic_lr": 1e-3,
    "policy_every": 2,
    "standardize_obs": False,
    "eval_every": 0,
    "final_episodes": 100,
    "device": "cpu",
}
TEACHER = {
    "teacher": "simulated",
    "teacher_settings": {"steepness": "perfect"},
    "queries_per_round": 50,
    "reward_fit": {"hidden": [64, 64], "alpha": 0.0, "batch_size": 32},
}
SURF = {**TEACHER, "reward_fit": {**TEACHER["reward_fit"], "surf_weight": 0.5, "surf_threshold": 0.95}}  # type: ignore[dict-item]


@dataclass(frozen=True)
class Body:
    """Lengths of the runs on one body."""

    name: str
    steps: int
    warm: int
    explore: int
    queries: int
    variants: tuple[str, ...]


BODIES = (
    Body(
        "reacher_2x1_full",
        30_000,
        1_000,
        3_000,
        1_000,
        ("true reward", "useless reward", "PEBBLE", "without SURF", "without exploration", "uniform pairs"),
    ),
    Body(
        "hopper_1x3_full",
        100_000,
        5_000,
        5_000,
        1_400,
        ("true reward", "useless reward", "PEBBLE", "segments of one length"),
    ),
)


@dataclass(frozen=True)
class Cell:
    """One run."""

    body: Body
    variant: str
    seed: int
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What the table tells it by."""
        return self.body.name, self.variant, str(self.seed)


def explored(body: Body, seed: int, out: Path) -> Path:
    """Folder of the exploration of a body."""
    return out / f"explored_{body.name}_{seed}"


def cell(body: Body, variant: str, seed: int, out: Path) -> Cell:
    """The run of a variant; all live through the same number of environment steps, explorations among them."""
    fields = {**COMMON, "seed": seed, "environment": body.name}
    before = body.warm + body.explore
    if variant in {"true reward", "useless reward", "without exploration"}:
        fields |= {"environment_steps": body.steps, "warmup_steps": body.warm}
    else:
        fields |= {"environment_steps": body.steps - before, "init": str(explored(body, seed, out))}
    if variant != "true reward":
        fields |= {**SURF, "queries": body.queries}
    changed: dict[str, dict[str, Any]] = {
        "useless reward": {"queries": 0},
        "without SURF": dict(TEACHER),
        "uniform pairs": {"query_select": "uniform"},
        "segments of one length": {"query_to_end": False},
    }
    return Cell(body, variant, seed, {**fields, **changed.get(variant, {})})


def run(algorithm: str, fields: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """Train or go on in a process of its own; what its mark says, None if it did not end."""
    program = [sys.executable, "-m", "offline_marl"]
    if (folder / "config.json").exists():
        command = [*program, "resume", str(folder)]
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        settings = folder.with_suffix(".json")
        settings.write_text(json.dumps(fields))
        command = [*program, "train", algorithm, "--config", str(settings), "--out", str(folder)]
    if not (folder / "DONE").exists():
        with folder.with_suffix(".log").open("a") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
    if not (folder / "DONE").exists():
        print(f"FAILED  {folder}", file=sys.stderr)
        return None
    done: dict[str, Any] = json.loads((folder / "DONE").read_text())
    return done


def explore(body: Body, seed: int, out: Path) -> bool:
    """Explore a body for nobody in particular."""
    fields = {
        **COMMON,
        "seed": seed,
        "environment": body.name,
        "warmup_steps": body.warm,
        "explore_steps": body.explore,
        "environment_steps": body.warm + body.explore,
        "final_episodes": 1,
    }
    return run("masac", fields, explored(body, seed, out)) is not None


def train(one: Cell, out: Path) -> dict[str, Any] | None:
    """The row of a cell."""
    if "init" in one.fields and not explore(one.body, one.seed, out):
        return None
    folder = out / f"{one.variant.replace(' ', '_')}_{one.body.name}_{one.seed}"
    done = run("masac", one.fields, folder)
    if done is None:
        return None
    score = {name: round(done["score"][name], 2) for name in ("return", "return_low", "return_high")}
    last: dict[str, Any] = {}
    if (folder / "rounds.jsonl").exists():
        last = json.loads((folder / "rounds.jsonl").read_text().splitlines()[-1])
    told = {name: "" if last.get(name) is None else round(last[name], 3) for name in ("correlation", "accuracy_of_new")}
    return {
        "environment": one.body.name,
        "variant": one.variant,
        "seed": one.seed,
        "environment_steps": one.body.steps,
        "labels": done.get("labels", 0),
        **score,
        "episodes": done["score"]["episodes"],
        **told,
        "commit": commit_of(folder),
        "wall_s": done["wall_s"],
    }


def table() -> list[str]:
    """A line for each body and variant: the mean over seeds, and each of them."""
    lines = ["| environment | variant | seeds | return: mean (each) | correlation |", "|---|---|---|---|---|"]
    for body in BODIES:
        for variant in body.variants:
            rows = [row for row in read(RESULTS) if (row["environment"], row["variant"]) == (body.name, variant)]
            if not rows:
                continue
            ends, told = [float(row["return"]) for row in rows], [row["correlation"] for row in rows]
            each = ", ".join(f"{end:.1f}" for end in ends)
            lines.append(
                f"| `{body.name}` | {variant} | {len(rows)} | {sum(ends) / len(ends):.1f} ({each}) | "
                f"{', '.join(filter(None, told)) or '-'} |"
            )
    return lines


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bodies", nargs="+", choices=[body.name for body in BODIES], help="which bodies")
    parser.add_argument("--out", type=Path, default=Path("runs/pebble"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="train nothing: print the table of the committed CSV")
    options = parser.parse_args()
    have = {(row["environment"], row["variant"], row["seed"]) for row in read(RESULTS)}
    wanted = [body for body in BODIES if options.bodies is None or body.name in options.bodies]
    if not options.table:
        for body in wanted:
            for seed in options.seeds:
                for variant in body.variants:
                    one = cell(body, variant, seed, options.out.absolute())
                    row = None if one.key in have else train(one, options.out.absolute())
                    if row is not None:
                        replace(RESULTS, [row], FIELDS, ("environment", "variant", "seed"))
                        print(f"{row['return']:>8}  {body.name} {variant} {seed}", file=sys.stderr)
    print("\n".join(table()))


if __name__ == "__main__":
    main()
