"""Files of a cross-play matrix (JSON, CSV, pictures) and the table that is printed."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from offline_marl.core.attempts import attempt
from offline_marl.core.files import write_atomically
from offline_marl.report.crossplay.crossplay import Crossplay, Interval, Values
from offline_marl.report.crossplay.groups import RULE
from offline_marl.report.crossplay.heatmap import draw_matrix

DIGITS = 6
"""Behind the point, in files."""
TWO = "Row: the run of agent_0, column: that of agent_1."
MORE = "Row: the run of the team, column: the run of its one guest, averaged over which agent is the guest."


def write_crossplay(result: Crossplay, folder: Path) -> list[Path]:
    """Write crossplay.json, .csv, .svg and .png; those that exist are replaced.

    Returns:
        What was written; without the pictures where matplotlib (extra `report`) is not installed.
    """
    files = {"crossplay.json": (json.dumps(plain(result), indent=1) + "\n").encode()}
    files["crossplay.csv"] = csv_of(result).encode()
    for form in ("svg", "png"):
        picture = attempt(functools.partial(draw_matrix, result, form), f"{form} of the matrix")
        files |= {} if picture is None else {f"crossplay.{form}": picture}
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def plain(result: Crossplay) -> dict[str, Any]:
    """Convert a result to plain values for JSON; docs/evidence.md explains each entry."""
    fields = ("name", "folder", "algorithm", "task", "seed", "step", "finished")
    reference = result.reference
    normalized = None if reference is None else {"random": reference.random, "expert": reference.expert}
    matrices = _both_scales(result, (result.means, result.low, result.high))
    return {
        "kind": "crossplay",
        "format": 1,
        "task": result.task,
        "agents": result.agents,
        "episodes": result.episodes,
        "seed": result.seed,
        "entry": TWO if result.agents == 2 else MORE,
        "runs": [{name: getattr(player, name) for name in fields} for player in result.players],
        "reference": normalized,
        **{name: matrix.round(DIGITS).tolist() for name, matrix in matrices.items()},
        "interval": "95 % percentile bootstrap over starts",
        "agreement": None if result.agreement is None else result.agreement.round(DIGITS).tolist(),
        "groups": [vars(group) | {"members": list(group.members)} for group in result.groups],
        "order": result.order,
        "loss": result.loss.round(DIGITS).tolist(),
        "limit": round(result.limit, DIGITS),
        "rule": RULE,
        "summary": {name: _format_entry(matrix, result, name == "gap") for name, matrix in result.summary.items()},
        "summary_interval": f"95 % percentile bootstrap; covers {result.covers}",
        "notes": list(result.notes),
    }


def csv_of(result: Crossplay) -> str:
    """Format a result as CSV, one row for each pairing."""
    stream = io.StringIO()
    columns = ["row", "column", "row_step", "column_step", "return", "return_low", "return_high"]
    columns += ["normalized_return", "normalized_low", "normalized_high", "agreement", "same_group", "episodes", "seed"]
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    group = {row: number for number, entry in enumerate(result.groups) for row in entry.members}
    for i, one in enumerate(result.players):
        for j, other in enumerate(result.players):
            scores = _both_scales(result, [entry[i, j] for entry in (result.means, result.low, result.high)])
            agreed = "" if result.agreement is None else round(float(result.agreement[i, j]), DIGITS)
            row = {"row": one.name, "column": other.name, "row_step": one.step, "column_step": other.step}
            row |= {name: round(float(value), DIGITS) for name, value in scores.items()}
            row |= {"agreement": agreed, "same_group": int(group[i] == group[j])}
            writer.writerow({**row, "episodes": result.episodes, "seed": result.seed})
    return stream.getvalue()


def lines_of(result: Crossplay) -> list[str]:
    """Format the matrix, ordered by group, and its summary for a terminal."""
    shown = result.scaled(result.means)
    width = max(len(player.name) for player in result.players)
    lines = [
        f"mean {result.unit} over {result.episodes} starts in {result.task}. {TWO if result.agents == 2 else MORE}"
    ]
    lines.append(" " * (width + 4) + "".join(f"{number + 1:>8}" for number in range(len(result.order))))
    for number, i in enumerate(result.order):
        cells = "".join(f"{shown[i, j]:>8.{2 if result.reference is None else 1}f}" for j in result.order)
        lines.append(f"{number + 1:>3} {result.players[i].name:<{width}}{cells}")
    for name, interval in result.summary.items():
        if interval is not None:
            lines.append(f"{name.replace('_', '-'):<12}{_format_sentence(interval, result, name == 'gap')}")
    lines.append(f"{'intervals':<12}95 %, bootstrap over {result.covers}")
    for number, group in enumerate(result.groups):
        names = ", ".join(result.players[row].name for row in group.members)
        way = "" if group.convention is None else f" ({group.convention} in {100 * (group.followed or 0):.0f} %)"
        lines.append(f"{f'group {number + 1}':<12}{names}{way}")
    return lines


def _both_scales(result: Crossplay, values: Sequence[Any], difference: bool = False) -> dict[str, Values]:
    """Name mean, low and high; normalised ones too where there is a reference."""
    raw = dict(zip(("return", "return_low", "return_high"), map(np.asarray, values), strict=True))
    if result.reference is None:
        return raw
    names = ("normalized_return", "normalized_low", "normalized_high")
    return raw | {name: result.scaled(array, difference) for name, array in zip(names, raw.values(), strict=True)}


def _format_entry(interval: Interval | None, result: Crossplay, difference: bool) -> dict[str, float] | None:
    if interval is None:
        return None
    both = _both_scales(result, (interval.mean, interval.low, interval.high), difference)
    return {name: round(float(value), DIGITS) for name, value in both.items()}


def _format_sentence(interval: Interval, result: Crossplay, difference: bool) -> str:
    raw = f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
    mean, low, high = result.scaled(np.array([interval.mean, interval.low, interval.high]), difference)
    return raw if result.reference is None else f"{mean:.1f} [{low:.1f}, {high:.1f}] (return {raw})"
