"""Reference scores and lengths of episodes that differ within a task: what is normalised unlike is not compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from offline_marl.report.gather.labels import ENVIRONMENT_FIELDS, spell
from offline_marl.report.gather.scores import Figures, Run

Scale = tuple[float, float]
"""Returns of random play and of an expert."""


def scale_of(record: Any, given: Any = None) -> Scale | None:
    """Read the scale of a run; None where none is told.

    Args:
        record: The entry `reference` of its task.json.
        given: Its setting `reference`.
    """
    scores = [record.get("random"), record.get("expert")] if isinstance(record, Mapping) else given
    if not isinstance(scores, list | tuple) or len(scores) != 2:
        return None
    if not all(isinstance(score, int | float) for score in scores):
        return None
    return float(scores[0]), float(scores[1])


def drop_unlike_scales(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Drop the normalised figures of tasks whose runs were normalised by different reference scores.

    A run that does not tell its scale has another one than a run that was given its own.

    Returns:
        The runs, and notes, also on environments that differ within a task.
    """
    unlike, notes = unlike_tasks(runs, lambda run: [run.score])
    tasks: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        tasks[run.task].append(run)
    for task, several in tasks.items():
        for field in ENVIRONMENT_FIELDS:
            values = sorted({spell(run.settings[field] or None) for run in several if field in run.settings})
            if len(values) > 1:
                notes.append(f"Runs on {task} have another {field} each, which is compared too: {', '.join(values)}.")
    return [_without_scale(run) if run.task in unlike else run for run in runs], notes


class Scaled(Protocol):
    """A run as far as its scale goes."""

    @property
    def task(self) -> str:
        """What it is compared on."""
        ...

    @property
    def scale(self) -> Scale | None:
        """Returns of random play and of an expert, where they are told."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Among them `reference`, where it was given its own scale."""
        ...


AnyRun = TypeVar("AnyRun", bound=Scaled)


def unlike_tasks(
    runs: Sequence[AnyRun], figures_of: Callable[[AnyRun], Iterable[Figures]]
) -> tuple[set[str], list[str]]:
    """Find the tasks whose runs were normalised by different reference scores.

    Args:
        runs: Of any tasks.
        figures_of: Gives what is shown of a run; one without normalised figures has no say.

    Returns:
        The tasks, and a note for each.
    """
    normalized: dict[str, list[AnyRun]] = defaultdict(list)
    for run in runs:
        if any(figures.get("normalized_return") is not None for figures in figures_of(run)):
            normalized[run.task].append(run)
    unlike = {task for task, several in normalized.items() if _differ(several)}
    return unlike, [
        f"Returns on {task} are not normalized: its runs name different reference scores." for task in sorted(unlike)
    ]


def _differ(normalized: Sequence[Scaled]) -> bool:
    scales = {run.scale for run in normalized}
    return len(scales - {None}) > 1 or (None in scales and any(run.settings.get("reference") for run in normalized))


def _without_scale(run: Run) -> Run:
    best = None if run.best is None else without_normalized(run.best)
    curve = tuple(without_normalized(row) for row in run.curve)
    return replace(run, score=without_normalized(run.score), curve=curve, best=best, data_normalized=None)


def without_normalized(figures: Figures) -> Figures:
    """Drop the normalised figures."""
    return {name: None if name.startswith("normalized") else value for name, value in figures.items()}
