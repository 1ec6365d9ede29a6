"""Evidence made up for tests of the page: as many tasks, labels and runs as wanted, with every part filled."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np

from offline_marl.report.gather.scores import Gathered, LeftOut, Run
from offline_marl.report.page.material import EpisodeConventions, Material, Model
from offline_marl.report.statistics.estimates import (
    LAST,
    Aggregate,
    Cell,
    Comparison,
    Curve,
    Estimate,
    Evidence,
    Profile,
)

NASTY = "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'
STEPS = tuple(range(0, 5001, 250))


def score(value: float, agreement: float = 0.9) -> dict[str, float | None]:
    return {"return": value / 10 - 12, "normalized_return": value, "agreement": agreement, "episodes": 100.0}


def around(value: float, width: float = 2.0) -> Estimate:
    return Estimate(value, value - width, value + width)


def run_of(task: str, label: str, seed: int, value: float, folder: Path | None = None) -> Run:
    """One finished run of a label on a task."""
    return Run(
        name=f"{label} {seed}",
        folder=folder,
        algorithm=label.partition(",")[0],
        label=label,
        task=task,
        seed=seed,
        budget=5000,
        step=5000,
        score=score(value),
        curve=tuple({"step": float(step), **score(value * step / 5000)} for step in STEPS),
        settings={"lr": 0.001 if "slow" in label else 0.01, "hidden": [64, 64], "only": label},
        provenance={"commit": "0123456789abcdef", "dataset_sha256": "ab" * 32, "torch": "2.9", "numpy": "2.4"},
        tuned_on="tuned on seeds 7, 8: best return of 4 settings" if "tuned" in label else None,
        data_return=-10.0,
        data_normalized=35.0,
    )


def evidence(tasks: int = 2, labels: tuple[str, ...] = ("iql", "bc", "ma-iql"), seeds: int = 3) -> Evidence:
    """Everything that a report shows, of labels that are better the earlier they stand."""
    names = [f"reacher-scripted-mix-v0_view{number}" for number in range(tasks)]
    values = {label: 90.0 - 10 * place for place, label in enumerate(labels)}
    runs = [
        run_of(task, label, seed, values[label] + seed)
        for task, label, seed in itertools.product(names, labels, range(seeds))
    ]
    cells = [cell_of(task, label, values[label], seeds) for task, label in itertools.product(names, labels)]
    taus = tuple(np.linspace(0, 100, 51).tolist())
    profiles = [
        Profile(label, taus, share := tuple(float(tau < values[label]) for tau in taus), share, share)
        for label in labels
    ]
    every = tuple(names)
    aggregates = [
        Aggregate(label, every, seeds, *(around(values[label]) for _ in range(3)), around(100 - values[label]))
        for label in labels
    ]
    comparisons = [
        Comparison(one, other, where, (seeds, seeds), around(0.9 if wins else 0.1, 0.05), wins)
        for one, other in itertools.permutations(labels, 2)
        for where in [*([every] if tasks > 1 else []), *((name,) for name in names)]
        for wins in [values[one] > values[other]]
    ]
    left = (LeftOut("iql 9", "unfinished: stopped at update 3,000 of 5,000"),)
    curves = [curve_of(task, label, values[label], seeds) for task, label in itertools.product(names, labels)]
    parts = cells, aggregates, profiles, comparisons, curves
    return Evidence(Gathered(tuple(runs), left), LAST, 2000, 0, *map(tuple, parts), ("Budgets differ.",))


def cell_of(task: str, label: str, value: float, seeds: int) -> Cell:
    """A row of the table."""
    return Cell(
        task=task,
        label=label,
        algorithm=label,
        budget=5000,
        seeds=tuple(range(seeds)),
        names=tuple(f"{label} {seed}" for seed in range(seeds)),
        mean=around(value / 10 - 12, 0.2),
        iqm=around(value / 10 - 12, 0.2),
        deviation=0.15,
        normalized_mean=around(value),
        normalized_iqm=around(value),
        agreement=around(0.9, 0.03),
        data_return=-10.0,
        data_normalized=35.0,
        tuned_on="tuned on seeds 7, 8" if "tuned" in label else None,
    )


def curve_of(task: str, label: str, value: float, seeds: int) -> Curve:
    """Scores over updates."""
    iqm = tuple(value * (1 - np.exp(-step / 1500)) for step in STEPS)
    low, high = tuple(each - 3 for each in iqm), tuple(each + 3 for each in iqm)
    return Curve(task, label, "normalized_return", seeds, STEPS, iqm, low, high)


def report() -> dict[str, object]:
    """The content of a world model's report.json."""
    steps = list(range(1, 51))
    rewards = {"sum_error": [0.1 * step for step in steps], "sum_mean_reward": [0.2 * step for step in steps]}
    return {
        "trusted": False,
        "reasons": ["it errs more than who says that nothing changes"],
        "open_loop": {"steps": steps, "error": [0.01 * s for s in steps], "nothing_changes": [0.03 * s for s in steps]},
        "rewards": {"bias_open_loop": 0.02, **rewards},
        "calibration": {"nominal": [0.1, 0.5, 0.9], "next_obs": [0.2, 0.6, 0.95], "rewards": None},
        "spread": {"covariance_norm": {"correlation_open_loop": 0.6, "correlation_one_step": 0.5}},
        "cutoff": {"spread": "covariance_norm", "cutoff": 2.0, "share_above": 0.01},
    }


def matrix() -> dict[str, object]:
    """The content of a crossplay.json: two conventions, two runs each."""
    own = {"normalized_return": 90.0, "normalized_low": 85.0, "normalized_high": 95.0}
    same = [[90.0 if i // 2 == j // 2 else 10.0 for j in range(4)] for i in range(4)]
    return {
        "kind": "crossplay",
        "task": "reacher",
        "episodes": 50,
        "entry": "Row: the run of agent_0, column: that of agent_1.",
        "runs": [{"name": f"run {number}"} for number in range(4)],
        "normalized_return": same,
        "normalized_low": [[each - 5 for each in row] for row in same],
        "normalized_high": [[each + 5 for each in row] for row in same],
        "agreement": [[each / 90 for each in row] for row in same],
        "order": [0, 1, 2, 3],
        "groups": [{"members": [0, 1], "convention": "clockwise"}, {"members": [2, 3], "convention": None}],
        "summary": {"self_play": own, "gap": None},
        "notes": [],
    }


def material(found: Evidence) -> Material:
    """One of everything, and what agents had settled on in the runs."""
    follow = ((0, 0), (1, 1), (0, 1), (-1, -1)) * 5
    places = tuple((0.01 * number, -0.02 * number) for number in range(20))
    ends = [
        EpisodeConventions(run.label, run.task, run.seed, ("left", "right"), follow, places)
        for run in found.gathered.runs
    ]
    return Material((Model("model", json.loads(json.dumps(report()))),), (matrix(),), tuple(ends))
