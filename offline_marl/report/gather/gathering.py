"""Collection of all runs under some paths, labelled, and of those that had to be left out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from offline_marl.core import small_files
from offline_marl.report.gather.labels import label_runs
from offline_marl.report.gather.run_folders import names_of, read_run
from offline_marl.report.gather.scales import drop_unlike_scales
from offline_marl.report.gather.scores import EvidenceError, Gathered, LeftOut, Run
from offline_marl.report.gather.tables import read_table
from offline_marl.runs.folder import kind_of
from offline_marl.runs.kinds import TRAIN, is_scored

SWEEP = "sweep.json"


def gather(paths: Sequence[Path]) -> Gathered:
    """Collect the runs under these paths.

    Args:
        paths: Run folders; folders of run folders at any depth, sweeps among them, in which world models are passed
            over; and tables as in benchmarks/results or as `sweep collect` writes them.

    Raises:
        EvidenceError: A path is not there or is nothing of that kind, or no run has finished.
    """
    entries: list[Run | LeftOut] = []
    folders: list[Path] = []
    seen: set[Path] = set()
    for path in paths:
        if path.is_file():
            entries += read_table(path) if path.resolve() not in seen else []
            seen.add(path.resolve())
        elif path.is_dir():
            fresh = [folder for folder in _folders(path) if folder.resolve() not in seen]
            seen |= {folder.resolve() for folder in fresh}
            folders += fresh
        else:
            raise EvidenceError(f"There is no {path}: name run folders, folders of them, sweeps or tables (CSV).")
    entries += [replace(_read(folder), name=name) for folder, name in zip(folders, names_of(folders), strict=True)]
    runs, left_out = (
        [entry for entry in entries if isinstance(entry, Run)],
        [entry for entry in entries if isinstance(entry, LeftOut)],
    )
    if not runs:
        raise EvidenceError(_explain_nothing(paths, left_out))
    labelled, doubles, notes, varied = label_runs(runs)
    labelled, scales = drop_unlike_scales(labelled)
    notes += [*scales, *_scoring_notes(labelled)]
    return Gathered(tuple(labelled), (*left_out, *doubles), tuple(notes), tuple(varied))


def _read(folder: Path) -> Run | LeftOut:
    kind = kind_of(folder)
    if kind is not None and not kind.scored:
        return LeftOut("", f"it is {kind.noun}: {kind.passed_over}")
    return read_run(folder)


def _folders(path: Path) -> Iterator[Path]:
    """Find the run folders at and under a path, and those that a sweep has yet to begin; `path` may be a model."""
    if (path / "config.json").is_file():
        yield path
        return
    for here, inner, files in walk(path):
        if "config.json" in files:
            inner.clear()
            kind = kind_of(here)
            if kind is None or kind.scored:
                yield here
            continue
        inner[:] = sorted((name for name in inner if not name.startswith(".")), key=_natural)
        if SWEEP in files:
            yield from (folder for folder in _jobs(here) if not (folder / "config.json").exists())


def walk(path: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk as `os.walk` does, through linked folders too, each folder once: links may form a circle."""
    walked: set[str] = set()
    for place, inner, files in os.walk(path, followlinks=True):
        if (real := os.path.realpath(place)) in walked:
            inner.clear()
            continue
        walked.add(real)
        yield Path(place), inner, files


def _jobs(sweep: Path) -> list[Path]:
    """Read the folders of a sweep's training jobs.

    Raises:
        EvidenceError: The sweep's list was damaged.
    """
    try:
        jobs = small_files.read_table(sweep / SWEEP)["jobs"]
        return [sweep / job["folder"] for job in jobs if is_scored(job.get("command", TRAIN.command))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise EvidenceError(f"{sweep / SWEEP} was damaged or edited: which runs there should be is lost.") from None


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Split a name into a sort key by which seed2 comes before seed10."""
    return [(bool(part), int(part or 0), text) for part, text in re.findall(r"(\d*)(\D*)", name)]


def _explain_nothing(paths: Sequence[Path], left_out: Sequence[LeftOut]) -> str:
    where = ", ".join(map(str, paths))
    if not left_out:
        return f"There is no run in {where}: name run folders, folders of them, sweeps or tables (CSV)."
    first = left_out[0]
    count = f"None of the {len(left_out)} runs" if len(left_out) > 1 else "The run"
    return f"{count} in {where} can{'' if len(left_out) > 1 else 'not'} be compared: {first.name}: {first.why}."


def _scoring_notes(runs: Sequence[Run]) -> list[str]:
    """Compose notes on how scores were taken: episodes, versions, tuning."""
    notes = []
    episodes = {int(count) for run in runs if (count := run.score.get("episodes"))}
    if len(episodes) > 1:
        notes.append(f"Scores are means of {min(episodes)} to {max(episodes)} episodes.")
    others = sum(bool(run.score.get("versions_differ")) for run in runs)
    if others:
        notes.append(f"{others} of {len(runs)} runs were scored with other versions than their data was recorded with.")
    tuned = sum(run.tuned_on is not None for run in runs)
    if tuned:
        notes.append(f"The settings of {tuned} of {len(runs)} runs were chosen by other runs; tables mark them.")
    return notes
