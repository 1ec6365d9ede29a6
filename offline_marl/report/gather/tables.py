"""Reader of runs from committed tables: benchmarks/results, or those of `sweep collect`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_marl.core.small_files import parse
from offline_marl.report.gather.data_returns import data_returns
from offline_marl.report.gather.run_folders import figures, unusable
from offline_marl.report.gather.scales import scale_of
from offline_marl.report.gather.scores import FIGURES, EvidenceError, LeftOut, Run

SCORE_COLUMNS = (*FIGURES, "versions_differ")
"""Columns that become the score."""
DATA_COLUMNS = ("data_return", "data_normalized")
"""Columns of the data's own returns; without them the catalogue is asked, unless the row names an environment too."""
PROVENANCE_COLUMNS = ("commit", "dataset_sha256", "wall_s")
ALGORITHM, TASK, STEPS = ("algorithm", "algo"), ("dataset", "environment"), ("steps", "step")
BUDGET = ("budget", *STEPS)
"""Without a budget a row's updates are all that were declared."""
KNOWN_COLUMNS = {
    *SCORE_COLUMNS,
    *DATA_COLUMNS,
    *PROVENANCE_COLUMNS,
    *ALGORITHM,
    *TASK,
    *BUDGET,
    "run",
    "seed",
    "tuned_on",
}
"""Every other column is a setting."""


def read_table(path: Path) -> list[Run | LeftOut]:
    """Read a run from each row; rows whose score is no number are left out.

    Raises:
        EvidenceError: The file is no table of scores, or a row cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        reason = "it is no text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise EvidenceError(f"{path} is no table of comma-separated values: {reason}.") from None
    _check(path, columns)
    if not rows:
        raise EvidenceError(f"{path} holds no scores: there is nothing below its line of names.")
    return [_read_row(path, number, row) for number, row in enumerate(rows, start=2)]


def _check(path: Path, columns: Sequence[str]) -> None:
    """Refuse what is no table of scores."""
    for wanted in (ALGORITHM, TASK, ("seed",), STEPS, ("return",)):
        if set(wanted) & set(columns):
            continue
        sign = next((name for sign, name in ((";", "semicolons"), ("\t", "tabs")) if sign in "".join(columns)), None)
        if sign is not None:
            raise EvidenceError(f"{path} has {sign} between its columns: save it with commas.")
        raise EvidenceError(
            f"{path} is no table of scores: it has no column '{wanted[0]}' (`offline-marl sweep collect` writes one)."
        )


def _read_row(path: Path, line: int, row: Mapping[str, str | None]) -> Run | LeftOut:
    algorithm, task = _first(row, ALGORITHM), _first(row, TASK)
    if not algorithm or not task:
        raise EvidenceError(f"Line {line} of {path} does not say its algorithm and its data set.")
    name = row.get("run") or f"{algorithm} {Path(task).name} seed {row['seed']}"
    score = {column: _number(path, line, column, row[column]) for column in SCORE_COLUMNS if column in row}
    wrong = unusable(score)
    if wrong is not None:
        return LeftOut(name, wrong)
    provenance = {column: row[column] for column in PROVENANCE_COLUMNS if row.get(column)}
    seed, steps, budget = (_whole(path, line, column, _first(row, column)) for column in (("seed",), STEPS, BUDGET))
    returns = {name: _number(path, line, name, row.get(name)) for name in DATA_COLUMNS}
    mark = {"return": returns["data_return"], "normalized_return": returns["data_normalized"]}
    settings = _settings(row)
    # Of data that an environment stands beside, the catalogue's mean may be of another scale than the scores.
    is_of_data = bool(row.get("dataset")) and not settings.get("environment")
    data, normalized = data_returns(mark, Path(task).name if is_of_data else None, provenance)
    return Run(
        name=name,
        folder=None,
        algorithm=algorithm,
        label=algorithm,
        task=Path(task).name,
        seed=seed,
        budget=budget,
        step=steps,
        score=figures(score),
        settings=settings,
        provenance=provenance,
        tuned_on=row.get("tuned_on") or None,
        data_return=data,
        data_normalized=normalized,
        scale=scale_of(None, settings.get("reference")),
        from_data=bool(row.get("dataset")) or not row.get("environment"),
    )


def _settings(row: Mapping[str, str | None]) -> dict[str, Any]:
    """Parse the columns that are settings, and of a row on data the environment in which it was scored."""
    settings = {key: _value(value) for key, value in row.items() if key is not None and key not in KNOWN_COLUMNS}
    return (
        {**settings, "environment": row["environment"]} if row.get("dataset") and row.get("environment") else settings
    )


def _first(row: Mapping[str, str | None], columns: tuple[str, ...]) -> str:
    return next((value for column in columns if (value := row.get(column))), "")


def _number(path: Path, line: int, column: str, text: str | None) -> float | None:
    if not text:
        return None
    if text in {"True", "False"}:
        return float(text == "True")
    try:
        return float(text)
    except ValueError:
        raise EvidenceError(f"Line {line} of {path} has '{text}' in the column '{column}': no number.") from None


def _whole(path: Path, line: int, columns: tuple[str, ...], text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise EvidenceError(f"Line {line} of {path} has '{text}' as its {columns[0]}: no whole number.") from None


def _value(text: Any) -> Any:
    """Parse a setting from its text."""
    if text in (None, ""):
        return None
    if text in {"True", "False"}:
        return text == "True"
    try:
        return parse(text)
    except (ValueError, TypeError):
        return text
