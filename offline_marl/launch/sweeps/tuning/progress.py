"""Progress of studies, from the sweep's files alone: no Optuna is needed to read them."""

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
from offline_marl.launch.sweeps.table import read_done


@dataclass(frozen=True)
class StudyProgress:
    """Progress of a study: trials that are over, failures and the best trial."""

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
    """Compute a trial's mean metric over its seeds; None if one of its runs has no result, or no finite one.

    Raises:
        SweepError: Runs were not scored so.
    """
    values = []
    for job in jobs:
        done = read_done(sweep.folder(job))
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
    """Collect the folders of all runs of the trials of which a run has failed."""
    folders: set[str] = set()
    for study in manifest.studies:
        trials = study.trials(manifest.jobs)
        states = _states(sweep, trials.values())
        for jobs in trials.values():
            if any(failed_by_itself(states[job.folder]) for job in jobs):
                folders |= {job.folder for job in jobs}
    return folders


def _states(sweep: Sweep, trials: Iterable[Sequence[Planned]]) -> dict[str, State]:
    """Read the states of trials' jobs, by their folders; Slurm is asked once."""
    jobs = [job for trial in trials for job in trial]
    now = states.states_of([sweep.folder(job) for job in jobs])
    return {job.folder: state for job, state in zip(jobs, now, strict=True)}


def progress_of_studies(sweep: Sweep, manifest: Manifest) -> list[StudyProgress]:
    """Compute the progress of every study."""
    return [study_progress(sweep, manifest.jobs, study) for study in manifest.studies]


def study_progress(sweep: Sweep, jobs: Sequence[Planned], study: Study) -> StudyProgress:
    """Compute the progress of one study; trials without its metric count as over, but neither as failed nor as best."""
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
    return StudyProgress(study, over, failed, best)
