"""What lies beside the scores in the folders of a report: world models, cross-play, conventions, videos."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_marl.report.gather.gathering import walk
from offline_marl.report.gather.scores import LeftOut, Run
from offline_marl.report.page.markup import finite
from offline_marl.report.statistics.estimates import Evidence
from offline_marl.training.models.report import read_report

REPORT, MATRIX = "report of a world model", "cross-play matrix"
WHAT = {"report.json": REPORT, "crossplay.json": MATRIX}
PASSED_OVER = {"checkpoints", "logs", "wandb"}
"""Folders in which nothing of the kind lies, and many files."""
VIDEOS = (".mp4", ".webm", ".gif")
"""A PNG of the same name beside one is its contact sheet."""
TABLES = ("return", "return_low", "return_high", "normalized_return", "normalized_low", "normalized_high", "agreement")


@dataclass(frozen=True, slots=True)
class Model:
    """A world model with its report."""

    name: str
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """What the agents of a run had settled on when the episodes of its score ended."""

    label: str
    task: str
    seed: int
    names: tuple[str, ...]
    followed: tuple[tuple[int, ...], ...]
    """Of each episode, by agent: position in `names`, negative for nothing."""
    targets: tuple[tuple[float, float], ...] | None

    def ways(self) -> list[str]:
        """Of each episode: the convention that all followed, or `apart`."""
        return [self.names[each[0]] if each[0] >= 0 and len(set(each)) == 1 else "apart" for each in self.followed]


@dataclass(frozen=True, slots=True)
class Material:
    """All of it."""

    models: tuple[Model, ...] = ()
    matrices: tuple[dict[str, Any], ...] = ()
    """Contents of every crossplay.json."""
    ends: tuple[Ended, ...] = ()
    media: tuple[Path, ...] = ()
    """Videos and contact sheets, where they were asked for."""
    damaged: tuple[LeftOut, ...] = ()
    """Files that should have been part of it and cannot be read."""


def collect_material(evidence: Evidence, paths: Sequence[Path], *, videos: bool = False) -> Material:
    """Look for it under the paths that were reported on, and in the folders of their runs."""
    folders = [run.folder for run in evidence.gathered.runs if run.folder is not None]
    files = sorted({file for root in [*paths, *folders] for file in _files(root)})
    top = Path(os.path.commonpath([file.parent for file in files])) if files else Path()
    reports = {file: read_report(file.parent) for file in files if file.name == "report.json"}
    models = [Model(_name(file.parent, top), report) for file, report in reports.items() if report is not None]
    tables = {file: _matrix(file) for file in files if file.name == "crossplay.json"}
    matrices = [table for table in tables.values() if table is not None]
    lost = [file for file, found in {**reports, **tables}.items() if found is None]
    damaged = [LeftOut(str(file.relative_to(top)), f"no {WHAT[file.name]} can be read from it") for file in lost]
    media = [file for file in files if videos and (file.suffix in VIDEOS or _is_sheet(file))]
    return Material(tuple(models), tuple(matrices), tuple(_ends(evidence)), tuple(media), tuple(damaged))


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        return
    for folder, below, names in walk(root):
        below[:] = sorted(name for name in below if name not in PASSED_OVER and not name.startswith("."))
        for name in names:
            if name in WHAT or name.endswith((*VIDEOS, ".png")):
                yield Path(folder, name).resolve()


def _name(folder: Path, top: Path) -> str:
    below = folder.relative_to(top)
    return str(below) if below.parts else folder.name


def _is_sheet(file: Path) -> bool:
    return file.suffix == ".png" and any(file.with_suffix(kind).exists() for kind in VIDEOS)


def _matrix(file: Path) -> dict[str, Any] | None:
    """The matrix in a file; None if it is none, or not as many rows and columns as it names runs."""
    found = _json(file)
    runs = found.get("runs")
    if found.get("kind") != "crossplay" or not isinstance(runs, list):
        return None
    count = len(runs)
    try:
        square = all(
            len(table) == count and all(len(row) == count for row in table)
            for table in (found[name] for name in TABLES if found.get(name) is not None)
        )
        named = {*found.get("order", ()), *(row for group in found.get("groups", ()) for row in group["members"])}
    except (TypeError, KeyError):
        return None
    return found if square and named <= set(range(count)) else None


def _ends(evidence: Evidence) -> Iterator[Ended]:
    for run in evidence.gathered.runs:
        found = {} if run.folder is None else _json(run.folder / "DONE").get("conventions")
        if found:
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError, IndexError):  # it was edited
                ended = _ended(run, found)
                ended.ways()
                yield ended


def _ended(run: Run, found: Any) -> Ended:
    targets = found.get("targets")
    return Ended(
        run.label,
        run.task,
        run.seed,
        tuple(map(str, found["names"])),
        tuple(tuple(map(int, each)) for each in found["followed"]),
        None if targets is None else tuple((float(x), float(y)) for x, y in targets if finite(x) and finite(y)),
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
