"""Export of evidence as tables for spreadsheets, as JSON, and as marl-eval's JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from offline_marl.core.files import write_atomically
from offline_marl.report.gather.scores import FIGURES, Run
from offline_marl.report.statistics.estimates import Estimate, Evidence

SCORES, SUMMARY, EVERYTHING, MARL_EVAL = "scores.csv", "summary.csv", "evidence.json", "marl_eval.json"
FORMAT = 1
"""Of evidence.json; raised when a field changes its meaning."""
UNKNOWN_ENVIRONMENT = "unknown"
ENDS = ("", "_low", "_high")


def export(evidence: Evidence, out: Path) -> list[Path]:
    """Write the tables and both JSON files, each whole or not at all.

    Args:
        evidence: What is known.
        out: A folder; it is made, and files of an earlier report in it are replaced.

    Returns:
        The files.
    """
    out.mkdir(parents=True, exist_ok=True)
    content = {
        SCORES: as_csv(score_rows(evidence)),
        SUMMARY: as_csv(summary_rows(evidence)),
        EVERYTHING: _json(plain(evidence)),
        MARL_EVAL: _json(marl_eval(evidence)),
    }
    for name, text in content.items():
        write_atomically(out / name, text.encode(errors="replace"))
    return [out / name for name in content]


def score_rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Build the rows of scores.csv, one a run."""
    varied = evidence.gathered.varied
    return [
        {
            "run": run.name,
            "task": run.task,
            "label": run.label,
            "algorithm": run.algorithm,
            **{name: run.settings.get(name) for name in varied},
            "seed": run.seed,
            "budget": run.budget,
            "step": run.step,
            "scored": evidence.scored,
            **{name: run.score.get(name) for name in FIGURES},
            "data_return": run.data_return,
            "data_normalized": run.data_normalized,
            "tuned_on": run.tuned_on,
            "commit": run.provenance.get("commit", run.provenance.get("offline-marl")),
            "dataset_sha256": run.provenance.get("dataset_sha256"),
            "folder": None if run.folder is None else str(run.folder),
        }
        for run in evidence.gathered.runs
    ]


def summary_rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Build the rows of summary.csv, one for each label on each task."""
    return [
        {
            "task": cell.task,
            "label": cell.label,
            "algorithm": cell.algorithm,
            "budget": cell.budget,
            "scored": evidence.scored,
            "runs": cell.runs,
            "seeds": " ".join(map(str, cell.seeds)),
            **_interval_columns("mean_return", cell.mean),
            **_interval_columns("iqm_return", cell.iqm),
            "deviation": cell.deviation,
            **_interval_columns("mean_normalized", cell.normalized_mean),
            **_interval_columns("iqm_normalized", cell.normalized_iqm),
            **_interval_columns("agreement", cell.agreement),
            "data_return": cell.data_return,
            "data_normalized": cell.data_normalized,
            "tuned_on": cell.tuned_on,
        }
        for cell in evidence.cells
    ]


def plain(evidence: Evidence) -> dict[str, Any]:
    """Convert evidence to plain values, field by field as the dataclasses name them."""
    content = asdict(evidence)
    for run in content["gathered"]["runs"]:
        run["folder"] = None if run["folder"] is None else str(run["folder"])
    return {"format": FORMAT, **content}


def marl_eval(evidence: Evidence) -> dict[str, Any]:
    """Convert evidence to marl-eval's nesting: environment, task, algorithm, `run_0` ..., `step_0` ..., metrics.

    `absolute_metrics` are, as there, those of a run's best evaluation, which was chosen on the test environment; where
    only the last one is known, they are its. Commas, which its plots cannot have in names, become semicolons.
    """
    table: dict[str, Any] = {}
    for run in evidence.gathered.runs:
        environment, task, label = (name.replace(",", ";") for name in (_environment(run), run.task, run.label))
        runs = table.setdefault(environment, {}).setdefault(task, {}).setdefault(label, {})
        runs[f"run_{len(runs)}"] = _marl_eval_run(run)
    return table


def _marl_eval_run(run: Run) -> dict[str, Any]:
    points = list(run.curve) or [{"step": float(run.step), **run.score}]
    steps = {
        f"step_{number}": {"step_count": int(point.get("step") or run.step), **_metrics(point)}
        for number, point in enumerate(points)
    }
    return {**steps, "absolute_metrics": _metrics(run.best or run.score)}


def _metrics(point: Mapping[str, float | None]) -> dict[str, list[float]]:
    names = ("return", "normalized_return", "agreement")
    return {name: [value] for name in names if (value := point.get(name)) is not None}


def _environment(run: Run) -> str:
    """Find the environment's id, where the run's data or the run itself names one."""
    versions = run.provenance.get("dataset_versions")
    named = versions.get("env_id") if isinstance(versions, Mapping) else None
    return str(named or run.settings.get("environment") or UNKNOWN_ENVIRONMENT)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as CSV under a line of names; lists and tables as JSON, None as nothing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: json.dumps(v) if isinstance(v, list | tuple | dict) else v for name, v in row.items()})
    return text.getvalue()


def _interval_columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    ends = (None, None, None) if estimate is None else (estimate.value, estimate.low, estimate.high)
    return {f"{name}{end}": value for end, value in zip(ENDS, ends, strict=True)}


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(_finite(content), indent=1, allow_nan=False, default=str) + "\n"


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None; settings and versions may hold any."""
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
