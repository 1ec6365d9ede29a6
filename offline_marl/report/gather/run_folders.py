"""One run from its folder, or why it cannot be compared."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_marl.report.gather.data_returns import data_returns
from offline_marl.report.gather.scores import Figures, LeftOut, Run
from offline_marl.runs.folder import TUNED, RunFolder, RunFolderError
from offline_marl.runs.metric_rows import each_row, read_rows

TAIL_BYTES = 4_000
FARTHEST = 1e100
"""From zero: what lies beyond has diverged, and its square is no number any more."""
LONGEST = 200
"""Letters of a last word that are shown."""


def read_run(path: Path) -> Run | LeftOut:
    """The run of this folder, labelled with its algorithm alone; what is unfinished, failed or damaged says so."""
    folder = RunFolder(path)
    (name,) = names_of([path])
    if not folder.config_file.exists():
        return LeftOut(name, _failure(path) or "it has not begun")
    try:
        config = folder.config().model_dump(mode="json")
    except RunFolderError as error:
        return LeftOut(name, str(error))
    rows, reached = _evaluations(folder.path / "metrics.jsonl")
    if not folder.done:
        return LeftOut(name, _failure(path) or f"unfinished: {reached:,.0f} of {config['steps']:,} updates")
    done = _plain(folder.done_file)
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
    provenance = _plain(RunFolder(path).versions_file) or {}
    curve = _curve(rows)
    best = done.get("best")
    task = Path(config["environment"] or config["dataset"]).name
    data, normalized = data_returns(done.get("data"), None if config["environment"] else task, provenance)
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
        settings={**{key: value for key, value in config.items() if key != "settings"}, **config["settings"]},
        provenance=provenance,
        tuned_on=_tuned(path),
        data_return=data,
        data_normalized=normalized,
    )


def figures(row: Mapping[str, Any]) -> Figures:
    """The numbers of a row; None for what is none or is not finite."""
    return {name: float(value) if _finite(value) else None for name, value in row.items() if not isinstance(value, str)}


def unusable(row: Mapping[str, Any]) -> str | None:
    """Why a score cannot be averaged; None if it can."""
    if "return" not in row or row["return"] is None:
        return "its score holds no return"
    for name in ("return", "normalized_return"):
        if row.get(name) is not None and not _finite(row[name]):
            return f"its {name} is {_short(str(row[name]))}, which is no number that can be averaged"
    return None


def say_tuned(told: Mapping[str, Any]) -> str:
    """How the settings of a run were chosen."""
    seeds = ", ".join(map(str, told["seeds"]))
    return f"tuned on seeds {seeds}: best {told['metric']} of {told['configurations']} settings"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and -FARTHEST <= value <= FARTHEST


def names_of(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of the folders above as it takes to tell them apart."""
    parts = [[os.fsencode(part).decode(errors="replace") for part in each.resolve().parts] for each in folders]
    names = [each[-1] for each in parts]
    for depth in range(2, max(map(len, parts), default=0) + 1):
        held = Counter(names)
        if len(held) == len(names):
            break
        names = ["/".join(each[-depth:]) if held[name] > 1 else name for each, name in zip(parts, names, strict=True)]
    return names


def _plain(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _tuned(path: Path) -> str | None:
    if not (path / TUNED).exists():
        return None
    try:
        return say_tuned(_plain(path / TUNED) or {})
    except (KeyError, TypeError):
        return f"tuned, but its {TUNED} was damaged or is of another version"


def _evaluations(file: Path) -> tuple[list[dict[str, Any]], float]:
    """Rows of evaluations, and the last step of all rows."""
    rows, reached = [], 0.0
    for row in each_row(file):
        if isinstance(row, dict) and _finite(row.get("step")):
            reached = max(reached, row["step"])
            if row.get("kind") == "eval":
                rows.append(row)
    return rows, reached


def _curve(rows: list[dict[str, Any]]) -> tuple[Figures, ...]:
    """Evaluations by step; those without a finite return are no points."""
    found = {row["step"]: row for row in rows if unusable(row) is None}
    return tuple(figures(found[step]) for step in sorted(found))


def _failure(path: Path) -> str | None:
    """The last words of a run that failed, as its job wrote them down; None if it wrote none."""
    starts = read_rows(path / "starts.jsonl")
    last = starts[-1] if starts and isinstance(starts[-1], dict) else {}
    if last.get("how") != "failed":
        return None
    return f"failed: {_short(str(last.get('why') or _log(path) or 'it did not say why'))}"


def _log(path: Path) -> str | None:
    """The last line that the job of this folder printed."""
    job = _plain(path / "job.json") or {}
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
