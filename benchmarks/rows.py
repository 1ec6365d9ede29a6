"""Rows of results: a CSV file in which a finished run's rows take the place of those it had before."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np

Row = TypeVar("Row", bound=tuple[Any, ...])
WRITING = Lock()


def read(path: Path) -> list[dict[str, str]]:
    """The rows that a file holds; none if it is not there."""
    if not path.exists():
        return []
    with path.open() as stream:
        return list(csv.DictReader(stream))


def missing(path: Path, columns: Sequence[str], wanted: Iterable[Row]) -> list[Row]:
    """Those of `wanted`, tuples that begin with values of `columns`, of which a file has no row.

    So that a benchmark goes on where its committed rows end, also on a machine that has none of its runs.
    """
    have = {tuple(row[name] for name in columns) for row in read(path)}
    return [each for each in wanted if tuple(map(str, each[: len(columns)])) not in have]


def replace(path: Path, new: Sequence[Mapping[str, Any]], fields: Sequence[str], key: Sequence[str]) -> None:
    """Write rows in place of those that agree with them in the columns of `key`, sorted by these."""

    def of(row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in key)

    with WRITING:
        taken = {of(row) for row in new}
        rows = sorted([*(row for row in read(path) if of(row) not in taken), *new], key=lambda row: numbered(of(row)))
        write(path, fields, rows)


def write(path: Path, fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of these rows, beside its place first; what they hold besides the fields is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fields, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def put_table(page: Path, name: str, table: str) -> None:
    """Put a table between the marks of its name in a page."""
    before, opening, rest = page.read_text().partition(f"<!-- table {name} -->\n")
    _, closing, behind = rest.partition("<!-- /table -->")
    page.write_text(f"{before}{opening}{table.strip()}\n\n{closing}{behind}")


def over_seeds(values: Sequence[float], digits: int = 1) -> str:
    """Mean, least and largest of the seeds, as tables show them."""
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def numbered(words: Iterable[str]) -> tuple[tuple[float, str], ...]:
    """A key of sorting in which numbers stand by their size, before all words."""
    return tuple((float(word), "") if word.lstrip("-").isdigit() else (float("inf"), word) for word in words)


def command(words: Sequence[str], log: Path) -> bool:
    """A command of the library in a process of its own, on one thread; whether it ended well."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "offline_marl", *words],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
    if done.returncode:
        print(f"FAILED  {' '.join(words)}; see {log}", file=sys.stderr)
    return done.returncode == 0


def commit_of(folder: Path) -> str:
    """The commit that a run was begun with; empty where there was no checkout."""
    # Imported here, since headline.py reads rows beside older checkouts of the library, which do not have it.
    from offline_marl.runs.software import short_commit

    return short_commit(json.loads((folder / "versions.json").read_text()).get("commit") or "")


def trained(folder: Path, fresh: Sequence[str]) -> bool:
    """Whether a run is finished, after training it by the words `fresh`, or on from where it stopped."""
    if (folder / "DONE").exists():
        return True
    again = (folder / "config.json").exists()
    return command(["resume", str(folder)] if again else [*fresh, "--out", str(folder)], folder.with_suffix(".log"))
