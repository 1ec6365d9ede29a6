"""Plan of a sweep: the job of every combination in its file, checked before anything is started."""

from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.presets import read_preset
from offline_marl.core.config import Config, ConfigError, suggest
from offline_marl.core.errors import BadInputError
from offline_marl.core.permissions import ImportPath
from offline_marl.core.seeding import derive
from offline_marl.datasets.places import absolute
from offline_marl.launch.sweeps.file import NONE, Axes, Distribution, ModelPart, Optuna, Search, SweepFile
from offline_marl.launch.sweeps.names import digest, folder_name, spell, task_word
from offline_marl.runs.combinations import layered
from offline_marl.runs.config import import_paths
from offline_marl.runs.kinds import FIT, TRAIN
from offline_marl.runs.places import SHARES, locate_model, with_share
from offline_marl.tasks.data_tasks import refuse_unknown
from offline_marl.tasks.environment_tasks import find_environment_task
from offline_marl.training.kinds import procedure_of
from offline_marl.worldmodels.base import worldmodels

SHARED_FIELDS = ("device", "threads", "clip_actions", "action_scale", "memory")
"""Fields of runs that shared world models inherit, unless [models] sets them."""

SCORING_FIELDS = ("environment", "env_settings", "max_steps", "reference", "eval_seed", "final_episodes")
"""Fields that say where and how runs are scored: no choice is made among scores that differ in them."""


class Planned(Config):
    """Job of a sweep, as `sweep.json` stores it."""

    folder: str
    """Its folder, inside the sweep's."""
    command: str
    """Command of its kind of run."""
    name: str
    """Algorithm, or kind of world model."""
    fields: dict[str, Any]
    """All that was given for it, dataset or environment among it; a shared world model is in `model`."""
    model: str | None = None
    """Folder, inside the sweep's or absolute, of the world model that another job fits for it."""
    about: dict[str, Any] = Field(default_factory=dict)
    """Which combination it is; two jobs that differ here are not the same job."""
    varied: tuple[str, ...] = ()
    """Fields of `fields` that the grid or the search set."""
    tuned_on: dict[str, Any] | None = None
    """By what these settings were chosen, if they were."""

    def resolved(self) -> Planned:
        """The same job with whole paths, so that it means the same wherever it is started.

        Raises:
            BadInputError: Its algorithm or its kind is unknown.
        """
        return self.model_copy(update={"fields": procedure_of(self.command).resolve(self.name, self.fields)})

    @property
    def fits_model(self) -> bool:
        """Whether it fits a world model, which other jobs may wait for."""
        return self.command == FIT.command

    def settled(self) -> dict[str, Any]:
        """All that decides the job's result, defaults included.

        Raises:
            BadInputError: A setting is unknown, has a bad value or contradicts another.
        """
        fields = dict(self.fields)
        dataset, device = fields.pop("dataset", None), fields.get("device", "auto")
        # The machine that starts the jobs may lack the GPU of those that run them: checked as if on the CPU.
        fields |= {"device": "cpu" if str(device).startswith("cuda") else device}
        if self.model is not None:
            fields["world_model"] = os.path.join(os.sep, self.model)
        settled = procedure_of(self.command).prepare(self.name, dataset, fields).model_dump(mode="json")
        return {**settled, "device": device}


@dataclass(frozen=True)
class _Combination:
    """Combination of the axes that are no fields: algorithm, task, preset, world model."""

    command: str
    algorithm: str
    origin: str
    task: str
    preset: str
    by_task: bool
    """Whether the preset is the one that has the task's name."""
    model: str


def plan(file: SweepFile) -> list[Planned]:
    """Plan all jobs of a file, world models before the runs that need them; folders are proposals.

    Raises:
        BadInputError: Any of them could not begin; the sentence names what is wrong.
    """
    fits: dict[str, Planned] = {}
    runs: list[Planned] = []
    for axes, choice, seed, fit in _combinations(file, fits):
        if axes.optuna is None:
            runs += _runs(file, axes, choice, seed, fit)
    return [*fits.values(), *map(checked, runs)]


def templates(file: SweepFile) -> Iterator[tuple[Optuna, Planned]]:
    """Generate the runs that Optuna tunes, without the fields that trials set, for every combination and seed.

    Raises:
        BadInputError: See `plan`.
    """
    for axes, choice, seed, fit in _combinations(file, {}):
        if axes.optuna is not None:
            for run in _runs(file, axes, choice, seed, fit):
                yield axes.optuna, run


def _combinations(
    file: SweepFile, fits: dict[str, Planned]
) -> Iterator[tuple[Axes, _Combination, int, Planned | None]]:
    """Generate every combination, seed and the fit that they need; fits are collected in `fits` on the way."""
    known: set[tuple[str, str]] = set()
    for algorithm in file.algorithms:
        axes = _shared_out(file.axes_of(algorithm))
        procedure_of(file.command).names.get(algorithm)
        for choice in _choices(file.command, algorithm, axes):
            if (choice.origin, choice.task) not in known:
                _refuse_unknown_task(choice.origin, choice.task)
                known.add((choice.origin, choice.task))
            for seed in axes.seeds or ():
                fit = _fit_of(file, axes, choice, seed)
                if fit is not None:
                    _add_fit(fit, fits)
                    fit = fits[digest(fit.about)]
                yield axes, choice, seed, fit


def _shared_out(axes: Axes) -> Axes:
    """Axes whose fields `conf` and `view` have become the ends of the tasks' names.

    Raises:
        ConfigError: They vary, only one is given, or some task is no body or says it already.
    """
    if not {*axes.grid, *axes.drawn}.isdisjoint(SHARES):
        raise ConfigError("conf and view do not vary by [grid] or a search: list the tasks, as NAME_CONF_VIEW each.")
    given = {name: value for name, value in axes.fields.items() if name in SHARES}
    if not given:
        return axes
    named = {
        f"{origin}s": tuple(with_share({origin: task, **given})[origin] for task in tasks)
        for origin, tasks in (("dataset", axes.datasets), ("environment", axes.environments))
        if tasks
    }
    return axes.model_copy(
        update={**named, "fields": {name: value for name, value in axes.fields.items() if name not in SHARES}}
    )


def _add_fit(fit: Planned, fits: dict[str, Planned]) -> None:
    """Add a fit once; of two whose folders would have one name, the second gets a hash behind it."""
    key = digest(fit.about)
    if key not in fits:
        met = any(fit.folder == other.folder for other in fits.values())
        fits[key] = checked(fit.model_copy(update={"folder": f"{fit.folder}-{key}"}) if met else fit)


def _choices(command: str, algorithm: str, axes: Axes) -> Iterator[_Combination]:
    tasks = [("dataset", absolute(task)) for task in axes.datasets or ()]
    tasks += [("environment", task) for task in axes.environments or ()]
    for (origin, task), preset, model in itertools.product(
        tasks, axes.presets or (NONE,), axes.world_models or (NONE,)
    ):
        yield _Combination(
            command, algorithm, origin, task, preset.replace("{dataset}", task_word(task)), preset == "{dataset}", model
        )


def paths_to_import(jobs: Iterable[Planned]) -> set[str]:
    """Collect the import paths among the environments of jobs."""
    return {
        path
        for job in jobs
        for path in import_paths(job.fields.get("environment"), dict(job.fields.get("env_settings") or {}))
    }


def _refuse_unknown_task(origin: str, task: str) -> None:
    if origin == "dataset":
        refuse_unknown(task)
    else:
        find_environment_task(task, permit=ImportPath)


def _fit_of(file: SweepFile, axes: Axes, choice: _Combination, seed: int) -> Planned | None:
    """Plan the fit of a combination's shared world model; None where nothing is to be fitted."""
    name = choice.model
    part = file.models.get(name)
    if part is None:
        if name == NONE or name not in worldmodels.names():
            _refuse_unknown_model(name, file)
            return None
        part = ModelPart(kind=name)
    if not worldmodels.get(part.kind).fitted:
        if part.fields:
            raise ConfigError(f"There is nothing to fit in {part.kind}, so that [models.{name}] takes no fields.")
        return None
    if choice.origin != "dataset":
        if choice.command == TRAIN.command and algorithms.get(choice.algorithm).needs.origin == "model":
            return None  # the run fits it to what it plays
        raise ConfigError(f"The world model '{name}' is fitted to data, and {choice.task} is an environment.")
    shared = {field: value for field, value in axes.fields.items() if field in SHARED_FIELDS}
    fit_seed = seed if part.seed == "run" else int(part.seed)
    words = [spell(name), task_word(choice.task)]
    return Planned(
        folder=f"models/{folder_name(words, {}, fit_seed)}",
        command=FIT.command,
        name=part.kind,
        fields={**shared, **part.fields, "dataset": choice.task, "seed": fit_seed},
        about={"world_model": name, "dataset": choice.task, "seed": fit_seed, "shared": part.seed != "run"},
    ).resolved()


def _refuse_unknown_model(name: str, file: SweepFile) -> None:
    if name == NONE or os.sep in name or Path(name).is_dir():
        return
    known = {*file.models, *worldmodels.names(), NONE}
    raise ConfigError(f"Unknown world model '{name}': {suggest(name, known)}; a folder is named ./{name}.")


def _own_model(file: SweepFile, choice: _Combination) -> dict[str, Any]:
    """Fields of a run whose world model no other job fits."""
    part = file.models.get(choice.model)
    if part is None:
        return {} if choice.model == NONE else {"world_model": locate_model(choice.model)}
    return {"world_model": part.kind, **({"fit": part.fields} if part.fields else {})}


def _runs(file: SweepFile, axes: Axes, choice: _Combination, seed: int, fit: Planned | None) -> Iterator[Planned]:
    preset = {} if choice.preset == NONE else read_preset(choice.algorithm, choice.preset)
    beneath = {key.replace("-", "_"): value for key, value in preset.items()}
    beneath = {key: value for key, value in beneath.items() if key not in {"dataset", "environment"}}
    model = _own_model(file, choice) if fit is None else {}
    words = [choice.algorithm, task_word(choice.task)]
    words += [] if choice.preset == NONE or choice.by_task else [spell(choice.preset)]
    words += [] if choice.model == NONE else [spell(Path(choice.model).name)]
    chosen = {"algorithm": choice.algorithm, choice.origin: choice.task}
    chosen |= {"preset": choice.preset, "world_model": choice.model}
    for point in _points(axes.grid):
        for trial, drawn in _trials(axes.search):
            run = Planned(
                folder=f"runs/{folder_name(words + _trial_word(trial), point, seed)}",
                command=choice.command,
                name=choice.algorithm,
                fields=layered(beneath, axes.fields, point, drawn, {**model, choice.origin: choice.task, "seed": seed}),
                model=None if fit is None else fit.folder,
                about={**chosen, **point, **({} if trial is None else {"trial": trial}), "seed": seed},
                varied=(*point, *drawn),
            )
            yield run.resolved()


def _points(grid: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield {field.replace("-", "_"): value for field, value in zip(grid, values, strict=True)}


def _trial_word(trial: int | None) -> list[str]:
    return [] if trial is None else [f"trial{trial:03d}"]


def _trials(search: Search | None) -> Iterator[tuple[int | None, dict[str, Any]]]:
    if search is None:
        yield None, {}
        return
    for trial in range(search.trials):
        yield trial, {field: draw(source, search.seed, field, trial) for field, source in search.fields.items()}


def draw(source: Distribution, seed: int, field: str, trial: int) -> Any:
    """Draw a trial's value of a field: seeded by seed, field and trial alone, so that more trials change none."""
    uniform = random.Random(derive(seed, field, trial)).random()
    if source.distribution == "choice":
        return source.values[int(uniform * len(source.values))]
    low, high = float(source.low or 0), float(source.high or 0)
    if source.distribution == "log-uniform":
        value = math.exp(math.log(low) + uniform * (math.log(high) - math.log(low)))
    else:
        value = low + uniform * (high - low)
    return round_value(source, value)


def round_value(source: Distribution, value: float) -> Any:
    """Round a number for a trial: to an integer or to four digits, and never out of the range."""
    if source.integer:
        return round(value)
    return min(max(round_to_four_digits(value), float(source.low or 0)), float(source.high or 0))


def round_to_four_digits(value: float) -> float:
    """Round to four significant digits, which can be typed."""
    return float(f"{value:.4g}")


def checked(job: Planned) -> Planned:
    """Validate a job as far as possible before it begins, and give it back.

    Raises:
        ConfigError: It could not begin.
    """
    try:
        job.settled()
    except BadInputError as error:
        raise ConfigError(f"{job.folder.partition('/')[2]} cannot begin: {error}") from None
    return job
