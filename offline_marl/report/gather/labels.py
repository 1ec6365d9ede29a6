"""Names of what is compared: the algorithm, and whatever sets its runs apart but for the seed."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from offline_marl.report.gather.scores import LeftOut, Run
from offline_marl.runs.places import places_of

SAME = {
    "algorithm",
    "dataset",
    "environment",
    "seed",
    "steps",
    "device",
    "threads",
    "workers",
    "memory",
    "log_every",
    "eval_every",
    "eval_episodes",
    "checkpoint_every",
    "keep_checkpoints",
    "tensorboard",
    "wandb",
    "wandb_project",
    "loggers",
}
"""Fields that are said elsewhere, or that change no score."""
CHOSE = ", while tuning"
SEEDS = re.compile(r"tuned on seeds (-?\d+(?:, -?\d+)*):")
"""As `reading.say_tuned` says which seeds chose."""


def named(runs: Sequence[Run]) -> tuple[list[Run], list[LeftOut], list[str], list[str]]:
    """The runs with tasks and labels that tell apart what may not be averaged.

    Returns:
        The runs; those left out because they are there already; notes; fields that vary.
    """
    runs, notes = _tasks_apart(runs)
    runs, varied, spread = _settings_apart(runs)
    runs, budgets = _budgets_apart(runs)
    runs, chose = _choosers_apart(runs)
    runs, doubles = _once(runs)
    return runs, doubles, [*notes, *spread, *budgets, *chose], varied


def _tasks_apart(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Data of one name and of different contents are different tasks."""
    sums = defaultdict(set)
    for run in runs:
        if run.provenance.get("dataset_sha256"):
            sums[run.task].add(str(run.provenance["dataset_sha256"]))
    several = {task for task, found in sums.items() if len(found) > 1}
    notes = [f"Data of different contents go by the name {task}: they are shown apart." for task in sorted(several)]

    def task_of(run: Run) -> str:
        checksum = str(run.provenance.get("dataset_sha256") or "unknown contents")
        return f"{run.task} ({checksum[:16]})" if run.task in several else run.task

    return [replace(run, task=task_of(run)) for run in runs], notes


def _settings_apart(runs: Sequence[Run]) -> tuple[list[Run], list[str], list[str]]:
    """Labels by settings that differ among runs of one algorithm on one task; a note where tasks have their own."""
    values: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for run in runs:
        places = places_of(run.algorithm)
        for field, value in run.settings.items():
            if field not in SAME:
                values[run.algorithm, field, run.task].add(spelt(value, field in places))
    apart = {(algorithm, field) for (algorithm, field, _), found in values.items() if len(found) > 1}
    labelled = [replace(run, label=", ".join([run.algorithm, *_pieces(run, apart)])) for run in runs]
    over_tasks: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (algorithm, field, _), found in values.items():
        if (algorithm, field) not in apart:
            over_tasks[algorithm, field] |= found
    notes = [
        f"{algorithm} has another {field} on each task or on some: {', '.join(sorted(found))}."
        for (algorithm, field), found in over_tasks.items()
        if len(found) > 1
    ]
    return labelled, list(dict.fromkeys(field for run in runs for field in run.settings if _any(apart, field))), notes


def _any(apart: Iterable[tuple[str, str]], field: str) -> bool:
    return any(field == name for _, name in apart)


def _pieces(run: Run, apart: set[tuple[str, str]]) -> list[str]:
    places = places_of(run.algorithm)
    several = {key: value for key, value in run.settings.items() if (run.algorithm, key) in apart}
    return [f"{key} {spelt(value, key in places)}" for key, value in several.items()]


def _budgets_apart(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Labels end in their updates where runs of one task have different ones."""
    budgets = defaultdict(set)
    for run in runs:
        budgets[run.task].add(run.budget)
    several = {task: sorted(found) for task, found in budgets.items() if len(found) > 1}
    if not several:
        return list(runs), []
    said = "; ".join(f"{task}: {', '.join(f'{each:,}' for each in found)}" for task, found in several.items())
    notes = [
        f"Budgets differ ({said} updates): runs of different budgets are shown apart, and a comparison between them "
        "compares the budgets too."
    ]
    return [replace(run, label=f"{run.label}, {run.budget:,} updates") for run in runs], notes


def _choosers_apart(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Runs that chose a setting apart from those that were made with it afterwards: their scores were picked."""
    seeds: dict[tuple[str, str], set[int]] = defaultdict(set)
    for run in runs:
        told = SEEDS.match(run.tuned_on or "")
        seeds[run.task, run.label] |= {int(each) for each in told[1].split(", ")} if told else set()
    apart = [run for run in runs if run.tuned_on is None and run.seed in seeds[run.task, run.label]]
    notes = [
        f"Runs that chose the settings of {label} on {task} are shown apart, as '{label}{CHOSE}': "
        "their scores were picked for being high."
        for task, label in dict.fromkeys((run.task, run.label) for run in apart)
    ]
    chose = {id(run) for run in apart}
    return [replace(run, label=f"{run.label}{CHOSE}") if id(run) in chose else run for run in runs], notes


def _once(runs: Sequence[Run]) -> tuple[list[Run], list[LeftOut]]:
    """Each seed of a label once per task: the same run again is no further evidence."""
    first: dict[tuple[str, str, int], Run] = {}
    again = []
    for run in runs:
        held = first.setdefault((run.task, run.label, run.seed), run)
        if held is not run:
            why = f"seed {run.seed} of {run.label} on {run.task} is counted once, from {held.name}"
            again.append(LeftOut(run.name, why))
    return list(first.values()), again


def spelt(value: Any, place: bool = False) -> str:
    """A setting's value as part of a label; of a path the name alone, without the seed that each run has its own of."""
    if place and isinstance(value, str):
        return re.sub(r"[_-]?seed\d+", "", Path(value).name) or value
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list) and value and all(isinstance(item, str if place else int | float) for item in value):
        return ("+" if place else "x").join(spelt(item, place) for item in value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
