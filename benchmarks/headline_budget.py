"""What the budget is, and what updates cost: processor time, measured once."""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from headline_plan import PROTOCOL, TUNED_ON, Setting, settings

import offline_marl
from offline_marl.core.learner import Learner
from offline_marl.core.types import Metrics

COLUMNS = ["learner", "window", "horizon", "ms_per_update", "fit_s", "budget_s"]
ROUNDS = 6
CHUNK = {"moma-ppo": 1}
"""Updates that are timed together; 20 unless said."""


class Stopwatch:
    """A hook that takes the processor time of every so many updates."""

    def __init__(self, chunk: int) -> None:
        self.chunk, self.times = chunk, [time.process_time()]

    def __call__(self, step: int, learner: Learner, metrics: Metrics) -> None:
        """Take the time, first after the first update."""
        if step % self.chunk == 1 % self.chunk:
            self.times.append(time.process_time())

    @property
    def before(self) -> float:
        """Seconds until the first update was made: of the fit of a model, if there is one."""
        return self.times[1] - self.times[0]

    @property
    def per_update(self) -> float:
        """Median seconds of an update."""
        later = self.times[1:]
        return median(b - a for a, b in itertools.pairwise(later)) / self.chunk


def timed(setting: Setting, folder: Path, **fields: Any) -> Stopwatch:
    """A few updates of a setting."""
    chunk = CHUNK.get(setting.algorithm, 20)
    watch = Stopwatch(chunk)
    quiet = {"eval_every": 0, "final_episodes": 1, "checkpoint_every": 0, "log_every": 1_000}
    given = {**setting.fields, **quiet, "steps": 1 + ROUNDS * chunk, **fields}
    with contextlib.redirect_stderr(io.StringIO()):
        offline_marl.train(setting.algorithm, TUNED_ON, out=folder, hooks=[watch], **given)
    return watch


def measure() -> list[dict[str, Any]]:
    """A row for each learner, window and horizon."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        return list(_rows(Path(place)))


def _rows(place: Path) -> Iterator[dict[str, Any]]:
    reference = next(each for each in settings() if each.label == "window=0 horizon=25")
    watch = timed(reference, place / "reference")
    fit, model = watch.before, str(place / "reference" / "world_model")
    budget = fit + PROTOCOL["budget"]["reference"] * watch.per_update
    print(f"budget {budget:.0f} s, of which the model's fit {fit:.0f} s", file=sys.stderr)
    known = {setting.cost: setting for setting in reversed(settings())}
    for number, (cost, setting) in enumerate(known.items()):
        imagines = "world_model" in setting.fields
        given = {"world_model": model, "fit": {}} if imagines else {}
        yield {
            **dict(zip(("learner", "window", "horizon"), cost, strict=True)),
            "ms_per_update": round(timed(setting, place / str(number), **given).per_update * 1e3, 3),
            "fit_s": round(fit if imagines else 0.0, 1),
            "budget_s": round(budget, 1),
        }
