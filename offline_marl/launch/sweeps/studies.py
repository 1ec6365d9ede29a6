"""Studies of Optuna, one for each algorithm, task, preset, world model and point of the grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from offline_marl.core.config import Config, ConfigError
from offline_marl.launch.sweeps.file import Distribution, Optuna, SweepFile
from offline_marl.launch.sweeps.names import digest, task_word
from offline_marl.launch.sweeps.plan import SCORING_FIELDS, Planned, checked, round_value, templates


class Study(Config):
    """Study of one combination, as `sweep.json` stores it."""

    about: dict[str, Any]
    """Which combination it is."""
    asked: Optuna
    """What the sweep file says of it."""
    runs: tuple[Planned, ...]
    """Its run for each seed, without the fields that a trial sets."""

    @property
    def key(self) -> str:
        """Hash of the combination."""
        return digest(self.about)

    @property
    def title(self) -> str:
        """Algorithm and task, as they are printed."""
        return f"{self.about['algorithm']} on {task_word(self.task)}"

    @property
    def name(self) -> str:
        """Name in Optuna's journal."""
        return f"{self.title}, {self.key}"

    @property
    def task(self) -> str:
        """The data set, or the environment."""
        return str(self.about.get("dataset") or self.about.get("environment"))

    def trial(self, number: int, drawn: Mapping[str, Any]) -> list[Planned]:
        """Plan the jobs of a trial, one for each seed; folders are proposals."""
        return [_trial_job(run, number, drawn) for run in self.runs]

    def trials(self, jobs: Sequence[Planned]) -> dict[int, list[Planned]]:
        """Select the study's jobs among a sweep's, by the number of their trial."""
        trials: dict[int, list[Planned]] = {}
        for job in jobs:
            if not job.fits_model and "trial" in job.about:
                combination = {name: value for name, value in job.about.items() if name not in {"trial", "seed"}}
                if combination == self.about:
                    trials.setdefault(int(job.about["trial"]), []).append(job)
        return trials


def _trial_job(run: Planned, number: int, drawn: Mapping[str, Any]) -> Planned:
    stem, _, seed = run.folder.rpartition("_seed")
    changed = {
        "folder": f"{stem}_trial{number:03d}_seed{seed}",
        "fields": {**run.fields, **drawn},
        "about": {**run.about, "trial": number},
        "varied": (*run.varied, *drawn),
    }
    return run.model_copy(update=changed).resolved()


def plan_studies(file: SweepFile) -> list[Study]:
    """Plan all studies of a file.

    Raises:
        ConfigError: Trials would differ in where or how they are scored.
        BadInputError: A run with an outermost value of a field could not begin.
    """
    groups: dict[str, tuple[Optuna, dict[str, Any], list[Planned]]] = {}
    for asked, run in templates(file):
        combination = {name: value for name, value in run.about.items() if name != "seed"}
        groups.setdefault(digest(combination), (asked, combination, []))[2].append(run)
    studies = [Study(about=combination, asked=asked, runs=tuple(runs)) for asked, combination, runs in groups.values()]
    for study in studies:
        unlike = [name for name in study.asked.fields if name.replace("-", "_") in SCORING_FIELDS]
        if unlike:
            raise ConfigError(
                f"[optuna.fields] {unlike[0]} would choose among scores that are not comparable: give it in [grid], "
                "and each value has a study of its own."
            )
        for drawn in _boundary_points(study.asked.fields):
            checked(study.trial(0, drawn)[0])
    return studies


def _boundary_points(fields: Mapping[str, Distribution]) -> Iterator[dict[str, Any]]:
    """Generate the points to check before any trial: each end of each range, the other fields at their first end."""
    ends = {name.replace("-", "_"): _range_ends(source) for name, source in fields.items()}
    first = {name: values[0] for name, values in ends.items()}
    yield first
    for name, values in ends.items():
        for value in values[1:]:
            yield {**first, name: value}


def _range_ends(source: Distribution) -> tuple[Any, ...]:
    if source.distribution == "choice":
        return source.values
    return tuple(round_value(source, value) for value in (float(source.low or 0), float(source.high or 0)))


def merge_studies(
    former: Sequence[Study], asked: Sequence[Study], moved: Mapping[str, str], source: str
) -> list[Study]:
    """Check a file's studies against those of a sweep, and point their runs to the sweep's world models.

    Args:
        former: The sweep's.
        asked: The file's.
        moved: Folders of world models, by the folders that the file's jobs propose.
        source: The file.

    Raises:
        ConfigError: The file changes what trials that are there were proposed by, or were run with.
    """
    before = {study.key: study for study in former}
    merged = []
    for study in asked:
        runs = [run.model_copy(update={"model": moved.get(str(run.model), run.model)}) for run in study.runs]
        study = study.model_copy(update={"runs": tuple(runs)})
        if study.key in before:
            _refuse_change(before[study.key], study, source)
        merged.append(study)
    return merged


CHANGEABLE_FIELDS = ("trials", "at_once")
"""Fields of [optuna] that may change between launches."""


def _refuse_change(before: Study, now: Study, source: str) -> None:
    old, new = _fixed_settings(before), _fixed_settings(now)
    for name, value in new.items():
        if old.get(name) != value:
            raise ConfigError(
                f"{source} changes {name} of {now.title} from {old.get(name)!r} to {value!r}, but Optuna's trials were "
                "made with the first: put it back, or give the changed sweep another --out."
            )


def _fixed_settings(study: Study) -> dict[str, Any]:
    asked = study.asked.model_dump(mode="json", exclude={*CHANGEABLE_FIELDS, "fields"})
    fields = {
        name: source.model_dump(mode="json", exclude_defaults=True) for name, source in study.asked.fields.items()
    }
    runs = study.model_dump(mode="json")["runs"]
    run_fields = {name: value for name, value in study.runs[0].resolved().fields.items() if name != "seed"}
    return {
        "the seeds": [run["fields"]["seed"] for run in runs],
        "the names of [optuna.fields]": list(fields),
        **{f"[optuna] {name}": value for name, value in asked.items()},
        **{f"[optuna.fields] {name}": value for name, value in fields.items()},
        **run_fields,
    }


def jobs_outside_studies(jobs: Sequence[Planned], studies: Sequence[Study]) -> list[Planned]:
    """Select the jobs that are not trials of these studies."""
    theirs = {job.folder for study in studies for trial in study.trials(jobs).values() for job in trial}
    return [job for job in jobs if job.folder not in theirs]
