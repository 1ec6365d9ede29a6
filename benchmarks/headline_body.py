"""Who agrees on a larger body: `python benchmarks/headline_body.py [--runs DIR] [--table]`. It may be stopped.

Two teams of ma-ppo learn HalfCheetah apart, each agent moving one leg. If agents of both play together as well as one
team does, they share a convention, and that is the result. Else half of a data set comes from each, and bc, td3-bc,
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
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import headline_plan as plan  # noqa: E402 - its folder is on the path since the line before

BODY, CONF, VIEW = "halfcheetah", "2x3", "0t"
TEAMS = (100, 101)
TEAM = {"steps": 500, "batch-size": 4_000, "minibatch-size": 200, "hidden": "128,128", "activation": "tanh", "lr": 3e-4}
TEAM |= {"cosine-steps": 500, "gae-lambda": 0.95, "value-clip": 0.0, "entropy-weight": 0.0, "entropy-step": 0.0}
EPISODES, NOISE = 400, 0.1
SHARED = 0.9
"""Two teams share a convention if both ways of mixing them keep this share of what they return by themselves."""
LEARNED = 500.0
"""What a team returns at least that runs at all; one that stands still returns 0."""
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
    """What the worse way of mixing two teams returns, as a share of what teams return that learned together.

    Raises:
        SystemExit: A team did not learn.
    """
    with table.open(newline="") as stream:
        rows = [(row["row"] == row["column"], float(row["return"])) for row in csv.DictReader(stream)]
    own, mixed = ([value for together, value in rows if together is kind] for kind in (True, False))
    if min(own) < LEARNED:
        sys.exit(f"error: a team returns {min(own):.0f} by itself: it did not learn, and who shares what is not known.")
    return min(mixed) / (sum(own) / len(own))


def chosen() -> list[plan.Setting]:
    """What the tuning on Reacher chose of every learner.

    Raises:
        SystemExit: Not all of it has ended.
    """
    rows = plan.read("rows")
    found = {name: plan.chosen(name, rows) for name in LEARNERS}
    for name, setting in found.items():
        if setting is None:
            sys.exit(f"error: {name} has no setting yet: the tuning of headline.toml comes first.")
    return [setting for setting in found.values() if setting is not None]


def jobs(settings: Iterable[plan.Setting], data: Path) -> Iterator[plan.Job]:
    """Runs of all learners on the data of both teams."""
    for setting in settings:
        scaled = replace(setting, fields={**setting.fields, "reward_scale": "range"})
        for job in plan.scoring(scaled, f"{data}_{CONF}_{VIEW}", plan.PROTOCOL["budget"]["larger"]):
            if job.seed in SEEDS:
                yield replace(job, stage="body")


def tables() -> Iterator[str]:
    """Returns of both teams, mixed and not, and of who learned from them."""
    cross = plan.read("body_crossplay")
    if not cross:
        yield "No team has been trained yet."
        return
    yield "| a leg of | the other of | return | |"
    yield "|---|---|---|---|"
    for row in cross:
        together = "learned together" if row["row"] == row["column"] else ""
        yield f"| `{row['row']}` | `{row['column']}` | {float(row['return']):,.0f} | {together} |"
    rows = plan.read("body")
    if rows:
        yield ""
        yield "| learner | setting | updates | processor time | return, by seed |"
        yield "|---|---|---|---|---|"
    for name in dict.fromkeys(row["learner"] for row in rows):
        held = [row for row in rows if row["learner"] == name]
        returns = ", ".join(f"{float(row['return']):,.0f}" for row in held)
        seconds = fmean(float(row["cpu_s"]) for row in held)
        yield f"| `{name}` | `{held[0]['setting']}` | {int(held[0]['updates']):,} | {seconds:.0f} s | {returns} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/body"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="train nothing: print the tables of the committed rows")
    options = parser.parse_args()
    if options.table:
        print("\n".join(tables()))
    else:
        carry_out_all(options.runs, chosen())


def carry_out_all(runs: Path, settings: Iterable[plan.Setting]) -> None:
    """Teams, what they return together, and, unless they share a convention, the learners."""
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
    for job in jobs(settings, data):
        folder = runs / job.setting.learner / f"seed{job.seed}"
        if not (folder / "row.json").exists():
            headline_job.carry_out(job, folder)
        found.append(json.loads((folder / "row.json").read_text()))
        plan.write("body", headline.ROW, found)


if __name__ == "__main__":
    main()
