"""Labels of compared groups: the algorithm and the settings, other than the seed, in which runs differ."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from offline_marl.algorithms.base import algorithms
from offline_marl.core.registry import RegistryError
from offline_marl.report.gather.place_names import bare_names, name_places
from offline_marl.report.gather.scores import LeftOut, Run
from offline_marl.runs.config import MACHINE_FIELDS, WATCHING_FIELDS
from offline_marl.runs.places import places_of

UNLABELLED_FIELDS = frozenset(
    {
        "algorithm",
        "dataset",
        "environment",
        "seed",
        "steps",
        "online",
        "environment_steps",
        *MACHINE_FIELDS,
        *WATCHING_FIELDS,
    }
)
"""Fields that never enter a label: those named elsewhere, or without influence on the score."""
ENVIRONMENT_FIELDS = ("env_settings", "max_steps")
"""Fields that say how the environment differs from its default."""
UNKNOWN = "unknown"
"""Spelling of a field that other runs of the algorithm and the task have and a run lacks."""
MOST_UNKNOWN = 3
"""Fields that a run lacks and its label names; of more it says that there are some."""
TUNING_SUFFIX = ", while tuning"
TUNING_SEEDS = re.compile(r"tuned on seeds (-?\d+(?:, -?\d+)*):")
"""Seeds in the sentence of `run_folders.describe_tuning`."""
PLACE = re.compile(" in | of the run ")
"""What stands between a pinned network and its place."""


def label_runs(runs: Sequence[Run]) -> tuple[list[Run], list[LeftOut], list[str], list[str]]:
    """Give runs tasks and labels such that only runs of the same settings are averaged.

    Returns:
        The runs; those left out because they are there already; notes; fields that vary.
    """
    runs, notes = _split_tasks([_with_online_task(run) for run in runs])
    runs, environments = _split_environments(runs)
    runs, bare_labels, varied, spread = _label_by_settings(runs)
    runs, pinned = _label_by_pinned(runs)
    runs, budgets = _label_by_budget(runs)
    runs, chose = _label_tuning_runs(runs, bare_labels)
    runs, doubles = _drop_duplicates(runs)
    return runs, doubles, [*notes, *environments, *spread, *pinned, *budgets, *chose], varied


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


def _split_environments(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Append the environment to tasks whose data are one and whose scores were taken in different ones."""
    environments = [_environment(run) for run in runs]
    named = defaultdict(set)
    for run, environment in zip(runs, environments, strict=True):
        named[run.task].add(environment)
    ambiguous = {task for task, several in named.items() if len(several) > 1}
    notes = [f"Runs on {task} were scored in different environments: they are apart." for task in sorted(ambiguous)]
    return [
        replace(run, task=f"{run.task}, scored in {environment}") if environment and run.task in ambiguous else run
        for run, environment in zip(runs, environments, strict=True)
    ], notes


def _environment(run: Run) -> str:
    """Describe where a run on data is scored; empty where that is the data's own environment."""
    name = run.settings.get("environment")
    if not run.from_data or not name:
        return ""
    changed = {field: value for field in ENVIRONMENT_FIELDS if (value := run.settings.get(field))}
    return " ".join([str(name), *(f"{field} {spell(value)}" for field, value in changed.items())])


def _label_by_settings(runs: Sequence[Run]) -> tuple[list[Run], list[str], list[str], list[str]]:
    """Label runs by the settings that differ on one task; settings that differ only between tasks become a note.

    Returns:
        The runs; their labels with the bare names of places; fields that vary; notes.
    """
    names = _name_places(runs)
    spelled = _spell_settings(runs, names)
    lacking = _spell_unknown(runs, spelled)
    values: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for run, known in zip(runs, spelled, strict=True):
        for field, spelling in known.items():
            values[run.algorithm, field, run.task].add(spelling)
    apart = {(algorithm, field) for (algorithm, field, _), spellings in values.items() if len(spellings) > 1}
    bare = _spell_settings(runs, {key: bare_names(named) for key, named in names.items()})
    labels, bare_labels = (
        [
            ", ".join([run.algorithm, *["online"] * _replays(run), *_pieces(run.algorithm, known, apart), *lacks])
            for run, known, lacks in zip(runs, settings, lacking, strict=True)
        ]
        for settings in (spelled, [{**known, **short} for known, short in zip(spelled, bare, strict=True)])
    )
    over_tasks: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (algorithm, field, _), spellings in values.items():
        if (algorithm, field) not in apart:
            over_tasks[algorithm, field] |= spellings
    notes = [
        f"{algorithm} has another {field} on each task or on some: {', '.join(sorted(spellings))}."
        for (algorithm, field), spellings in over_tasks.items()
        if len(spellings) > 1
    ]
    varied = list(dict.fromkeys(field for run in runs for field in run.settings if _varies(apart, field)))
    return [replace(run, label=label) for run, label in zip(runs, labels, strict=True)], bare_labels, varied, notes


def _name_places(runs: Sequence[Run]) -> dict[tuple[str, str], dict[str, str]]:
    """Name the paths in the settings of runs, by algorithm and field; a path has one name in a field of any of them."""
    fields = {algorithm: places_of(algorithm) for algorithm in dict.fromkeys(run.algorithm for run in runs)}
    named = {
        field: name_places(run.settings[field] for run in runs if field in run.settings)
        for field in frozenset[str]().union(*fields.values())
    }
    return {(algorithm, field): named[field] for algorithm, places in fields.items() for field in places}


def _spell_settings(runs: Sequence[Run], names: Mapping[tuple[str, str], Mapping[str, str]]) -> list[dict[str, str]]:
    """Spell the settings that may enter a run's label; of places by these names."""
    return [
        {
            field: spell(value, names.get((run.algorithm, field)))
            for field, value in run.settings.items()
            if field not in UNLABELLED_FIELDS
        }
        for run in runs
    ]


def _spell_unknown(runs: Sequence[Run], spelled: Sequence[dict[str, str]]) -> list[list[str]]:
    """Add the fields that a run lacks and others of its algorithm and task have, as unknown.

    Returns:
        For each run, what its label says where it lacks many, as rows of tables do beside run folders.
    """
    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for run, known in zip(runs, spelled, strict=True):
        groups[run.algorithm, run.task].append(known)
    # A column that is empty is one that the row's algorithm does not have.
    fields = {
        key: dict.fromkeys(field for known in several for field, spelling in known.items() if spelling != spell(None))
        for key, several in groups.items()
    }
    pieces = []
    for run, known in zip(runs, spelled, strict=True):
        lacks = [field for field in fields[run.algorithm, run.task] if field not in known]
        if len(lacks) <= MOST_UNKNOWN:
            known.update(dict.fromkeys(lacks, UNKNOWN))
        pieces.append([f"other settings {UNKNOWN}"] * (len(lacks) > MOST_UNKNOWN))
    return pieces


def _varies(apart: Iterable[tuple[str, str]], field: str) -> bool:
    return any(field == name for _, name in apart)


def _pieces(algorithm: str, known: Mapping[str, str], apart: set[tuple[str, str]]) -> list[str]:
    return [f"{field} {spelling}" for field, spelling in known.items() if (algorithm, field) in apart]


def _label_by_pinned(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Append checksums to labels where networks that runs of one task went by differ at one place.

    Models of different places, such as one for each seed, are not told apart: their checksums always differ.
    """
    sums: dict[tuple[str, str], set[str]] = defaultdict(set)
    for run in runs:
        for what, version in run.pinned.items():
            sums[run.task, what].add(version)
    ambiguous = {key for key, versions in sums.items() if len(versions) > 1}
    notes = [
        f"Runs on {task} went by different contents of the {what}: they are shown apart."
        for task, what in sorted(ambiguous)
    ]

    def label_of(run: Run) -> str:
        apart = [what for what in sorted(run.pinned) if (run.task, what) in ambiguous]
        return ", ".join([run.label, *(f"{PLACE.split(what)[0]} {run.pinned[what][:16]}" for what in apart)])

    return [replace(run, label=label_of(run)) for run in runs], notes


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


def _label_tuning_runs(runs: Sequence[Run], bare_labels: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Label runs that chose settings apart from the retrained ones: the maximum over settings biases their scores.

    Args:
        runs: All of them.
        bare_labels: Of each, the label with the bare names of places: models of retrained runs lie in another sweep.
    """
    seeds: dict[tuple[str, int, str], set[int]] = defaultdict(set)
    alike = [(run.task, run.budget, label) for run, label in zip(runs, bare_labels, strict=True)]
    for run, key in zip(runs, alike, strict=True):
        match = TUNING_SEEDS.match(run.tuned_on or "")
        seeds[key] |= {int(seed) for seed in match[1].split(", ")} if match else set()
    apart = [run for run, key in zip(runs, alike, strict=True) if run.tuned_on is None and run.seed in seeds[key]]
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


def spell(value: Any, places: Mapping[str, str] | None = None) -> str:
    """Spell a setting's value as part of a label; of a setting that holds paths, by the names of these."""
    if places is not None and isinstance(value, str):
        return places[value]
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    kinds = int | float if places is None else str
    if isinstance(value, list) and value and all(isinstance(item, kinds) for item in value):
        return ("x" if places is None else "+").join(spell(item, places) for item in value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
