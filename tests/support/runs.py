"""Small runs for tests of training: through the Python API, on made-up data, scored in a made-up environment."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from worlds import PointEnv

from offline_marl.algorithms.base import Algorithm
from offline_marl.core.files import DamagedFileError
from offline_marl.core.learner import Learner
from offline_marl.runs import checkpoint
from offline_marl.runs.metric_rows import read_rows
from offline_marl.tasks.data_tasks import ScoredTask
from offline_marl.training import session, training_run
from offline_marl.training.models.fit import Fit, fit_model
from offline_marl.training.run import Result, train
from offline_marl.worldmodels.base import WorldModel

SMALL: dict[str, Any] = {
    "steps": 60,
    "device": "cpu",
    "hidden": [16],
    "batch_size": 16,
    "log_every": 7,
    "eval_every": 0,
    "eval_episodes": 3,
    "final_episodes": 5,
    "checkpoint_every": 20,
}
SMALL_FIT: dict[str, Any] = {
    "steps": 60,
    "device": "cpu",
    "hidden": [8],
    "members": 3,
    "elites": 2,
    "batch_size": 8,
    "holdout": 0.3,
    "log_every": 7,
    "eval_every": 10,
    "checkpoint_every": 20,
}


def small_run(out: Path, dataset: Any, algorithm: str = "bc", **fields: Any) -> Result:
    """A run of a fraction of a second."""
    return train(algorithm, dataset, out=out, **{**SMALL, **fields})


def small_fit(out: Path | None, dataset: str, **fields: Any) -> Fit:
    """A fit of a fraction of a second."""
    return fit_model("ensemble", dataset, out=out, **{**SMALL_FIT, **fields})


def score_in_point_env(patch: pytest.MonkeyPatch, picture: bool = False) -> None:
    """Give every task the made-up environment; the picture takes most of a small run's time."""
    patch.setattr(ScoredTask, "make_env", lambda self, copies: PointEnv(self.spec, copies))
    if not picture:
        patch.setattr(training_run, "draw_run", lambda *_: None)


class Killed(BaseException):
    """Ends a run as abruptly as one process can end itself."""


def kill_at(patch: pytest.MonkeyPatch, step: int, kind: type[Learner] = Algorithm) -> None:
    """Let the next run, or the next fit where `kind` is WorldModel, die right after this step."""
    loop = session.train

    def short(learner, source, hooks, steps, update):
        if not isinstance(learner, kind):
            return loop(learner, source, hooks, steps, update)
        loop(learner, source, hooks, range(steps.start, min(step + 1, steps.stop)), update)
        if step < steps.stop:
            raise Killed

    patch.setattr(session, "train", short)


def start_and_kill(out: Path, dataset: Any, step: int, **fields: Any) -> None:
    """A run that died right after this step."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, step)
        small_run(out, dataset, **fields)


def start_and_kill_fit(out: Path, dataset: str, step: int, **fields: Any) -> None:
    """A fit that died right after this step."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, step, WorldModel)
        small_fit(out, dataset, **fields)


def checkpoints(out: Path) -> list[int]:
    """Steps of the checkpoints, newest first."""
    return [step for step, _ in checkpoint.found(out / "checkpoints")]


def last_state(out: Path) -> dict[str, Any]:
    """All of the newest checkpoint but the clock."""
    _, state = next(iter(checkpoint.candidates(out / "checkpoints")))
    assert not isinstance(state, DamagedFileError)
    return {key: value for key, value in state.items() if key != "elapsed"}


def rows(out: Path) -> list[dict[str, Any]]:
    """All rows of metrics.jsonl but the clock."""
    return [{key: value for key, value in row.items() if key != "wall_s"} for row in read_rows(out / "metrics.jsonl")]


def table(path: Path) -> list[dict[str, str]]:
    """All rows of a CSV file but the clock."""
    with path.open(newline="") as stream:
        return [{key: value for key, value in row.items() if key != "wall_s"} for row in csv.DictReader(stream)]


def ending(out: Path) -> dict[str, Any]:
    """What a run comes to: its last checkpoint, its rows, its mark; without the clock."""
    done = json.loads((out / "DONE").read_text())
    return {
        "state": last_state(out),
        "rows": rows(out),
        "metrics": table(out / "metrics.csv"),
        "eval": table(out / "eval.csv"),
        "done": {key: value for key, value in done.items() if key != "wall_s"},
    }


def refuse_difference(one: Any, other: Any, place: str = "") -> None:
    """Fail at the first place where two trees are not equal bit for bit."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), place
    elif isinstance(one, dict):
        assert list(one) == list(other), place
        for key in one:
            refuse_difference(one[key], other[key], f"{place}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for number, pair in enumerate(zip(one, other, strict=True)):
            refuse_difference(*pair, f"{place}/{number}")
    else:
        assert one == other, place


def leftovers(out: Path) -> list[str]:
    """Half-written files in a run folder."""
    return [str(path) for path in out.rglob("*.part")]
