"""Tuning in rounds of trials, which are proposed, run and reported together until every study has its trials.

All state is on the disk: a proposal is in Optuna's journal before it is a job, and a job in the manifest before it is
started, so that a launcher that was killed anywhere resumes with the trials that it had proposed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_marl.launch.jobs import states
from offline_marl.launch.sweeps.folder import Sweep, SweepError
from offline_marl.launch.sweeps.launch import POLL_S, Execution, Launched, failed_by_itself, is_live, launch
from offline_marl.launch.sweeps.plan import Planned
from offline_marl.launch.sweeps.studies import Study
from offline_marl.launch.sweeps.tuning.optuna_study import JOURNAL, Journal, OptunaStudy, Trial
from offline_marl.launch.sweeps.tuning.progress import study_progress, value_of

FUTILE_TRIALS = 5
"""Failed trials without a successful one after which a study is given up."""
QUEUE_POLL_S = 5.0
"""Seconds between two queries of Slurm's queue."""


@dataclass(frozen=True)
class Round:
    """Round of one study: its trials and their jobs."""

    study: Study
    trials: list[Trial]
    missing: list[Planned]
    """Jobs of the trials that are yet to be added to the sweep."""
    jobs: list[Planned]
    """Those that are there."""


def tune(
    sweep: Sweep, named: Sequence[Planned], studies: Sequence[Study], execution: Execution
) -> tuple[Launched, list[Planned]]:
    """Run the trials of all studies, and with the first round all other jobs; the caller holds the sweep's lock.

    Args:
        sweep: Its folder.
        named: Jobs that are no trials', world models among them.
        studies: What is tuned.
        execution: Executor and profile.

    Returns:
        The outcome, and the jobs whose failure is the sweep's, and not just a trial's.

    Raises:
        BadInputError: Optuna is missing, its journal was damaged, or see `launch`.
    """
    journal = Journal(sweep.path / JOURNAL)
    before = [job for study in studies for trial in study.trials(sweep.manifest().jobs).values() for job in trial]
    fits = [job for job in named if job.fits_model]
    total, jobs, first = Launched(), [*named, *before], True
    while True:
        planned = sweep.manifest().jobs
        rounds = [
            next_round(sweep, study, journal, planned, round_size(study, studies, execution), first)
            for study in studies
        ]
        missing = sweep.add([job for next_up in rounds for job in next_up.missing])
        current = [job for next_up in rounds for job in next_up.jobs] + missing
        if not first and not current:
            return total, [*named, *_jobs_of_failed_studies(sweep, studies)]
        _announce_rounds(rounds)
        launched = launch(sweep, [*jobs, *missing] if first else [*fits, *current], execution)
        _add_launch(total, launched, first)
        _wait(sweep, current, execution)
        unsettled = _unsettled(sweep, current)
        if unsettled:
            return total, [*named, *unsettled]
        first = False


def round_size(study: Study, studies: Sequence[Study], execution: Execution) -> int:
    """Compute a study's trials in a round: as many as can run at once, shared among all studies."""
    slots = 1 if execution.executor == "debug" else execution.profile.array_parallelism
    return study.asked.at_once or max(1, slots // sum(len(other.runs) for other in studies))


def next_round(
    sweep: Sweep, study: Study, journal: Journal, jobs: Sequence[Planned], count: int, first: bool = True
) -> Round:
    """Report trials that have ended to Optuna, and ask for more if none is left to run.

    Args:
        sweep: Where they ran.
        study: What is tuned.
        journal: Optuna's.
        jobs: The sweep's.
        count: How many trials a round has.
        first: Whether this is the first round of a launch.

    Raises:
        SweepError: The journal and the sweep do not know the same trials.
    """
    optuna_study = OptunaStudy(study, journal)
    trials, started = optuna_study.trials(), study.trials(jobs)
    _refuse_mismatch(sweep, study, trials, started)
    running = [trial for trial in trials if not trial.over]
    # A launcher that was killed while it asked leaves trials without jobs: then the same round is filled up.
    asking = not running or any(trial.number not in started for trial in running)
    if running and not asking:
        if _unsettled(sweep, [job for trial in running for job in started[trial.number]]):
            return _make_round(study, running, started)
        for trial in running:
            optuna_study.tell(trial.number, value_of(sweep, study, started[trial.number]))
        trials, running = optuna_study.trials(), []
        asking = first or not _is_futile(trials)
    while asking and len(running) < count and len(trials) < study.asked.trials:
        running.append(optuna_study.ask())
        trials.append(running[-1])
    return _make_round(study, running, started)


def _make_round(study: Study, running: list[Trial], started: dict[int, list[Planned]]) -> Round:
    missing = [
        job for trial in running if trial.number not in started for job in study.trial(trial.number, trial.drawn)
    ]
    return Round(study, running, missing, [job for trial in running for job in started.get(trial.number, [])])


def _jobs_of_failed_studies(sweep: Sweep, studies: Sequence[Study]) -> list[Planned]:
    """Collect the jobs of studies without a single successful trial."""
    jobs = sweep.manifest().jobs
    failed = [study.trials(jobs).values() for study in studies if study_progress(sweep, jobs, study).best is None]
    return [job for trials in failed for trial in trials for job in trial]


def _is_futile(trials: Sequence[Trial]) -> bool:
    return len(trials) >= FUTILE_TRIALS and all(trial.value is None for trial in trials)


def _refuse_mismatch(sweep: Sweep, study: Study, trials: Sequence[Trial], started: dict[int, list[Planned]]) -> None:
    """Make sure that journal and manifest hold the same trials with the same fields."""
    for number, jobs in started.items():
        if number >= len(trials):
            raise SweepError(
                f"{sweep.path / JOURNAL} knows nothing of trial {number} of {study.title}, which {sweep.file.name} "
                "has: it was removed, damaged or edited."
            )
        drawn = trials[number].drawn
        wanted = study.trial(number, drawn)[0].fields
        for name, value in drawn.items():
            if jobs[0].fields.get(name) not in (value, wanted[name]):
                raise SweepError(
                    f"{sweep.path / JOURNAL} was damaged or edited: {name} of trial {number} of {study.title} is "
                    f"{value!r} in it, and {jobs[0].fields.get(name)!r} in {sweep.file.name}."
                )
    for trial in trials:
        if trial.over and trial.number not in started:
            raise SweepError(
                f"{sweep.path / JOURNAL} holds a result of trial {trial.number} of {study.title}, which "
                f"{sweep.file.name} does not have: one of them was damaged or edited."
            )


def _announce_rounds(rounds: Sequence[Round]) -> None:
    for current in rounds:
        if current.trials:
            first, last = current.trials[0].number + 1, current.trials[-1].number + 1
            which = f"trial {first}" if first == last else f"trials {first} to {last}"
            print(f"{current.study.title}: {which} of {current.study.asked.trials}", file=sys.stderr)


def _add_launch(total: Launched, launched: Launched, first: bool) -> None:
    total.started += launched.started
    total.blocked = launched.blocked
    if first:
        total.done, total.live, total.failed = launched.done, launched.live, launched.failed


def _wait(sweep: Sweep, jobs: Sequence[Planned], execution: Execution) -> None:
    """Wait for jobs in a queue; those of this machine are over when their launch is."""
    folders = [sweep.folder(job) for job in jobs]
    while any(is_live(state) for state in states.states_of(folders)):
        time.sleep(QUEUE_POLL_S if execution.executor == "slurm" else POLL_S)


def _unsettled(sweep: Sweep, jobs: Sequence[Planned]) -> list[Planned]:
    """Select the jobs that neither finished nor ended with an error: they were stopped, and can resume."""
    now = states.states_of([sweep.folder(job) for job in jobs])
    return [job for job, state in zip(jobs, now, strict=True) if state.state != "done" and not failed_by_itself(state)]


def preview_round(
    sweep: Sweep, jobs: Sequence[Planned], studies: Sequence[Study], execution: Execution
) -> tuple[list[Planned], list[Planned]]:
    """Compute the jobs of the next round, and those of them that it would add, on a copy of the journal."""
    with tempfile.TemporaryDirectory() as aside:
        copy = Path(aside) / JOURNAL
        if (sweep.path / JOURNAL).exists():
            shutil.copyfile(sweep.path / JOURNAL, copy)
        journal = Journal(copy)
        rounds = [next_round(sweep, study, journal, jobs, round_size(study, studies, execution)) for study in studies]
    missing = [job for upcoming in rounds for job in upcoming.missing]
    return [job for upcoming in rounds for job in upcoming.jobs] + missing, missing
