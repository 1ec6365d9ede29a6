"""Sections of provenance: settings that differ, data, versions, every run, and those left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from offline_marl.report.gather.scores import LeftOut, Run
from offline_marl.report.page.markup import NOTHING, Markup, tag, text
from offline_marl.report.page.sections import Section, count_of, fold, join_names, paragraph
from offline_marl.report.page.tables import Cells, Column, Value, figure, numeric, table
from offline_marl.report.statistics.estimates import Evidence
from offline_marl.runs.software import short_commit

UNCOMPARED_SETTINGS = {
    "seed",
    "dataset",
    "environment",
    "algorithm",
    "device",
    "threads",
    "workers",
    "wandb",
    "wandb_project",
    "tensorboard",
}
"""Settings without influence on learning, or shown elsewhere on the page."""
CHECKSUM = 12
"""Letters of a checksum that are shown."""
PACKAGES = ("offline-marl", "torch", "numpy", "gymnasium", "mujoco", "python", "machine")


def settings_section(evidence: Evidence) -> Section | None:
    """Draw a row for each setting that is not the same everywhere, a column for each label."""
    settings: dict[str, dict[str, list[str]]] = {}
    for run in evidence.gathered.runs:
        for name, value in run.settings.items():
            if name not in UNCOMPARED_SETTINGS:
                settings.setdefault(name, {}).setdefault(run.label, []).append(plain_setting(value))
    rows = []
    for name, labels in settings.items():
        if len({value for values in labels.values() for value in values}) > 1:
            rows.append([name, *(_values(labels.get(label, ())) for label in evidence.labels)])
    if not rows:
        return None
    note = paragraph(
        "Settings that are not the same in all runs that have them. Several values mean that a label's runs differ."
    )
    columns = [Column("setting"), *(Column(label) for label in evidence.labels)]
    return Section(
        "settings",
        "Settings that differ",
        text(note, table("settings", "Settings by label", columns, rows)),
    )


def _values(values: Iterable[str]) -> str:
    return join_names(list(dict.fromkeys(values))) or NOTHING


def plain_setting(value: Any) -> str:
    """A setting as the page shows it."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def origin_section(evidence: Evidence) -> Section:
    """Draw checksums of the data, versions and a row for each run."""
    runs = evidence.gathered.runs
    rows = [_run_row(run) for run in runs]
    columns = [
        Column("run"),
        Column("label"),
        Column("task"),
        *numeric("seed", "updates", "scored at", "return"),
        Column("commit"),
    ]
    every = table("runs", "Every run", columns, rows)
    statistics = paragraph(
        f"Intervals are 95 % bootstrap intervals over runs, stratified by task: {evidence.reps:,} resamples, drawn "
        f"with seed {evidence.seed}; withheld where there are fewer than two runs. Scored: {evidence.scored}."
    )
    shown = text(statistics, _data(runs), _versions(runs), fold(f"Every run ({len(runs)})", every))
    return Section("origin", "Where this comes from", shown)


def _data(runs: Iterable[Run]) -> Markup | None:
    by_task: dict[str, dict[str, None]] = {}
    for run in runs:
        checksums = run.provenance.get("dataset_sha256")
        by_task.setdefault(run.task, {}).update({str(checksums): None} if checksums else {})
    if not any(by_task.values()):
        return None
    rows = [
        [task, join_names([checksum[:CHECKSUM] for checksum in checksums]) or "not known"]
        for task, checksums in by_task.items()
    ]
    return table("data", "Checksums of the data (SHA-256, first letters)", [Column("task"), Column("checksum")], rows)


def _versions(runs: Iterable[Run]) -> Markup | None:
    versions: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in _flat(run.provenance).items():
            versions.setdefault(name, {})[value] = None
    names = [*(name for name in PACKAGES if name in versions), *(["commit"] if "commit" in versions else [])]
    if not names:
        return None
    rows = [
        [name, ", ".join(short_commit(version) if name == "commit" else version for version in versions[name])]
        for name in names
    ]
    return table("versions", "Versions, over all runs", [Column("of"), Column("versions")], rows)


def _flat(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Flatten versions, those of packages among them, by name."""
    packages = provenance.get("packages")
    both = {**provenance, **(packages if isinstance(packages, Mapping) else {})}
    return {name: str(value) for name, value in both.items() if isinstance(value, (str, int, float)) and str(value)}


def _run_row(run: Run) -> list[Value | str]:
    commit = short_commit(str(run.provenance.get("commit") or NOTHING))
    numbers = [figure(run.seed, 0), figure(run.budget, 0), figure(run.step, 0), figure(run.score.get("return"))]
    return [run.name, run.label, run.task, *numbers, commit]


def left_out_section(evidence: Evidence, damaged: Sequence[LeftOut] = ()) -> Section | None:
    """Draw the runs in no average, and files that could not be read."""
    entries = [*evidence.gathered.left_out, *damaged]
    if not entries:
        return None
    rows: list[Cells] = [[entry.name, Value(tag("span", entry.why, class_="long"))] for entry in entries]
    drawn = table("out", "Left out", [Column("what"), Column("why")], rows)
    note = paragraph(f"{count_of(len(entries), 'thing')} stood there and entered no number on this page.")
    return Section("left-out", "What was left out", text(note, drawn))
