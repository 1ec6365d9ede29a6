"""The picture at the end of a run: its learning curve, and the returns of its last evaluation."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from offline_marl.core.files import write_atomically
from offline_marl.datasets.figures import draw_figure, room_for_bins
from offline_marl.environments.base import Conventions
from offline_marl.environments.scores import Score
from offline_marl.runs.metric_rows import read_rows

BLUE, GREY, RED = "#2563a8", "#8a8f98", "#c0392b"
MARKS = ((BLUE, "o"), ("#e08a1e", "s"), ("#3c8d5a", "^"), ("#7b52ab", "D"))


def draw_run(folder: Path, title: str, score: Score) -> Path | None:
    """Draw `picture.png` into the run folder.

    Returns:
        Where it is, or None where matplotlib (extra `report`) is not installed.
    """
    panels = 2 if score.conventions is None else 3
    unit = "return" if score.reference is None else "normalized return"

    def paint(figure: Any) -> None:
        curve, spread, *rest = figure.subplots(1, panels)
        _draw_curve(curve, [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "eval"], unit)
        _draw_returns(spread, score, unit)
        if score.conventions is not None:
            draw_conventions(rest[0], score.conventions)
        figure.suptitle(title, parse_math=False)

    image = draw_figure(paint, (4.5 * panels, 3.6), dpi=130, layout="constrained")
    if image is None:
        return None
    path = folder / "picture.png"
    write_atomically(path, image)
    return path


def _draw_curve(axes: Any, rows: list[dict[str, Any]], unit: str) -> None:
    prefix = unit.partition(" ")[0]
    steps = [row["step"] for row in rows]
    axes.plot(steps, [row[unit.replace(" ", "_")] for row in rows], color=BLUE, marker="o", markersize=3)
    low, high = ([row[f"{prefix}_{end}"] for row in rows] for end in ("low", "high"))
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.2, linewidth=0)
    axes.set(xlabel="updates", ylabel=unit, title="learning curve, 95 % interval")
    axes.grid(alpha=0.3)


def _draw_returns(axes: Any, score: Score, unit: str) -> None:
    normalized = np.vectorize(score.reference.normalized) if score.reference is not None else np.asarray
    values = normalized(score.returns)
    axes.hist(values, bins=min(30, max(5, len(values) // 4)), range=room_for_bins(values), color=BLUE, alpha=0.8)
    axes.axvline(float(np.mean(values)), color="black", label=f"mean {np.mean(values):.1f}")
    if score.reference is not None:
        axes.axvline(100.0, color=GREY, linestyle="--", label="expert")
    axes.set(xlabel=unit, ylabel="episodes", title=f"last evaluation, {len(values)} episodes")
    axes.legend(frameon=False)


def draw_conventions(axes: Any, conventions: Conventions) -> None:
    """Which convention the agents shared in each episode: where its target lay, or how often."""
    counts = conventions.counts()
    marks = dict(zip(conventions.names, itertools.cycle(MARKS))) | {"apart": (RED, "x")}
    title = f"agreement {conventions.agreed.mean():.2f} of {len(conventions.followed)} episodes"
    if conventions.targets is None:
        axes.bar(list(counts), list(counts.values()), color=[marks[name][0] for name in counts])
        axes.set(ylabel="episodes", title=title)
        return
    for name, (color, marker) in marks.items():
        those = (
            ~conventions.agreed
            if name == "apart"
            else conventions.agreed & (conventions.followed[:, 0] == conventions.names.index(name))
        )
        if counts[name]:
            where = conventions.targets[those]
            axes.scatter(where[:, 0], where[:, 1], c=color, marker=marker, s=22, label=f"{name} {counts[name]}")
    axes.set(xlabel="target x [m]", ylabel="target y [m]", title=title, aspect="equal")
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
