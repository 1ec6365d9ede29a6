"""Who agreed by the protocol before headline.toml: `python benchmarks/earlier_headline.py [--jobs N] [--table]`.

On the mixed Reacher data, whose halves bend the elbow opposite ways, and for each of three views: MOMA-PPO in a world
model of the data, the same in the simulator itself (oracle), and the model-free learners, five seeds each. Trains
what is missing by way of run.py, whose runs it shares, writes results/headline.csv and draws results/headline.svg.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
DATA = "reacher-scripted-mix-v0"
VIEWS = {
    "2x1notip_0": "each sees its own joint",
    "2x1first_0": "only the first sees the target",
    "2x1_full": "each sees all",
}
LEARNERS = ("moma-ppo oracle", "moma-ppo", "ma-iql", "iql", "td3-bc", "omar", "cql", "bc")
PRESETS = [f"{name}/{DATA}_{view}" for view in VIEWS for name in ("bc", "iql", "ma_iql", "td3_bc", "cql", "omar")]
PRESETS += [f"moma_ppo/{prefix}{DATA}_{view}" for view in VIEWS for prefix in ("", "oracle_")]
SEEDS = ("0", "1", "2", "3", "4")
RESULTS = HERE / "results" / "headline.csv"
COLORS = {"moma-ppo": "#2563a8", "moma-ppo oracle": "#7fa8d6"}


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds, by percentiles."""
    draws = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
    return float(low), float(high)


def read() -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Scores and agreement rates over seeds, by view and learner."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with RESULTS.open() as stream:
        for row in csv.DictReader(stream):
            key = row["dataset"].removeprefix(f"{DATA}_"), row["algo"]
            found.setdefault(key, []).append((float(row["normalized_return"]), float(row["agreement"])))
    return {key: dict(zip(("score", "agreement"), np.array(values).T, strict=True)) for key, values in found.items()}


def print_table(found: dict[tuple[str, str], dict[str, np.ndarray]]) -> None:
    """A row for each learner: score with its interval, and agreement, for each view."""
    print(f"| `{DATA}` |" + "".join(f" `{view}` | agree |" for view in VIEWS))
    print("|---|" + "---|---|" * len(VIEWS))
    for name in LEARNERS:
        cells = []
        for view in VIEWS:
            held = found.get((view, name))
            if held is None:
                cells += ["", ""]
                continue
            low, high = interval(held["score"])
            few = "" if len(held["score"]) == len(SEEDS) else f" ({len(held['score'])} seeds)"
            cells += [f"{held['score'].mean():.1f} [{low:.1f}, {high:.1f}]{few}", f"{held['agreement'].mean():.2f}"]
        print(f"| `{name}` |" + "".join(f" {cell} |" for cell in cells))


def draw(found: dict[tuple[str, str], dict[str, np.ndarray]]) -> Path:
    """Score and agreement of every learner, a column for each view; dots are seeds."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.2), layout="constrained")
    rows = figure.subplots(2, len(VIEWS), sharey="row")
    for axes, (view, about) in zip(rows.T, VIEWS.items(), strict=True):
        for panel, what, unit in zip(axes, ("score", "agreement"), ("normalized return", "agreement"), strict=True):
            _draw_panel(panel, {name: found[view, name][what] for name in LEARNERS if (view, name) in found})
            panel.set_ylabel(unit if view == next(iter(VIEWS)) else "")
        axes[0].set_title(f"{view}: {about}", fontsize=10)
        axes[0].axhline(100, color="#8a8f98", linestyle="--", linewidth=0.8)
        axes[1].set_ylim(0, 1.02)
    path = RESULTS.with_suffix(".svg")
    with mpl.rc_context({"svg.hashsalt": "headline"}):
        figure.savefig(path, metadata={"Date": None})
    return path


def _draw_panel(axes: Any, values: dict[str, np.ndarray]) -> None:
    for place, (name, held) in enumerate(values.items()):
        low, high = interval(held)
        color = COLORS.get(name, "#8a8f98")
        axes.bar(place, held.mean(), color=color, width=0.7)
        axes.vlines(place, low, high, color="black", linewidth=1.2)
        axes.plot(np.full(len(held), place) + 0.22, held, ".", color="black", markersize=4, alpha=0.6)
    axes.set_xticks(range(len(values)), values, rotation=40, ha="right", fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side, one thread each")
    parser.add_argument("--out", default="runs/bench", help="folder of the runs, the one that run.py uses")
    parser.add_argument("--table", action="store_true", help="train nothing: print the table of the committed CSV")
    options = parser.parse_args()
    if not options.table:
        command = [sys.executable, str(HERE / "run.py"), *PRESETS, "--seeds", *SEEDS, "--jobs", str(options.jobs)]
        subprocess.run([*command, "--out", options.out, "--results", str(RESULTS)], check=True)
    found = read()
    print_table(found)
    if not options.table:
        print(f"figure: {draw(found)}", file=sys.stderr)


if __name__ == "__main__":
    main()
