"""Who agrees on a larger body: `python benchmarks/headline_body.py [--runs DIR]`, to be stopped and called again.

Two teams of ma-ppo learn HalfCheetah apart, each agent moving one leg. If they play as well together as each does by
itself, they share a convention, and that is the result. Else half of a data set comes from each, and bc, td3-bc,
ma-iql and moma-ppo learn from it what headline.toml's tuning chose for them on Reacher, an agent seeing its own leg
and the torso.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import headline_plan as plan  # noqa: E402 - its folder is on the path since the line before

BODY, CONF, VIEW = "halfcheetah", "2x3", "0t"
TEAMS = (100, 101)
TEAM = {"steps": 500, "batch-size": 4_000, "minibatch-size": 200, "hidden": "128,128", "activation": "tanh", "lr": 3e-4}
TEAM |= {"cosine-steps": 500, "gae-lambda": 0.95, "value-clip": 0.0, "entropy-weight": 0.0, "entropy-step": 0.0}
EPISODES, NOISE = 400, 0.1
SHARED = 0.9
"""Two teams that together keep this share of what each returns by itself share a convention."""
LEARNERS = ("bc", "td3-bc", "ma-iql", "moma-ppo")
SEEDS = (10, 11, 12)


def offline_marl(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "offline_marl", *words], check=True)


def make_teams(runs: Path) -> list[Path]:
    """Both teams, trained or trained on."""
    teams = [runs / f"team_{seed}" for seed in TEAMS]
    for team, seed in zip(teams, TEAMS, strict=True):
        if (team / "config.json").exists():
            offline_marl("resume", str(team))
        else:
            flags = [word for name, value in TEAM.items() for word in (f"--{name}", str(value))]
            place = ["--environment", f"{BODY}_{CONF}_full", "--seed", str(seed), "--out", str(team)]
            offline_marl("train", "ma-ppo", *place, *flags)
    return teams


def kept_together(table: Path) -> float:
    """What a mixed team returns, as a share of what teams return that learned together."""
    with table.open(newline="") as stream:
        rows = [(row["row"] == row["column"], float(row["return"])) for row in csv.DictReader(stream)]
    own, mixed = ([value for together, value in rows if together is kind] for kind in (True, False))
    return (sum(mixed) / len(mixed)) / (sum(own) / len(own))


def jobs(data: Path) -> Iterator[plan.Job]:
    """Runs of all learners whose settings were chosen."""
    rows = plan.read("rows")
    for name in LEARNERS:
        setting = plan.chosen(name, rows)
        if setting is None:
            sys.exit(f"error: {name} has no setting yet: the tuning of headline.toml comes first.")
        scaled = replace(setting, fields={**setting.fields, "reward_scale": "range"})
        for job in plan.scoring(scaled, f"{data}_{CONF}_{VIEW}", plan.PROTOCOL["budget"]["larger"]):
            if job.seed in SEEDS:
                yield replace(job, stage="body")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/body"), help="folder of the runs")
    runs = parser.parse_args().runs
    teams = [str(team) for team in make_teams(runs)]
    if not (runs / "crossplay" / "crossplay.csv").exists():
        offline_marl("crossplay", *teams, "--episodes", "20", "--out", str(runs / "crossplay"))
    plan.RESULTS.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(runs / "crossplay" / "crossplay.csv", plan.RESULTS / "body_crossplay.csv")
    share = kept_together(runs / "crossplay" / "crossplay.csv")
    print(f"together, agents of both teams keep {share:.0%} of the return of one")
    if share >= SHARED:
        print("they share one convention: nothing to agree on")
        return
    data = runs / "mix.safetensors"
    if not data.exists():
        who = ",".join(f"{team}=1" for team in teams)
        offline_marl(
            *("collect", BODY, "--who", who, "--noise", str(NOISE), "--episodes", str(EPISODES), "--out", str(data))
        )

    import headline
    import headline_job

    found = []
    for job in jobs(data):
        folder = runs / job.setting.learner / f"seed{job.seed}"
        if not (folder / "row.json").exists():
            headline_job.carry_out(job, folder)
        found.append(json.loads((folder / "row.json").read_text()))
        headline.write("body", headline.ROW, found)


if __name__ == "__main__":
    main()
