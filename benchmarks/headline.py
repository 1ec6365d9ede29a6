"""Who agrees where the data holds two conventions, with the same care for everybody: `python benchmarks/headline.py`.

Carries out what headline.toml declares, one job at a time, and can be stopped at any moment and called again: tuning,
scores, larger budgets. Called twice it does two jobs at a time. When nothing is missing it plays every scored run again
on other starts, and collects all rows. Call it in a clone that stays at one commit; rows are brought into another one
by --collect.

    python benchmarks/headline.py --status             what is done, and how long the rest takes
    python benchmarks/headline.py --again RUNS         play the scored runs that have ended once more
    python benchmarks/headline.py --collect RUNS       bring finished rows into benchmarks/results/headline
    python benchmarks/headline.py --restore RUNS       the other way round, so that another machine goes on
    python benchmarks/headline.py --table              the tables of the committed rows
    python benchmarks/headline.py --page               the same into docs/results.md, and pictures of scores and curves
    python benchmarks/headline.py --report FILE        the committed scores as a table that `offline-marl report` reads
    python benchmarks/headline.py --budget             measure budget and counts of updates anew: another protocol
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import headline_again  # noqa: E402 - its folder is on the path since the line before
import headline_plan as plan  # noqa: E402
import headline_tables  # noqa: E402

from offline_marl.core.locks import BusyError, locked  # noqa: E402
from offline_marl.runs.folder import write_json  # noqa: E402

ROW = ["stage", "dataset", "learner", "setting", "factor", "seed", "starts", "updates", "normalized_return"]
ROW += ["low", "high", "return", "agreement", "agreement_strict", "episodes", "cpu_s", "commit", "command"]
CURVE = ["stage", "dataset", "learner", "setting", "factor", "seed", "updates", "cpu_s", "normalized_return"]
CURVE += ["return", "agreement", "agreement_strict", "commit"]
POINT = CURVE[6:-1]
MOST_TRIES = 2
WAIT = 10.0
"""Seconds until it is looked again, where all that is missing is others' work."""


def finished(runs: Path) -> list[plan.Row]:
    """Rows of all jobs that have ended, as text."""
    found = [json.loads(path.read_text()) for path in sorted(runs.glob("*/*/*/*/row.json"))]
    return [{name: str(value) for name, value in row.items()} for row in found]


def carry_out_all(runs: Path) -> None:
    """All jobs that are missing, one after the other, beside other processes that do the same."""
    failed: dict[str, int] = {}
    while missing := [
        job for job in plan.jobs(finished(runs)) if is_open(job, runs) and failed.get(job.key, 0) < MOST_TRIES
    ]:
        if not any(carry_out(job, runs, failed) for job in missing):
            time.sleep(WAIT)
    if lost := [key for key, times in failed.items() if times >= MOST_TRIES]:
        sys.exit(f"error: {len(lost)} jobs failed, see their logs: {', '.join(lost)}")


def carry_out(job: plan.Job, runs: Path, failed: dict[str, int]) -> bool:
    """One job, in a process of its own; False if another process is at it."""
    command = [sys.executable, str(Path(__file__)), "--job", job.key, "--runs", str(runs)]
    log = runs / f"{job.key}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(log.with_suffix(".lock")), log.open("a") as stream:
            if not is_open(job, runs):
                return True
            code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    except BusyError:
        return False
    failed[job.key] = failed.get(job.key, 0) + (code != 0)
    print(f"{'done' if code == 0 else 'FAILED'}  {job.key}", file=sys.stderr, flush=True)
    return True


def is_open(job: plan.Job, runs: Path) -> bool:
    """Whether a job has not ended."""
    return not (runs / job.key / "row.json").exists()


def collect(runs: Path) -> None:
    """Write into the tables what has ended there; what they hold of other runs stays."""
    rows = {place(row): dict(row) for row in plan.read("rows")}
    points: dict[str, list[dict[str, Any]]] = {}
    for point in plan.read("curves"):
        points.setdefault(place(point), []).append(dict(point))
    for path in runs.glob("*/*/*/*/row.json"):
        row = json.loads(path.read_text())
        rows[place(row)] = row
        points[place(row)] = [
            {**row, **point} for point in json.loads((path.parent / "curve.json").read_text())["points"]
        ]
    plan.write("rows", ROW, (rows[key] for key in sorted(rows)))
    commits = {key: {"commit": row["commit"]} for key, row in rows.items()}
    plan.write("curves", CURVE, ({**point, **commits[key]} for key in sorted(points) for point in points[key]))
    headline_again.collect(runs)
    print(f"{len(rows)} rows in {plan.RESULTS}", file=sys.stderr)


def restore(runs: Path) -> None:
    """Lay the committed rows and curves where their jobs left them, so that these are not carried out again."""
    points: dict[str, list[dict[str, Any]]] = {}
    for point in plan.read("curves", plan.RESULTS):
        points.setdefault(place(point), []).append({name: point[name] for name in POINT})
    count = 0
    for row in plan.read("rows", plan.RESULTS):
        folder = runs / place(row)
        if not (folder / "row.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "curve.json", {"points": points.get(place(row), [])})
            write_json(folder / "row.json", row)
            count += 1
    print(f"{count} rows restored in {runs}", file=sys.stderr)


def place(row: Mapping[str, Any]) -> str:
    """The folder of a row's job."""
    return plan.folder_of(*(row[name] for name in ROW[:4]), float(row["factor"]), row["seed"])


def show_status(runs: Path) -> None:
    """Jobs of this folder that are done and missing, and the processor time of the missing ones, about."""
    budget = float(plan.read("updates")[0]["budget_s"])
    kinds: dict[str, list[plan.Job]] = {}
    for job in plan.jobs(finished(runs)):
        kinds.setdefault(f"{job.stage:6} {job.dataset} x{job.factor:g}", []).append(job)
    total = 0.0
    for kind, known in kinds.items():
        left = [job for job in known if is_open(job, runs)]
        hours = sum(job.factor * budget for job in left) / 3600
        total += hours
        print(f"{kind:55} {len(known) - len(left):4} of {len(known):4} known jobs done, {hours:5.1f} h left")
    print(f"{total:.1f} core-hours left of what is known so far; settings that are not chosen yet add to it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/headline"), help="folder of the runs")
    parser.add_argument("--status", action="store_true", help="what is done")
    parser.add_argument("--again", type=Path, metavar="RUNS", help="play the scored runs that have ended once more")
    parser.add_argument("--collect", type=Path, metavar="RUNS", help="bring rows from this folder of runs")
    parser.add_argument(
        "--restore", type=Path, metavar="RUNS", help="bring the committed rows into this folder of runs"
    )
    parser.add_argument("--table", action="store_true", help="print the tables of the committed rows")
    parser.add_argument("--page", action="store_true", help="write the tables into docs/results.md, and draw them")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a table for `offline-marl report`")
    parser.add_argument("--budget", action="store_true", help="measure the budget and counts of updates")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        headline_tables.show()
    elif options.page:
        headline_tables.write_page()
    elif options.report:
        headline_tables.write_for_report(options.report)
    elif options.again:
        headline_again.look_at_all(plan.jobs(finished(options.again)), options.again)
    elif options.collect:
        collect(options.collect)
    elif options.restore:
        restore(options.restore)
    elif options.status:
        show_status(options.runs)
    elif options.budget:
        import headline_budget

        plan.write("updates", headline_budget.COLUMNS, headline_budget.measure())
    elif options.job:
        import headline_job

        job = next(each for each in plan.jobs(finished(options.runs)) if each.key == options.job)
        headline_job.carry_out(job, options.runs / job.key)
    else:
        carry_out_all(options.runs)
        headline_again.look_at_all(plan.jobs(finished(options.runs)), options.runs)
        collect(options.runs)


if __name__ == "__main__":
    main()
