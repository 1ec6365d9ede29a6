"""The loop, and the hooks that watch it: log, evaluate, checkpoint, each with its own period."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from offline_marl.core.errors import WorkError, sentence
from offline_marl.core.learner import Learner
from offline_marl.core.types import Batch, DataError, Metrics, Source
from offline_marl.environments.checks import BadNumbersError
from offline_marl.environments.guarded import EnvironmentFailedError
from offline_marl.environments.scores import Score
from offline_marl.runs.loggers import Logger
from offline_marl.runs.stopping import StoppedEarly, asked


class DivergedError(WorkError, RuntimeError):
    """A loss is no longer finite; the message says which and when."""


class SourceStoppedError(WorkError, RuntimeError):
    """A source, or a score, that cannot go on, as of an environment that died; the run is saved, and stops."""


class SourceInterrupted(Exception):
    """Raised by a source that waits, such as for people, and was asked to stop: the run is saved as it stands."""


class Hook(Protocol):
    """A callback after every update; one with `state_dict` and `load_state_dict` is saved with the run.

    It is told the number of updates made so far, the learner, and the update's metrics: detached scalars on the
    learner's device. To read one (`.item()`) makes the device wait, so a hook should do so at a period of its own.
    """

    def __call__(self, step: int, learner: Learner, metrics: Metrics) -> None:
        """Do whatever is due at this step."""
        ...


class Enough(Exception):
    """Raised by a hook when nothing is gained by going on: training ends as if at its last step."""


def train(
    learner: Learner,
    source: Source,
    hooks: Sequence[Hook],
    steps: range,
    update: Callable[[Batch], Metrics] | None = None,
) -> None:
    """Update once per step, by the learner or by what is given in its place; everything else is a hook's."""
    update = learner.update if update is None else update
    with contextlib.suppress(Enough):
        for step in steps:
            metrics = update(source.sample(learner.needs).check())
            for hook in hooks:
                hook(step, learner, metrics)


class LogHook:
    """Writes the mean of each metric over a period and shows it on the bar.

    Metrics stay on the device until the period ends, so that no update waits for the host.

    Args:
        loggers: Where rows go.
        every: Updates in a period.
        bar: The progress bar, advanced by the period.
        elapsed: Seconds that the run had taken before this process.
    """

    def __init__(
        self, loggers: Sequence[Logger], every: int, bar: tqdm[Any] | None = None, elapsed: float = 0.0
    ) -> None:
        self.every = every
        self.counts: Callable[[], Mapping[str, int]] = dict
        """What has been counted beside updates, such as environment steps; it stands in every row."""
        self.last = 0
        """The last update that was told."""
        self._pending: list[Metrics] = []
        self._shown: dict[str, str] = {}
        self.open(loggers, bar, elapsed)

    def open(self, loggers: Sequence[Logger], bar: tqdm[Any] | None, elapsed: float) -> None:
        """Write to these from now on, and start the clock."""
        self.loggers = loggers
        self.bar = bar
        self._began = time.monotonic() - elapsed

    @property
    def elapsed(self) -> float:
        """Seconds spent on the run, over all its processes."""
        return time.monotonic() - self._began

    def __call__(self, step: int, learner: Learner, metrics: Metrics) -> None:
        """Keep the metrics; flush at the end of a period."""
        self._pending.append(metrics)
        self.last = step
        if step % self.every == 0:
            self.flush(step)

    def flush(self, step: int) -> None:
        """Write what is pending.

        Raises:
            DivergedError: A metric is not finite; says which, and at which step it first was so.
        """
        table = self.refuse_pending(step)
        if table is None:
            return
        names, count = list(self._pending[0]), len(self._pending)
        self._pending.clear()
        row = dict(zip(names, table.mean(0).tolist(), strict=True))
        for logger in self.loggers:
            logger.write("train", {"step": step, **self.counts(), "wall_s": round(self.elapsed, 2), **row})
        if self.bar is not None:
            self.bar.update(count)
        losses = {name.removeprefix("loss/"): f"{value:.3g}" for name, value in row.items() if name.startswith("loss/")}
        self.show(losses)

    def refuse_pending(self, step: int) -> Tensor | None:
        """What is pending, `update metric`; None if nothing is.

        Raises:
            DivergedError: See `flush`.
            DataError: See `_refuse_no_scalars`.
        """
        if not self._pending:
            return None
        names, before = list(self._pending[0]), step - len(self._pending)
        self._refuse_no_scalars(before)
        if not names:
            return torch.zeros(len(self._pending), 0)
        table = torch.stack([torch.stack([metrics[name] for name in names]) for metrics in self._pending])
        table = table.double().cpu()
        self._refuse_unfinite(table, names, before)
        return table

    def state_dict(self) -> dict[str, Any]:
        """What is pending, where a run is saved in the middle of a period."""
        return {"pending": [dict(metrics) for metrics in self._pending]}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str) -> None:
        """Go on in the middle of a period, on the device that the learner is on."""
        self._pending = [{name: value.to(device) for name, value in metrics.items()} for metrics in state["pending"]]

    def show(self, figures: dict[str, str]) -> None:
        """Put figures on the bar beside those already there."""
        self._shown |= figures
        if self.bar is not None:
            self.bar.set_postfix(self._shown, refresh=False)

    def write(self, kind: str, row: dict[str, Any]) -> None:
        """Write one row to every logger."""
        for logger in self.loggers:
            logger.write(kind, row)

    def _refuse_no_scalars(self, before: int) -> None:
        """Refuse what no row can hold.

        Raises:
            DataError: A metric is no tensor of one number, or only some updates tell it.
        """
        wanted = self._pending[0].keys()
        for step, metrics in enumerate(self._pending, before + 1):
            for name, value in metrics.items():
                if not isinstance(value, Tensor) or value.dim():
                    odd_tensor = isinstance(value, Tensor)
                    kind = f"of shape {tuple(value.shape)}" if odd_tensor else f"of type {type(value).__name__}"
                    raise DataError(
                        f"The metric '{name}' that `update` returned at step {step} is {kind}: "
                        "metrics are detached tensors of one number."
                    )
            if odd := sorted(wanted ^ metrics.keys()):
                raise DataError(
                    f"At step {step} `update` returned other metrics than at step {before + 1} ({', '.join(odd)}): "
                    "every update returns the same ones."
                )

    @staticmethod
    def _refuse_unfinite(table: Tensor, names: Sequence[str], before: int) -> None:
        bad = (~torch.isfinite(table)).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            raise DivergedError(
                f"{names[column]} became {table[row, column].item()} at step {before + row + 1}; "
                "the checkpoint before it is kept (try a smaller --lr or a --grad-clip)."
            )


class BudgetHook:
    """Ends a run that has played its budget, or that another update as long as the last one would bring over it.

    Args:
        budget: Environment steps.
        played: How many there have been.
    """

    def __init__(self, budget: int, played: Callable[[], int]) -> None:
        self.budget, self.played, self.before = budget, played, played()

    def __call__(self, step: int, learner: Learner, metrics: Metrics) -> None:
        """End the run if it is time.

        Raises:
            Enough: It is.
        """
        last, self.before = self.played() - self.before, self.played()
        if self.before + last > self.budget:
            raise Enough


class EvaluateHook:
    """Scores the policy as it learns, and remembers the best and the last score.

    Where the environment fails, the hooks behind it are still called; the last, `refuse_failure`, ends the run.

    Args:
        score: Plays some episodes with the learner; None where there is nothing to act in.
        every: Updates between scores; 0 for never.
        last: The last step, which is scored apart and with more episodes.
        log: Takes the rows and shows the score.
    """

    def __init__(self, score: Callable[[], Score] | None, every: int, last: int, log: LogHook) -> None:
        self.score = score
        self.every = every
        self.last = last
        self.log = log
        self.history: dict[str, Any] = {"best": None, "last": None}
        self._failure: Exception | None = None

    def __call__(self, step: int, learner: Learner, metrics: Metrics) -> None:
        """Evaluate if it is time."""
        if self.score is not None and self.every and step % self.every == 0 and step != self.last:
            self.log.flush(step)
            try:
                self.note(step, self.score())
            except (EnvironmentFailedError, BadNumbersError) as error:
                self._failure = error

    def refuse_failure(self, step: int, learner: Learner, metrics: Metrics) -> None:
        """End the run where this step could not be scored.

        Raises:
            SourceStoppedError: The environment died, hung, or showed what is no number.
        """
        if self._failure is not None:
            raise SourceStoppedError(sentence(self._failure)) from self._failure

    def note(self, step: int, score: Score) -> None:
        """Keep and show one score."""
        row = {"step": step, **score.row()}
        self.log.write("eval", row)
        shown = score.mean if score.normalized is None else score.normalized[0]
        best = self.history["best"]
        self.history["last"] = row
        if best is None or row["return"] > best["return"]:
            self.history["best"] = row
        self.log.show({"score": f"{shown:.1f}"})

    def state_dict(self) -> dict[str, Any]:
        """The best and the last score."""
        return self.history

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what the saved hook did."""
        self.history.update(state)


class CheckpointHook:
    """Saves the run so that it can go on as if it had never stopped.

    Args:
        save: Writes a checkpoint of this step.
        every: Updates between checkpoints; 0 for only the last.
        last: The last step, which is always saved.
        log: Flushed first, so that no diverged state is ever saved.
    """

    def __init__(self, save: Callable[[int], None], every: int, last: int, log: LogHook) -> None:
        self.save = save
        self.every = every
        self.last = last
        self.log = log

    def __call__(self, step: int, learner: Learner, metrics: Metrics) -> None:
        """Save if it is time."""
        if step == self.last or (self.every and step % self.every == 0):
            self.log.flush(step)
            refuse_unfinite(learner, step)
            self.save(step)


def refuse_unfinite(learner: Learner, step: int) -> None:
    """Refuse a state from which nothing can go on: a gradient may overflow at a loss that is still finite.

    Raises:
        DivergedError: A parameter is not finite; says which.
    """
    for name, parameter in learner.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise DivergedError(
                f"{name} is no longer finite at step {step}; the checkpoint before it is kept "
                "(try a smaller --lr or a --grad-clip)."
            )


class StopHook:
    """Saves and ends the run once that is asked for.

    Args:
        save: Writes a checkpoint of this step.
        last: The last step, after which nothing is left to stop.
        log: Keeps the metrics of a period that is not over; they go into the checkpoint.
    """

    def __init__(self, save: Callable[[int], None], last: int, log: LogHook) -> None:
        self.save, self.last, self.log = save, last, log

    def __call__(self, step: int, learner: Learner, metrics: Metrics) -> None:
        """Stop if that is asked for.

        Raises:
            StoppedEarly: It was.
            DivergedError: There is nothing to save: a loss or a parameter is not finite any more.
        """
        if asked.is_set() and step != self.last:
            self.log.refuse_pending(step)
            refuse_unfinite(learner, step)
            self.save(step)
            raise StoppedEarly(step)
