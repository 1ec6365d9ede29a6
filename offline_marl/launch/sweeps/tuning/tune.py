"""Rounds of trials: proposed together, run together, told together, until every study has as many as were asked for.

What decides is on the disk: a proposal is in Optuna's journal before it is a job, and a job before it is started, so
that a launcher that was killed anywhere goes on with what it had proposed.
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
from offline_marl.launch.sweeps.launch import POLL_S, How, Launched, failed_by_itself, is_live, launch
from offline_marl.launch.sweeps.plan import Planned
from offline_marl.launch.sweeps.studies import Study
from offline_marl.launch.sweeps.tuning.optuna_study import JOURNAL, Asker, Journal, Trial
from offline_marl.launch.sweeps.tuning.progress import standing, value_of

FUTILE = 5
"""Trials that may fail before any succeeds: then more of them would be a waste."""
QUEUE_S = 5.0
"""Between two questions to Slurm's queue."""


@dataclass(frozen=True)
class Round:
    """What is to be run for one study now."""

    study: Study
    trials: list[Trial]
    missing: list[Planned]
    """Jobs of the trials that are yet to be added to the sweep."""
    jobs: list[Planned]
    """Those that are there."""


def tune(sweep: Sweep, named: Sequence[Planned], studies: Sequence[Study], how: How) -> tuple[Launched, list[Planned]]:
    """Run the trials of all studies, and beside the first of them all other jobs; for who holds the sweep.

    Args:
        sweep: Its folder.
        named: Jobs that are no trials', world models among them.
        studies: What is tuned.
        how: Who carries them out.

    Returns:
        What was started, and the jobs whose failure is one of the sweep, and not just of a trial.

    Raises:
        BadInputError: Optuna is missing, its journal was damaged, or see `launch`.
    """
    journal = Journal(sweep.path / JOURNAL)
    before = [job for study in studies for trial in study.trials(sweep.manifest().jobs).values() for job in trial]
    fits = [job for job in named if job.command == "fit-model"]
    told, jobs, first = Launched(), [*named, *before], True
    while True:
        held = sweep.manifest().jobs
        rounds = [next_round(sweep, study, journal, held, at_once(study, studies, how), first) for study in studies]
        missing = sweep.add([job for each in rounds for job in each.missing])
        current = [job for each in rounds for job in each.jobs] + missing
        if not first and not current:
            return told, [*named, *_hopeless(sweep, studies)]
        _tell_rounds(rounds)
        said = launch(sweep, [*jobs, *missing] if first else [*fits, *current], how)
        _join(told, said, first)
        _wait(sweep, current, how)
        unsettled = _unsettled(sweep, current)
        if unsettled:
            return told, [*named, *unsettled]
        first = False


def at_once(study: Study, studies: Sequence[Study], how: How) -> int:
    """Trials of a study that are proposed together: as many as run at once, when all studies share the places."""
    places = 1 if how.executor == "debug" else how.profile.array_parallelism
    return study.asked.at_once or max(1, places // sum(len(each.runs) for each in studies))


def next_round(
    sweep: Sweep, study: Study, journal: Journal, jobs: Sequence[Planned], count: int, first: bool = True
) -> Round:
    """Tell Optuna of trials that have ended, and ask it for more if none is left to run.

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
    asker = Asker(study, journal)
    trials, held = asker.trials(), study.trials(jobs)
    _refuse_strangers(sweep, study, trials, held)
    going = [trial for trial in trials if not trial.over]
    # A launcher that was killed while it asked leaves trials without jobs: the same round is filled up.
    asking = not going or any(trial.number not in held for trial in going)
    if going and not asking:
        if _unsettled(sweep, [job for trial in going for job in held[trial.number]]):
            return _round(study, going, held)
        for trial in going:
            asker.tell(trial.number, value_of(sweep, study, held[trial.number]))
        trials, going = asker.trials(), []
        asking = first or not _is_futile(trials)
    while asking and len(going) < count and len(trials) < study.asked.trials:
        going.append(asker.ask())
        trials.append(going[-1])
    return _round(study, going, held)


def _round(study: Study, going: list[Trial], held: dict[int, list[Planned]]) -> Round:
    missing = [job for trial in going if trial.number not in held for job in study.trial(trial.number, trial.drawn)]
    return Round(study, going, missing, [job for trial in going for job in held.get(trial.number, [])])


def _hopeless(sweep: Sweep, studies: Sequence[Study]) -> list[Planned]:
    """The jobs of studies without a single trial that succeeded."""
    jobs = sweep.manifest().jobs
    found = [study.trials(jobs).values() for study in studies if standing(sweep, jobs, study).best is None]
    return [job for trials in found for trial in trials for job in trial]


def _is_futile(trials: Sequence[Trial]) -> bool:
    return len(trials) >= FUTILE and all(trial.value is None for trial in trials)


def _refuse_strangers(sweep: Sweep, study: Study, trials: Sequence[Trial], held: dict[int, list[Planned]]) -> None:
    """Make sure that the journal and the sweep's jobs go together."""
    for number, jobs in held.items():
        if number >= len(trials):
            raise SweepError(
                f"{sweep.path / JOURNAL} knows nothing of trial {number} of {study.title}, which {sweep.file.name} "
                "has: it was removed, damaged or edited."
            )
        for name, value in trials[number].drawn.items():
            if jobs[0].fields.get(name) != value:
                raise SweepError(
                    f"{sweep.path / JOURNAL} was damaged or edited: {name} of trial {number} of {study.title} is "
                    f"{value!r} in it, and {jobs[0].fields.get(name)!r} in {sweep.file.name}."
                )
    for trial in trials:
        if trial.over and trial.number not in held:
            raise SweepError(
                f"{sweep.path / JOURNAL} holds a result of trial {trial.number} of {study.title}, which "
                f"{sweep.file.name} does not have: one of them was damaged or edited."
            )


def _tell_rounds(rounds: Sequence[Round]) -> None:
    for each in rounds:
        if each.trials:
            first, last = each.trials[0].number + 1, each.trials[-1].number + 1
            which = f"trial {first}" if first == last else f"trials {first} to {last}"
            print(f"{each.study.title}: {which} of {each.study.asked.trials}", file=sys.stderr)


def _join(told: Launched, said: Launched, first: bool) -> None:
    told.started += said.started
    told.held = said.held
    if first:
        told.done, told.live, told.failed = said.done, said.live, said.failed


def _wait(sweep: Sweep, jobs: Sequence[Planned], how: How) -> None:
    """Wait for jobs in a queue; those of this machine are over when their launch is."""
    folders = [sweep.folder(job) for job in jobs]
    while any(is_live(state) for state in states.states_of(folders)):
        time.sleep(QUEUE_S if how.executor == "slurm" else POLL_S)


def _unsettled(sweep: Sweep, jobs: Sequence[Planned]) -> list[Planned]:
    """Those that are neither done nor failed of a reason of their own."""
    now = states.states_of([sweep.folder(job) for job in jobs])
    return [job for job, state in zip(jobs, now, strict=True) if state.state != "done" and not failed_by_itself(state)]


def preview(
    sweep: Sweep, jobs: Sequence[Planned], studies: Sequence[Study], how: How
) -> tuple[list[Planned], list[Planned]]:
    """What the next round would run, and the jobs among it that it would add; nothing is written."""
    with tempfile.TemporaryDirectory() as aside:
        copy = Path(aside) / JOURNAL
        if (sweep.path / JOURNAL).exists():
            shutil.copyfile(sweep.path / JOURNAL, copy)
        journal = Journal(copy)
        rounds = [next_round(sweep, study, journal, jobs, at_once(study, studies, how)) for study in studies]
    missing = [job for each in rounds for job in each.missing]
    return [job for each in rounds for job in each.jobs] + missing, missing
