"""Reader of finished runs from their folders, with a reason where one cannot be compared."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_marl.algorithms.base import algorithms
from offline_marl.core.registry import RegistryError
from offline_marl.core.small_files import read_table
from offline_marl.report.gather.data_returns import data_returns
from offline_marl.report.gather.place_names import shortest_names
from offline_marl.report.gather.scales import scale_of
from offline_marl.report.gather.scores import Figures, LeftOut, Run
from offline_marl.runs.folder import PINNED, TUNED, RunFolder, RunFolderError
from offline_marl.runs.metric_rows import each_row, read_rows
from offline_marl.runs.pins import OWN_MODEL
from offline_marl.training.preferences.relabel import FILE as REWARD

TAIL_BYTES = 4_000
LARGEST_MAGNITUDE = 1e100
"""Largest magnitude of a figure: beyond it a run has diverged, and squares overflow."""
LONGEST = 200
"""Letters of a failure's reason that are shown."""


def read_run(path: Path) -> Run | LeftOut:
    """Read the run of a folder, labelled with its algorithm alone; unfinished, failed or damaged ones are left out."""
    folder = RunFolder(path)
    (name,) = names_of([path])
    if not folder.config_file.exists():
        return LeftOut(name, _failure(path) or "it has not begun")
    try:
        config = folder.unedited_config().model_dump(mode="json")
    except RunFolderError as error:
        return LeftOut(name, str(error))
    rows, reached = evaluations_of(folder.path / "metrics.jsonl")
    if not folder.done:
        return LeftOut(name, _failure(path) or f"unfinished: {reached:,.0f} of {config['steps']:,} updates")
    done = read_json_object(folder.done_file)
    if done is None or not _finite(done.get("steps", 0)):
        return LeftOut(name, "its DONE was damaged or edited")
    if not isinstance(done.get("score"), Mapping):
        return LeftOut(name, "it has no score: there was nothing to act in")
    score = figures(done["score"])
    wrong = unusable(done["score"])
    if wrong is not None:
        return LeftOut(name, wrong)
    return _run(path, name, config, done, score, rows)


def _run(
    path: Path, name: str, config: dict[str, Any], done: dict[str, Any], score: Figures, rows: list[dict[str, Any]]
) -> Run:
    provenance = read_json_object(RunFolder(path).versions_file) or {}
    curve = _curve(rows)
    best = done.get("best")
    task = Path(config["dataset"] or config["environment"]).name
    record = read_json_object(RunFolder(path).task_file) or {}
    # Data that does not say where it was recorded is taken for that of the environment that the user named.
    elsewhere = bool(record.get("elsewhere")) and bool(record.get("scenario"))
    named = None if config["dataset"] is None else task
    data, normalized = (None, None) if elsewhere else data_returns(done.get("data"), named, provenance)
    return Run(
        name=name,
        folder=path,
        algorithm=config["algorithm"],
        label=config["algorithm"],
        task=task,
        seed=config["seed"],
        budget=config["steps"],
        step=int(done.get("steps", config["steps"])),
        score=score,
        curve=curve,
        best=figures(best) if isinstance(best, Mapping) and unusable(best) is None else None,
        evaluations=max(1, len(curve)),
        settings={
            **{key: value for key, value in config.items() if key != "settings"},
            **_defaults(config["algorithm"]),
            **config["settings"],
        },
        provenance=provenance,
        tuned_on=_read_tuning(path),
        data_return=data,
        data_normalized=normalized,
        scale=scale_of(record.get("reference"), config["reference"]),
        from_data=config["dataset"] is not None,
        pinned=_read_pinned(path),
    )


def _read_pinned(path: Path) -> dict[str, str]:
    """Read the checksums of networks that lie outside the run folder; what a run fitted within it is its own."""
    reward = read_json_object(path / REWARD) or {}
    told = {f"reward model in {reward.get('reward_model')}": reward.get("version")}
    told |= {f"reference policy in {reward.get('reference_policy')}": reward.get("reference")}
    told |= read_json_object(path / PINNED) or {}
    return {what: version for what, version in told.items() if isinstance(version, str) and what != OWN_MODEL}


def _defaults(algorithm: str) -> dict[str, Any]:
    """Find the defaults of an installed algorithm's settings, of which a run of an earlier version lacks newer ones."""
    try:
        kind = algorithms.get(algorithm).Config
    except RegistryError:
        return {}
    return kind.model_construct().model_dump(mode="json")


def figures(row: Mapping[str, Any]) -> Figures:
    """Select the numbers of a row; None for those that are not finite."""
    return {name: float(value) if _finite(value) else None for name, value in row.items() if not isinstance(value, str)}


def unusable(row: Mapping[str, Any]) -> str | None:
    """Explain why a score cannot be averaged; None if it can."""
    if "return" not in row or row["return"] is None:
        return "its score holds no return"
    for name in ("return", "normalized_return"):
        if row.get(name) is not None and not _finite(row[name]):
            return f"its {name} is {_short(str(row[name]))}, which is no number that can be averaged"
    return None


def describe_tuning(tuning: Mapping[str, Any]) -> str:
    """Describe in a sentence how the settings of a run were chosen."""
    seeds = ", ".join(map(str, tuning["seeds"]))
    return f"tuned on seeds {seeds}: best {tuning['metric']} of {tuning['configurations']} settings"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and -LARGEST_MAGNITUDE <= value <= LARGEST_MAGNITUDE


def names_of(folders: Sequence[Path]) -> list[str]:
    """Name folders uniquely, with as many of the folders above as it takes."""
    return shortest_names(
        [[os.fsencode(part).decode(errors="replace") for part in path.resolve().parts] for path in folders]
    )


def read_json_object(file: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where the file is missing, damaged or holds something else."""
    try:
        return read_table(file, finite=False)
    except (OSError, ValueError):
        return None


def _read_tuning(path: Path) -> str | None:
    if not (path / TUNED).exists():
        return None
    try:
        return describe_tuning(read_json_object(path / TUNED) or {})
    except (KeyError, TypeError):
        return f"tuned, but its {TUNED} was damaged or is of another version"


def evaluations_of(file: Path) -> tuple[list[dict[str, Any]], float]:
    """Read the rows of evaluations, and the last step of all rows."""
    rows, reached = [], 0.0
    for row in each_row(file):
        if isinstance(row, dict) and _finite(row.get("step")):
            reached = max(reached, row["step"])
            if row.get("kind") == "eval":
                rows.append(row)
    return rows, reached


def _curve(rows: list[dict[str, Any]]) -> tuple[Figures, ...]:
    """Order evaluations by step, without those that lack a finite return; of one step the last counts."""
    by_step = {row["step"]: row for row in rows if unusable(row) is None}
    return tuple(figures(by_step[step]) for step in sorted(by_step))


def _failure(path: Path) -> str | None:
    """Read the reason of a failed run from its job's log; None if it logged none."""
    starts = read_rows(path / "starts.jsonl")
    last = starts[-1] if starts and isinstance(starts[-1], dict) else {}
    if last.get("how") != "failed":
        return None
    return f"failed: {_short(str(last.get('why') or _last_log_line(path) or 'it did not say why'))}"


def _last_log_line(path: Path) -> str | None:
    """Read the last line that the job of this folder printed."""
    job = read_json_object(path / "job.json") or {}
    file = Path(str(job.get("logs"))) / f"{job.get('id')}_0_log.err"
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - TAIL_BYTES))
            lines = stream.read().decode(errors="replace").split("\n")
    except OSError:
        return None
    return next((line.rpartition("\r")[2].strip() for line in reversed(lines) if line.strip()), None)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."
