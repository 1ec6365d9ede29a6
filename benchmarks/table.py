"""Print a results CSV as a Markdown table: `python benchmarks/table.py [CSV]`.

Normalized return (0 random, 100 expert) of the last checkpoint: mean over seeds, interquartile mean, and a
95 % bootstrap interval of the mean over seeds (percentile; few seeds make it coarse).
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from scipy import stats

HERE = Path(__file__).resolve().parent


def describe(values: np.ndarray) -> str:
    if len(values) < 2:
        return f"{values.mean():.1f} | {values.mean():.1f} | (one seed)"
    draws = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
    return f"{values.mean():.1f} | {stats.trim_mean(values, 0.25):.1f} | [{low:.1f}, {high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="?", type=Path, default=HERE / "results" / "reacher_scripted.csv")
    with parser.parse_args().results.open() as stream:
        rows = list(csv.DictReader(stream))
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["algo"]), []).append(float(row["normalized_return"]))
    print("| data set | algorithm | mean | IQM | 95 % interval | seeds |")
    print("|---|---|---|---|---|---|")
    for (dataset, algo), values in sorted(groups.items()):
        print(f"| `{dataset}` | `{algo}` | {describe(np.array(values))} | {len(values)} |")


if __name__ == "__main__":
    main()
