"""Labels of compared groups: the algorithm and the settings, other than the seed, in which runs differ."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from offline_marl.algorithms.base import algorithms
from offline_marl.core.registry import RegistryError
from offline_marl.report.gather.scores import LeftOut, Run
from offline_marl.runs.places import places_of

UNLABELLED_FIELDS = {
    "algorithm",
    "dataset",
    "environment",
    "seed",
    "steps",
    "online",
    "environment_steps",
    "environment_timeout",
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
"""Fields that never enter a label: those named elsewhere, or without influence on the score."""
TUNING_SUFFIX = ", while tuning"
TUNING_SEEDS = re.compile(r"tuned on seeds (-?\d+(?:, -?\d+)*):")
"""Seeds in the sentence of `run_folders.describe_tuning`."""


def label_runs(runs: Sequence[Run]) -> tuple[list[Run], list[LeftOut], list[str], list[str]]:
    """Give runs tasks and labels such that only runs of the same settings are averaged.

    Returns:
        The runs; those left out because they are there already; notes; fields that vary.
    """
    runs, notes = _split_tasks([_with_online_task(run) for run in runs])
    runs, varied, spread = _label_by_settings(runs)
    runs, budgets = _label_by_budget(runs)
    runs, chose = _label_tuning_runs(runs)
    runs, doubles = _drop_duplicates(runs)
    return runs, doubles, [*notes, *spread, *budgets, *chose], varied


def _with_online_task(run: Run) -> Run:
    """The run with a task of its own where it played beside its data: it had more than those that only read it."""
    return replace(run, task=f"{run.task}, online") if run.online and run.from_data else run


def _replays(run: Run) -> bool:
    """Whether a learner that can do without playing has played, which its label says: no average mixes both."""
    if not run.online:
        return False
    try:
        return algorithms.get(run.algorithm).needs.origin != "environment"
    except RegistryError:
        return True


def _split_tasks(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Append checksums to the names of tasks whose data differ under one name."""
    sums = defaultdict(set)
    for run in runs:
        if run.provenance.get("dataset_sha256"):
            sums[run.task].add(str(run.provenance["dataset_sha256"]))
    ambiguous = {task for task, checksums in sums.items() if len(checksums) > 1}
    notes = [f"Data of different contents go by the name {task}: they are shown apart." for task in sorted(ambiguous)]

    def task_of(run: Run) -> str:
        checksum = str(run.provenance.get("dataset_sha256") or "unknown contents")
        return f"{run.task} ({checksum[:16]})" if run.task in ambiguous else run.task

    return [replace(run, task=task_of(run)) for run in runs], notes


def _label_by_settings(runs: Sequence[Run]) -> tuple[list[Run], list[str], list[str]]:
    """Label runs by the settings that differ on one task; settings that differ only between tasks become a note."""
    values: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for run in runs:
        places = places_of(run.algorithm)
        for field, value in run.settings.items():
            if field not in UNLABELLED_FIELDS:
                values[run.algorithm, field, run.task].add(spell(value, field in places))
    apart = {(algorithm, field) for (algorithm, field, _), spellings in values.items() if len(spellings) > 1}
    labelled = [
        replace(run, label=", ".join([run.algorithm, *["online"] * _replays(run), *_pieces(run, apart)]))
        for run in runs
    ]
    over_tasks: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (algorithm, field, _), spellings in values.items():
        if (algorithm, field) not in apart:
            over_tasks[algorithm, field] |= spellings
    notes = [
        f"{algorithm} has another {field} on each task or on some: {', '.join(sorted(spellings))}."
        for (algorithm, field), spellings in over_tasks.items()
        if len(spellings) > 1
    ]
    return (
        labelled,
        list(dict.fromkeys(field for run in runs for field in run.settings if _varies(apart, field))),
        notes,
    )


def _varies(apart: Iterable[tuple[str, str]], field: str) -> bool:
    return any(field == name for _, name in apart)


def _pieces(run: Run, apart: set[tuple[str, str]]) -> list[str]:
    places = places_of(run.algorithm)
    varied = {key: value for key, value in run.settings.items() if (run.algorithm, key) in apart}
    return [f"{key} {spell(value, key in places)}" for key, value in varied.items()]


def _label_by_budget(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Append updates to labels where runs of one task have different budgets."""
    budgets = defaultdict(set)
    for run in runs:
        budgets[run.task].add(run.budget)
    several = {task: sorted(updates) for task, updates in budgets.items() if len(updates) > 1}
    if not several:
        return list(runs), []
    listing = "; ".join(
        f"{task}: {', '.join(f'{budget:,}' for budget in updates)}" for task, updates in several.items()
    )
    notes = [
        f"Budgets differ ({listing} updates): runs of different budgets are shown apart, and a comparison between them "
        "compares the budgets too."
    ]
    return [replace(run, label=f"{run.label}, {run.budget:,} updates") for run in runs], notes


def _label_tuning_runs(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Label runs that chose settings apart from the retrained ones: the maximum over settings biases their scores."""
    seeds: dict[tuple[str, str], set[int]] = defaultdict(set)
    for run in runs:
        match = TUNING_SEEDS.match(run.tuned_on or "")
        seeds[run.task, run.label] |= {int(seed) for seed in match[1].split(", ")} if match else set()
    apart = [run for run in runs if run.tuned_on is None and run.seed in seeds[run.task, run.label]]
    notes = [
        f"Runs that chose the settings of {label} on {task} are shown apart, as '{label}{TUNING_SUFFIX}': "
        "their scores were picked for being high."
        for task, label in dict.fromkeys((run.task, run.label) for run in apart)
    ]
    chose = {id(run) for run in apart}
    return [replace(run, label=f"{run.label}{TUNING_SUFFIX}") if id(run) in chose else run for run in runs], notes


def _drop_duplicates(runs: Sequence[Run]) -> tuple[list[Run], list[LeftOut]]:
    """Keep each seed of a label once per task: the same run again is no further evidence."""
    first: dict[tuple[str, str, int], Run] = {}
    again = []
    for run in runs:
        kept = first.setdefault((run.task, run.label, run.seed), run)
        if kept is not run:
            why = f"seed {run.seed} of {run.label} on {run.task} is counted once, from {kept.name}"
            again.append(LeftOut(run.name, why))
    return list(first.values()), again


def spell(value: Any, place: bool = False) -> str:
    """Spell a setting's value as part of a label; of a path the name alone, without the seed in it."""
    if place and isinstance(value, str):
        return re.sub(r"[_-]?seed\d+", "", Path(value).name) or value
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list) and value and all(isinstance(item, str if place else int | float) for item in value):
        return ("+" if place else "x").join(spell(item, place) for item in value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
