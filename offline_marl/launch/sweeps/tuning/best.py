"""Choice of the best settings by a metric over a sweep's seeds, and their retraining on held-out seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from offline_marl.core.config import ConfigError, suggest
from offline_marl.launch.sweeps.file import Metric
from offline_marl.launch.sweeps.folder import Sweep, SweepError, distinct_folder, settings_of
from offline_marl.launch.sweeps.names import digest
from offline_marl.launch.sweeps.plan import SCORING_FIELDS, Planned
from offline_marl.launch.sweeps.table import read_done, runs_of
from offline_marl.launch.sweeps.tuning.progress import failed_folders
from offline_marl.runs.folder import RunFolder

METRICS: tuple[str, ...] = get_args(Metric)
"""Names of the metrics; more is better."""
Settled = Mapping[str, Any]
"""All settings of a run, defaults included."""


@dataclass(frozen=True)
class Chosen:
    """Best settings of one algorithm on one task."""

    algorithm: str
    task: str
    runs: tuple[Planned, ...]
    """Its runs, one a seed."""
    values: tuple[float, ...]
    """Their metric."""
    among: int
    """How many settings there were to choose from."""
    differing: tuple[str, ...]
    """Fields that were given and in which these settings differ."""

    @property
    def mean(self) -> float:
        """Mean of the metric over seeds."""
        return sum(self.values) / len(self.values)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the choice, which may not be used for retraining."""
        return sorted(int(run.fields["seed"]) for run in self.runs)


def choose(sweep: Sweep, metric: str) -> list[Chosen]:
    """Choose the best settings of each algorithm on each task, by the mean of a metric over the sweep's seeds.

    Raises:
        ConfigError: There is no such metric.
        SweepError: Runs are missing, were not scored so, or not on the same seeds.
    """
    if metric not in METRICS:
        raise ConfigError(f"Unknown metric '{metric}': {suggest(metric, METRICS)}.")
    manifest = sweep.manifest()
    failed = failed_folders(sweep, manifest)
    runs = [run for run in runs_of(manifest.jobs) if run.folder not in failed]
    if any(run.tuned_on is not None for run in runs):
        raise SweepError(f"The settings in {sweep.path} were chosen already: choose among those of the first sweep.")
    if failed and not runs:
        raise SweepError(f"All trials of {sweep.path} have failed: there is nothing to choose from.")
    values = _values(sweep, runs, metric)
    settled = [settings_of(run) for run in runs]
    groups: dict[tuple[str, str], dict[str, list[tuple[Planned, Settled]]]] = {}
    for run, own, task in zip(runs, settled, _tasks(runs, settled), strict=True):
        alike = groups.setdefault((run.name, task), {})
        alike.setdefault(_settings_key(run, own), []).append((run, own))
    return [_best(key, list(alike.values()), values) for key, alike in groups.items()]


def _values(sweep: Sweep, runs: Sequence[Planned], metric: str) -> dict[str, float]:
    values, missing, data = dict[str, float](), list[str](), dict[str, str]()
    for run in runs:
        done = read_done(sweep.folder(run))
        if done is None:
            missing.append(run.folder)
            continue
        value = done.get("score", {}).get(metric)
        if value is None:
            raise SweepError(f"{run.folder} of {sweep.path} has no {metric}: choose by another metric.")
        values[run.folder] = float(value) if math.isfinite(float(value)) else -math.inf
        place, checksum = run.fields.get("dataset"), RunFolder(sweep.folder(run)).versions().get("dataset_sha256")
        if checksum is not None and data.setdefault(str(place), checksum) != checksum:
            raise SweepError(
                f"{place} was other data for some runs of {sweep.path} than for others: no choice is fair."
            )
    if missing:
        raise SweepError(
            f"{len(missing)} of {len(runs)} runs of {sweep.path} have not finished ({missing[0]} ...): a choice among "
            "the others would not be fair; see `offline-marl sweep status`."
        )
    return values


def _best(
    key: tuple[str, str], settings: Sequence[Sequence[tuple[Planned, Settled]]], values: Mapping[str, float]
) -> Chosen:
    seeds = {tuple(sorted(int(run.fields["seed"]) for run, _ in runs)) for runs in settings}
    if len(seeds) > 1:
        raise SweepError(
            f"The settings of {key[0]} on {key[1]} ran on different seeds, so that they cannot be compared."
        )
    firsts = [runs[0] for runs in settings]
    given = dict.fromkeys(field for run, _ in firsts for field in run.fields if field not in {"seed", "world_model"})
    differing = tuple(field for field in given if _differs(field, [own for _, own in firsts]))
    candidates = [
        Chosen(*key, tuple(runs), tuple(values[run.folder] for run in runs), len(settings), differing)
        for runs in ([run for run, _ in alike] for alike in settings)
    ]
    return max(candidates, key=lambda candidate: candidate.mean)  # the first of equals


def retrain(sweep: Sweep, chosen: Sequence[Chosen], metric: str, seeds: Sequence[int]) -> list[Planned]:
    """Plan the chosen settings on new seeds, as jobs of another sweep; shared world models are used where they are.

    Raises:
        ConfigError: A seed is one of those that chose.
    """
    fits = {job.folder: job for job in sweep.manifest().jobs if job.fits_model}
    jobs: dict[str, Planned] = {}
    for choice in chosen:
        for seed in seeds:
            if seed in choice.seeds:
                raise ConfigError(
                    f"Seed {seed} chose the settings of {choice.algorithm}: give seeds that are not among "
                    f"{', '.join(map(str, choice.seeds))}."
                )
            tuned_on = {
                "seeds": choice.seeds,
                "metric": metric,
                "configurations": choice.among,
                "sweep": str(sweep.path),
            }
            for job in _retrain_jobs(sweep, choice, fits, seed):
                key = digest([job.command, job.about])
                folder = distinct_folder(job.folder, {other.folder for other in jobs.values()}, key)
                jobs.setdefault(key, job.model_copy(update={"folder": folder, "tuned_on": tuned_on}))
    return sorted(jobs.values(), key=lambda job: not job.fits_model)


def _retrain_jobs(sweep: Sweep, choice: Chosen, fits: dict[str, Planned], seed: int) -> list[Planned]:
    run = choice.runs[0]
    fit = fits.get(str(run.model))
    if fit is None:
        return [_reseeded(run, seed)]
    if fit.about.get("shared", True):
        return [_reseeded(run, seed).model_copy(update={"model": str(sweep.path / fit.folder)})]
    refit = _reseeded(fit, seed)
    return [refit, _reseeded(run, seed).model_copy(update={"model": refit.folder})]


def _reseeded(job: Planned, seed: int) -> Planned:
    stem = job.folder.rsplit("_seed", 1)[0]
    changed = {"fields": {**job.fields, "seed": seed}, "about": {**job.about, "seed": seed}}
    return job.model_copy(update={"folder": f"{stem}_seed{seed}", **changed})


def refuse_other_choice(former: Sequence[Planned], asked: Sequence[Planned], place: Sweep) -> None:
    """Make sure that a table never mixes two choices.

    Raises:
        SweepError: The folder holds other settings for an algorithm and a task.
    """
    held, planned = runs_of(former), runs_of(asked)
    runs = [*held, *planned]
    settled = [settings_of(run) for run in runs]
    keys = [_settings_key(run, own) for run, own in zip(runs, settled, strict=True)]
    places = [(run.name, task) for run, task in zip(runs, _tasks(runs, settled), strict=True)]
    now = dict(zip(places[len(held) :], keys[len(held) :], strict=True))
    for (name, task), key in zip(places[: len(held)], keys, strict=False):
        if now.get((name, task), key) != key:
            raise SweepError(
                f"{place.path} holds other settings of {name} on {task}, chosen before the sweep grew: give this "
                "choice another --out."
            )


def _tasks(runs: Sequence[Planned], settled: Sequence[Settled]) -> list[str]:
    """The task of each run, and where and how it is scored, if that differs among the algorithm's runs on this task."""
    names = [str(run.fields.get("dataset") or run.fields.get("environment")) for run in runs]
    beside: dict[tuple[str, str], list[Settled]] = {}
    for run, name, own in zip(runs, names, settled, strict=True):
        beside.setdefault((run.name, name), []).append(own)
    return [
        ", ".join(
            [name, *(f"{field} {own[field]}" for field in SCORING_FIELDS if _differs(field, beside[run.name, name]))]
        )
        for run, name, own in zip(runs, names, settled, strict=True)
    ]


def _differs(field: str, settled: Sequence[Settled]) -> bool:
    return any(each.get(field) != settled[0].get(field) for each in settled)


def _settings_key(run: Planned, settled: Settled) -> str:
    """Hash the settings without the seed, to group the runs of all seeds."""
    decides = {name: value for name, value in settled.items() if name not in {"seed", "world_model"}}
    return digest([decides, [run.about.get(name) for name in ("world_model", "preset", "trial")]])


def as_lines(chosen: Sequence[Chosen], metric: str) -> list[str]:
    """Format the choice, a line for each algorithm and task."""
    return [_line(choice, metric) for choice in chosen]


def _line(choice: Chosen, metric: str) -> str:
    run = choice.runs[0]
    shown = dict.fromkeys(name for name in (*run.varied, *choice.differing) if name not in SCORING_FIELDS)
    values: dict[str, Any] = {name: run.fields.get(name, "its default") for name in shown}
    values |= {name: run.about[name] for name in ("preset", "world_model") if run.about.get(name, "none") != "none"}
    settings = ", ".join(f"{name} = {value}" for name, value in values.items()) or "its only settings"
    seeds = ", ".join(map(str, choice.seeds))
    figures = f"{metric} {choice.mean:.3f} over seeds {seeds}, best of {choice.among}"
    return f"{choice.algorithm} on {choice.task}: {settings} ({figures})"
