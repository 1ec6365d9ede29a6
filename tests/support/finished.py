"""Finished runs for tests of evidence: run folders and runs, made up of numbers in no time."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from offline_marl.report.gather.scores import Gathered, Run
from offline_marl.runs.config import RunConfig


def run(label: str, task: str, seed: int, score: float, normalized: float | None = None, **more: Any) -> Run:
    """A run of which only the score matters; its normalised return is its return unless told."""
    figures = {"return": score, "normalized_return": score if normalized is None else normalized}
    held: dict[str, Any] = {"name": f"{label} {task} {seed}", "folder": None, "algorithm": label.partition(",")[0]}
    held |= {"budget": 100, "step": 100, "score": figures, **more}
    return Run(label=label, task=task, seed=seed, **held)


def scored(scores: Mapping[tuple[str, str], Any], **more: Any) -> Gathered:
    """Runs with these scores, by label and task."""
    return Gathered(
        tuple(
            run(label, task, seed, float(score), **more)
            for (label, task), values in scores.items()
            for seed, score in enumerate(values)
        )
    )


def folder(
    path: Path,
    score: float | None = 1.0,
    *,
    algorithm: str = "bc",
    dataset: str = "toy",
    seed: int = 0,
    steps: int = 20,
    done: bool = True,
    settings: Mapping[str, Any] | None = None,
    **marked: Any,
) -> Path:
    """A run folder whose evaluations rise by one to the score."""
    path.mkdir(parents=True)
    config = RunConfig(algorithm=algorithm, dataset=dataset, seed=seed, steps=steps, settings=dict(settings or {}))
    (path / "config.json").write_text(config.model_dump_json())
    (path / "versions.json").write_text(json.dumps({"commit": "abc", "dataset_sha256": "5e", "offline-marl": "0.1.0"}))
    value = 0.0 if score is None else score
    rows: list[dict[str, Any]] = [row(step, value - (steps - step) / 10) for step in range(10, steps + 1, 10)]
    lines = [{"kind": "eval", **each} for each in rows] + [{"kind": "train", "step": steps, "loss": 1.0}]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if done:
        best = max(rows, key=lambda each: each["return"])
        figures = {} if score is None else {"score": row(steps, score), "best": best}
        (path / "DONE").write_text(json.dumps({"steps": steps, "wall_s": 1.0, **figures, **marked}))
    return path


def rliable() -> tuple[Any, Any]:
    """rliable's library and metrics, or a skip; see `statistics._rliable` for the stream."""
    with contextlib.redirect_stderr(sys.__stderr__):
        return pytest.importorskip("rliable.library"), pytest.importorskip("rliable.metrics")


def row(step: int, value: float) -> dict[str, Any]:
    """One evaluation."""
    return {"step": step, "return": value, "normalized_return": 10 * value, "agreement": 0.5, "episodes": 10}
