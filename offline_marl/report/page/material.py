"""Material beside the scores in the folders of a report: world models, cross-play, conventions, videos."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_marl.report.gather.gathering import walk
from offline_marl.report.gather.run_folders import read_json_object
from offline_marl.report.gather.scores import LeftOut, Run
from offline_marl.report.page.markup import finite
from offline_marl.report.statistics.estimates import Evidence
from offline_marl.training.models.report import read_report

REPORT, MATRIX = "report of a world model", "cross-play matrix"
FILE_KINDS = {"report.json": REPORT, "crossplay.json": MATRIX}
SKIPPED_FOLDERS = {"checkpoints", "logs", "wandb"}
"""Folders that hold many files and no material."""
VIDEOS = (".mp4", ".webm", ".gif")
"""A PNG of the same name beside one is its contact sheet."""
TABLES = ("return", "return_low", "return_high", "normalized_return", "normalized_low", "normalized_high", "agreement")


@dataclass(frozen=True, slots=True)
class Model:
    """World model's name and report."""

    name: str
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EpisodeConventions:
    """Conventions that the agents of a run had followed when its evaluation episodes ended."""

    label: str
    task: str
    seed: int
    names: tuple[str, ...]
    followed: tuple[tuple[int, ...], ...]
    """Of each episode, by agent: position in `names`, negative for nothing."""
    targets: tuple[tuple[float, float], ...] | None

    def ways(self) -> list[str]:
        """Name the convention that all agents followed, or `apart`, for each episode."""
        return [
            self.names[followed[0]] if followed[0] >= 0 and len(set(followed)) == 1 else "apart"
            for followed in self.followed
        ]


@dataclass(frozen=True, slots=True)
class Material:
    """World models, cross-play matrices, conventions and media of a report."""

    models: tuple[Model, ...] = ()
    matrices: tuple[dict[str, Any], ...] = ()
    """Contents of every crossplay.json."""
    ends: tuple[EpisodeConventions, ...] = ()
    media: tuple[Path, ...] = ()
    """Videos and contact sheets, where they were asked for."""
    damaged: tuple[LeftOut, ...] = ()
    """Files that should have been part of it and cannot be read."""


def collect_material(evidence: Evidence, paths: Sequence[Path], *, videos: bool = False) -> Material:
    """Collect material under the report's paths, and in the folders of its runs."""
    folders = [run.folder for run in evidence.gathered.runs if run.folder is not None]
    files = sorted({file for root in [*paths, *folders] for file in _files(root)})
    top = Path(os.path.commonpath([file.parent for file in files])) if files else Path()
    reports = {file: read_report(file.parent) for file in files if file.name == "report.json"}
    models = [Model(_name(file.parent, top), report) for file, report in reports.items() if report is not None]
    tables = {file: _matrix(file) for file in files if file.name == "crossplay.json"}
    matrices = [table for table in tables.values() if table is not None]
    lost = [file for file, content in {**reports, **tables}.items() if content is None]
    damaged = [LeftOut(str(file.relative_to(top)), f"no {FILE_KINDS[file.name]} can be read from it") for file in lost]
    media = [file for file in files if videos and (file.suffix in VIDEOS or _is_sheet(file))]
    return Material(tuple(models), tuple(matrices), tuple(_ends(evidence)), tuple(media), tuple(damaged))


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        return
    for folder, below, names in walk(root):
        below[:] = sorted(name for name in below if name not in SKIPPED_FOLDERS and not name.startswith("."))
        for name in names:
            if name in FILE_KINDS or name.endswith((*VIDEOS, ".png")):
                yield Path(folder, name).resolve()


def _name(folder: Path, top: Path) -> str:
    below = folder.relative_to(top)
    return str(below) if below.parts else folder.name


def _is_sheet(file: Path) -> bool:
    return file.suffix == ".png" and any(file.with_suffix(kind).exists() for kind in VIDEOS)


def _matrix(file: Path) -> dict[str, Any] | None:
    """Read a cross-play matrix; None if it is none, or its shape does not fit the runs it names."""
    matrix = read_json_object(file) or {}
    runs = matrix.get("runs")
    if matrix.get("kind") != "crossplay" or not isinstance(runs, list):
        return None
    count = len(runs)
    try:
        square = all(
            len(table) == count and all(len(row) == count for row in table)
            for table in (matrix[name] for name in TABLES if matrix.get(name) is not None)
        )
        named = {*matrix.get("order", ()), *(row for group in matrix.get("groups", ()) for row in group["members"])}
    except (TypeError, KeyError):
        return None
    return matrix if square and named <= set(range(count)) else None


def _ends(evidence: Evidence) -> Iterator[EpisodeConventions]:
    for run in evidence.gathered.runs:
        conventions = {} if run.folder is None else (read_json_object(run.folder / "DONE") or {}).get("conventions")
        if conventions:
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError, IndexError):  # it was edited
                ended = _ended(run, conventions)
                ended.ways()
                yield ended


def _ended(run: Run, conventions: Any) -> EpisodeConventions:
    targets = conventions.get("targets")
    return EpisodeConventions(
        run.label,
        run.task,
        run.seed,
        tuple(map(str, conventions["names"])),
        tuple(tuple(map(int, episode)) for episode in conventions["followed"]),
        None if targets is None else tuple((float(x), float(y)) for x, y in targets if finite(x) and finite(y)),
    )
