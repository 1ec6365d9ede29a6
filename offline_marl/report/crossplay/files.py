"""A cross-play matrix as JSON, as CSV and as the small table that is printed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from offline_marl.core.files import write_atomically
from offline_marl.report.crossplay.crossplay import Crossplay, Interval, Values
from offline_marl.report.crossplay.groups import RULE
from offline_marl.report.crossplay.heatmap import draw_matrix

DIGITS = 6
"""Behind the point, in files."""
TWO = "Row: the run of agent_0, column: that of agent_1."
MORE = "Row: the run of the team, column: the run of its one guest, averaged over which agent is the guest."


def write_crossplay(found: Crossplay, folder: Path) -> list[Path]:
    """Write crossplay.json, .csv, .svg and .png; those that exist are replaced.

    Returns:
        What was written; without the pictures where matplotlib (extra `report`) is not installed.
    """
    files = {"crossplay.json": (json.dumps(plain(found), indent=1) + "\n").encode()}
    files["crossplay.csv"] = csv_of(found).encode()
    for form in ("svg", "png"):
        picture = draw_matrix(found, form)
        files |= {} if picture is None else {f"crossplay.{form}": picture}
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def plain(found: Crossplay) -> dict[str, Any]:
    """As JSON holds it; docs/evidence.md says what each entry is."""
    fields = ("name", "folder", "algorithm", "task", "seed", "step", "finished")
    reference = found.reference
    normalized = None if reference is None else {"random": reference.random, "expert": reference.expert}
    matrices = _both_scales(found, (found.means, found.low, found.high))
    return {
        "kind": "crossplay",
        "format": 1,
        "task": found.task,
        "agents": found.agents,
        "episodes": found.episodes,
        "seed": found.seed,
        "entry": TWO if found.agents == 2 else MORE,
        "runs": [{name: getattr(player, name) for name in fields} for player in found.players],
        "reference": normalized,
        **{name: each.round(DIGITS).tolist() for name, each in matrices.items()},
        "interval": "95 % percentile bootstrap over starts",
        "agreement": None if found.agreement is None else found.agreement.round(DIGITS).tolist(),
        "groups": [vars(group) | {"members": list(group.members)} for group in found.groups],
        "order": found.order,
        "loss": found.loss.round(DIGITS).tolist(),
        "limit": round(found.limit, DIGITS),
        "rule": RULE,
        "summary": {name: _told(each, found, name == "gap") for name, each in found.summary.items()},
        "summary_interval": f"95 % percentile bootstrap; covers {found.covers}",
        "notes": list(found.notes),
    }


def csv_of(found: Crossplay) -> str:
    """One row for each pairing."""
    stream = io.StringIO()
    columns = ["row", "column", "row_step", "column_step", "return", "return_low", "return_high"]
    columns += ["normalized_return", "normalized_low", "normalized_high", "agreement", "same_group", "episodes", "seed"]
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    group = {row: number for number, each in enumerate(found.groups) for row in each.members}
    for i, one in enumerate(found.players):
        for j, other in enumerate(found.players):
            scores = _both_scales(found, [each[i, j] for each in (found.means, found.low, found.high)])
            agreed = "" if found.agreement is None else round(float(found.agreement[i, j]), DIGITS)
            row = {"row": one.name, "column": other.name, "row_step": one.step, "column_step": other.step}
            row |= {name: round(float(value), DIGITS) for name, value in scores.items()}
            row |= {"agreement": agreed, "same_group": int(group[i] == group[j])}
            writer.writerow({**row, "episodes": found.episodes, "seed": found.seed})
    return stream.getvalue()


def lines_of(found: Crossplay) -> list[str]:
    """The matrix, group by group, and what it adds up to, for a terminal."""
    shown = found.scaled(found.means)
    width = max(len(player.name) for player in found.players)
    lines = [f"mean {found.unit} over {found.episodes} starts in {found.task}. {TWO if found.agents == 2 else MORE}"]
    lines.append(" " * (width + 4) + "".join(f"{number + 1:>8}" for number in range(len(found.order))))
    for number, i in enumerate(found.order):
        cells = "".join(f"{shown[i, j]:>8.{2 if found.reference is None else 1}f}" for j in found.order)
        lines.append(f"{number + 1:>3} {found.players[i].name:<{width}}{cells}")
    for name, each in found.summary.items():
        if each is not None:
            lines.append(f"{name.replace('_', '-'):<12}{_sentence(each, found, name == 'gap')}")
    lines.append(f"{'intervals':<12}95 %, bootstrap over {found.covers}")
    for number, group in enumerate(found.groups):
        names = ", ".join(found.players[row].name for row in group.members)
        way = "" if group.convention is None else f" ({group.convention} in {100 * (group.followed or 0):.0f} %)"
        lines.append(f"{f'group {number + 1}':<12}{names}{way}")
    return lines


def _both_scales(found: Crossplay, values: Sequence[Any], difference: bool = False) -> dict[str, Values]:
    """Mean, low and high by name; normalised ones too where there are references."""
    raw = dict(zip(("return", "return_low", "return_high"), map(np.asarray, values), strict=True))
    if found.reference is None:
        return raw
    names = ("normalized_return", "normalized_low", "normalized_high")
    return raw | {name: found.scaled(each, difference) for name, each in zip(names, raw.values(), strict=True)}


def _told(each: Interval | None, found: Crossplay, difference: bool) -> dict[str, float] | None:
    if each is None:
        return None
    both = _both_scales(found, (each.mean, each.low, each.high), difference)
    return {name: round(float(value), DIGITS) for name, value in both.items()}


def _sentence(each: Interval, found: Crossplay, difference: bool) -> str:
    raw = f"{each.mean:.3f} [{each.low:.3f}, {each.high:.3f}]"
    mean, low, high = found.scaled(np.array([each.mean, each.low, each.high]), difference)
    return raw if found.reference is None else f"{mean:.1f} [{low:.1f}, {high:.1f}] (return {raw})"
