"""What became of trials, as the sweep's files tell it: no Optuna is needed to read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from offline_marl.launch.jobs import states
from offline_marl.launch.jobs.states import State
from offline_marl.launch.sweeps.folder import Manifest, Sweep, SweepError
from offline_marl.launch.sweeps.launch import failed_by_itself
from offline_marl.launch.sweeps.plan import Planned
from offline_marl.launch.sweeps.studies import Study
from offline_marl.launch.sweeps.table import score_of


@dataclass(frozen=True)
class Standing:
    """How far a study has come."""

    study: Study
    over: int
    """Trials that have ended."""
    failed: int
    """Those of them that failed."""
    best: tuple[int, float] | None
    """Number and value of the best so far."""

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        metric = self.study.asked.metric or "normalized_return"
        best = "" if self.best is None else f", best {metric} {self.best[1]:.3f} (trial {self.best[0]})"
        return f"{self.study.title}: {self.over} of {self.study.asked.trials} trials{failed}{best}"


def value_of(sweep: Sweep, study: Study, jobs: Sequence[Planned]) -> float | None:
    """The metric of a trial, as a mean over its seeds; None if one of its runs has no result, or no finite one.

    Raises:
        SweepError: Runs were not scored so.
    """
    values = []
    for job in jobs:
        done = score_of(sweep.folder(job))
        if done is None:
            return None
        values.append(_metric(sweep, study, job, done.get("score", {})))
    mean = sum(values) / len(values)
    return mean if math.isfinite(mean) else None


def _metric(sweep: Sweep, study: Study, job: Planned, score: dict[str, float | None]) -> float:
    names = [study.asked.metric] if study.asked.metric else ["normalized_return", "return"]
    for name in names:
        value = score.get(name)
        if value is not None:
            return float(value)
    raise SweepError(
        f"{job.folder} of {sweep.path} has no {names[0]}: name another metric in [optuna], and another --out."
    )


def failed_folders(sweep: Sweep, manifest: Manifest) -> set[str]:
    """Folders of the runs of trials of which a run has failed."""
    found: set[str] = set()
    for study in manifest.studies:
        trials = study.trials(manifest.jobs)
        states = _states(sweep, trials.values())
        for jobs in trials.values():
            if any(failed_by_itself(states[job.folder]) for job in jobs):
                found |= {job.folder for job in jobs}
    return found


def _states(sweep: Sweep, trials: Iterable[Sequence[Planned]]) -> dict[str, State]:
    """Where the jobs of trials stand, by their folders; Slurm is asked once."""
    jobs = [job for trial in trials for job in trial]
    now = states.states_of([sweep.folder(job) for job in jobs])
    return {job.folder: state for job, state in zip(jobs, now, strict=True)}


def standings(sweep: Sweep, manifest: Manifest) -> list[Standing]:
    """How far every study has come."""
    return [standing(sweep, manifest.jobs, study) for study in manifest.studies]


def standing(sweep: Sweep, jobs: Sequence[Planned], study: Study) -> Standing:
    """How far one study has come; trials that were not scored as they should be count as ended, and as nothing else."""
    over, failed, best = 0, 0, None
    trials = study.trials(jobs)
    states = _states(sweep, trials.values())
    for number, runs in sorted(trials.items()):
        if not all(states[run.folder].state == "done" or failed_by_itself(states[run.folder]) for run in runs):
            continue
        over += 1
        try:
            value = value_of(sweep, study, runs)
        except SweepError:
            continue
        failed += value is None
        if value is not None and (best is None or value > best[1]):
            best = (number, value)
    return Standing(study, over, failed, best)
