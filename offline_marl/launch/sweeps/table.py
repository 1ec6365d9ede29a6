"""Table of a sweep's results, a row for each finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offline_marl.core.config import ConfigError, build
from offline_marl.core.errors import BadInputError
from offline_marl.core.files import write_atomically
from offline_marl.core.small_files import read_table
from offline_marl.launch.sweeps.folder import Sweep, SweepError, settings_of
from offline_marl.launch.sweeps.plan import Planned
from offline_marl.report.export import as_csv
from offline_marl.report.gather.labels import UNLABELLED_FIELDS
from offline_marl.report.gather.run_folders import describe_tuning, read_json_object
from offline_marl.report.gather.scores import FIGURES
from offline_marl.runs.folder import RunFolder, Summary
from offline_marl.runs.kinds import is_scored

OPTIONAL_COLUMNS = {"environment", "preset", "world_model", "agreement", "random_return", "online", "environment_steps"}
"""Columns that are left out where no run has them."""


def runs_of(jobs: Sequence[Planned]) -> list[Planned]:
    """Select the jobs whose runs have scores."""
    return [job for job in jobs if is_scored(job.command)]


def read_done(folder: Path) -> dict[str, Any] | None:
    """Read a run's DONE; None where the run has not finished.

    Raises:
        SweepError: The mark was damaged or edited.
    """
    mark = RunFolder(folder).done_file
    try:
        content: dict[str, Any] = read_table(mark, finite=False)
        build(Summary, content)
    except FileNotFoundError:
        return None
    except (ValueError, ConfigError):
        content = {"score": None}
    if not isinstance(content.get("score", {}), dict):
        raise SweepError(f"{mark} was damaged or edited: remove it and start the sweep again, and it is made anew.")
    return content


def table_of(sweep: Sweep) -> list[dict[str, Any]]:
    """Build the rows of all finished runs, in the order in which the jobs were added.

    Every field that any job of the sweep was given is a column, but for those that decide no score; a run that was not
    asked for it shows its default. So tables of sweeps that differ in what no grid varies can be told apart.
    """
    runs = runs_of(sweep.manifest().jobs)
    given = dict.fromkeys(
        field for job in runs for field in job.fields if field in job.varied or field not in UNLABELLED_FIELDS
    )
    rows = [row for job in runs if (row := _row(sweep, job, list(given))) is not None]
    unused = {name for name in OPTIONAL_COLUMNS if all(row[name] in (None, "none") for row in rows)}
    return [{name: value for name, value in row.items() if name not in unused} for row in rows]


def _row(sweep: Sweep, job: Planned, given: Sequence[str]) -> dict[str, Any] | None:
    folder = RunFolder(sweep.folder(job))
    done = read_done(folder.path)
    if done is None:
        return None
    versions, score = folder.versions(), done.get("score", {})
    return {
        "run": Path(job.folder).name,
        "algorithm": job.name,
        "dataset": job.fields.get("dataset"),
        "environment": job.fields.get("environment"),
        "preset": job.about.get("preset"),
        "world_model": job.about.get("world_model"),
        **_values(job, given),
        "seed": job.fields["seed"],
        **{name: score.get(name) for name in FIGURES},
        "budget": (read_json_object(folder.config_file) or {}).get("steps", done.get("steps")),
        "steps": done.get("steps"),
        "wall_s": done.get("wall_s"),
        "commit": versions.get("commit", versions.get("offline-marl")),
        "dataset_sha256": versions.get("dataset_sha256"),
        "tuned_on": None if job.tuned_on is None else describe_tuning(job.tuned_on),
    }


def _values(job: Planned, given: Sequence[str]) -> dict[str, Any]:
    missing = set(given) - set(job.fields)
    try:
        settings = settings_of(job) if missing else {}
    except BadInputError:  # its algorithm is not installed any more
        settings = {}
    return {field: job.fields.get(field, settings.get(field)) for field in given}


def collect(sweep: Sweep, out: Path) -> tuple[int, int]:
    """Write the table.

    Returns:
        How many runs are in it, and how many the sweep has.

    Raises:
        SweepError: None has finished.
    """
    rows, runs = table_of(sweep), runs_of(sweep.manifest().jobs)
    if not rows:
        raise SweepError(f"None of the {len(runs)} runs of {sweep.path} has finished: there is nothing to collect.")
    write_atomically(out, as_csv(rows).encode())
    return len(rows), len(runs)
