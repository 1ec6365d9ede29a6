"""Print a results CSV as a Markdown table: `python benchmarks/table.py [CSV] [--wide DATA]`.

Normalized return (0 random, 100 expert) of the last checkpoint: mean over seeds, interquartile mean, and a
95 % bootstrap interval of the mean over seeds (percentile; few seeds make it coarse), and agreement where it is known.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from scipy import stats

HERE = Path(__file__).resolve().parent


def interval(values: np.ndarray) -> str:
    if len(values) < 2:
        return "(one seed)"
    draws = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
    return f"[{low:.1f}, {high:.1f}]"


def long_table(groups: dict[tuple[str, str], np.ndarray], agreed: dict[tuple[str, str], list[float]]) -> None:
    """A row for each data set and algorithm."""
    print("| data set | algorithm | mean | IQM | 95 % interval | seeds |" + " agree |" * bool(agreed))
    print("|---|---|---|---|---|---|" + "---|" * bool(agreed))
    for key, values in sorted(groups.items()):
        dataset, algo = key
        middle = stats.trim_mean(values, 0.25)
        cells = f"`{dataset}` | `{algo}` | {values.mean():.1f} | {middle:.1f} | {interval(values)} | {len(values)} |"
        print(f"| {cells}" + (f" {np.mean(agreed[key]):.2f} |" if key in agreed else ""))


def wide_table(groups: dict[tuple[str, str], np.ndarray], data: str) -> None:
    """A row for each algorithm and a column for each conf and view of one data set."""
    tasks = sorted({task for task, _ in groups if task.startswith(f"{data}_")})
    print(f"| `{data}` |" + "".join(f" `{task.removeprefix(data + '_')}` |" for task in tasks))
    print("|---|" + "---|" * len(tasks))
    for algo in sorted({algo for _, algo in groups}):
        cells = [groups.get((task, algo)) for task in tasks]
        shown = ["" if values is None else f"{values.mean():.1f} {interval(values)}" for values in cells]
        print(f"| `{algo}` |" + "".join(f" {cell} |" for cell in shown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="?", type=Path, default=HERE / "results" / "reacher_scripted.csv")
    parser.add_argument("--wide", metavar="DATA", help="only this data set, a column for each conf and view")
    options = parser.parse_args()
    found: dict[tuple[str, str], list[float]] = {}
    agreed: dict[tuple[str, str], list[float]] = {}
    with options.results.open() as stream:
        for row in csv.DictReader(stream):
            found.setdefault((row["dataset"], row["algo"]), []).append(float(row["normalized_return"]))
            if row.get("agreement"):
                agreed.setdefault((row["dataset"], row["algo"]), []).append(float(row["agreement"]))
    groups = {key: np.array(values) for key, values in found.items()}
    if options.wide is None:
        long_table(groups, agreed)
    else:
        wide_table(groups, options.wide)


if __name__ == "__main__":
    main()
