"""Where the numbers come from: settings that differ, data, versions, every run, and what was left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from offline_marl.report.gather.scores import LeftOut, Run
from offline_marl.report.page.markup import NOTHING, Markup, tag, text
from offline_marl.report.page.sections import Section, counted, folded, listed, said
from offline_marl.report.page.tables import Cells, Column, Value, figure, numeric, table
from offline_marl.report.statistics.estimates import Evidence

IDENTITY = {
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
"""Settings that tell runs apart without changing what is learned, or that stand elsewhere on the page."""
CHECKSUM = 12
"""Letters of a checksum that are shown."""
PACKAGES = ("offline-marl", "torch", "numpy", "gymnasium", "mujoco", "python", "machine")


def settings_section(evidence: Evidence) -> Section | None:
    """A row for each setting that is not the same everywhere, a column for each label."""
    held: dict[str, dict[str, list[str]]] = {}
    for run in evidence.gathered.runs:
        for name, value in run.settings.items():
            if name not in IDENTITY:
                held.setdefault(name, {}).setdefault(run.label, []).append(_plain(value))
    rows = []
    for name, labels in held.items():
        if len({value for values in labels.values() for value in values}) > 1:
            rows.append([name, *(_values(labels.get(label, ())) for label in evidence.labels)])
    if not rows:
        return None
    about = said(
        "Settings that are not the same in all runs that have them. Several values mean that a label's runs differ."
    )
    columns = [Column("setting"), *(Column(label) for label in evidence.labels)]
    return Section(
        "settings",
        "Settings that differ",
        text(about, table("settings", "Settings by label", columns, rows)),
    )


def _values(values: Iterable[str]) -> str:
    return listed(list(dict.fromkeys(values))) or NOTHING


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def origin_section(evidence: Evidence) -> Section:
    """Data, versions and a row for each run."""
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
    statistics = said(
        f"Intervals are 95 % bootstrap intervals over runs, stratified by task: {evidence.reps:,} resamples, drawn "
        f"with seed {evidence.seed}; withheld where there are fewer than two runs. Scored: {evidence.scored}."
    )
    shown = text(statistics, _data(runs), _versions(runs), folded(f"Every run ({len(runs)})", every))
    return Section("origin", "Where this comes from", shown)


def _data(runs: Iterable[Run]) -> Markup | None:
    held: dict[str, dict[str, None]] = {}
    for run in runs:
        found = run.provenance.get("dataset_sha256")
        held.setdefault(run.task, {}).update({str(found): None} if found else {})
    if not any(held.values()):
        return None
    rows = [[task, listed([each[:CHECKSUM] for each in found]) or "not known"] for task, found in held.items()]
    return table("data", "Checksums of the data (SHA-256, first letters)", [Column("task"), Column("checksum")], rows)


def _versions(runs: Iterable[Run]) -> Markup | None:
    held: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in _flat(run.provenance).items():
            held.setdefault(name, {})[value] = None
    names = [*(name for name in PACKAGES if name in held), *(["commit"] if "commit" in held else [])]
    if not names:
        return None
    rows = [[name, ", ".join(each[:10] if name == "commit" else each for each in held[name])] for name in names]
    return table("versions", "Versions, over all runs", [Column("of"), Column("versions")], rows)


def _flat(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Versions by name, those of packages among them wherever they stand."""
    packages = provenance.get("packages")
    both = {**provenance, **(packages if isinstance(packages, Mapping) else {})}
    return {name: str(value) for name, value in both.items() if isinstance(value, (str, int, float)) and str(value)}


def _run_row(run: Run) -> list[Value | str]:
    commit = str(run.provenance.get("commit") or NOTHING)[:10]
    numbers = [figure(run.seed, 0), figure(run.budget, 0), figure(run.step, 0), figure(run.score.get("return"))]
    return [run.name, run.label, run.task, *numbers, commit]


def left_out_section(evidence: Evidence, damaged: Sequence[LeftOut] = ()) -> Section | None:
    """What was asked for and is in no average, and files that could not be read."""
    held = [*evidence.gathered.left_out, *damaged]
    if not held:
        return None
    rows: list[Cells] = [[each.name, Value(tag("span", each.why, class_="long"))] for each in held]
    drawn = table("out", "Left out", [Column("what"), Column("why")], rows)
    about = said(f"{counted(len(held), 'thing')} stood there and entered no number on this page.")
    return Section("left-out", "What was left out", text(about, drawn))
