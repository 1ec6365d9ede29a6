"""Schema of sweep files: algorithms, tasks, world models, seeds and settings that become jobs. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from offline_marl.core.config import Config, ConfigError, explain, load_settings, suggest
from offline_marl.core.plugin_files import load_plugin
from offline_marl.runs.kinds import TRAIN

NONE = "none"
"""The preset, or the world model, of a run that has none."""
Names = Annotated[tuple[str, ...], Field(min_length=1)]
Seed = Annotated[int, Field(ge=0)]
Grid = dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]
Metric = Literal["return", "normalized_return", "return_low", "normalized_low", "agreement"]
"""Scores that settings can be chosen by; more is better."""


class Distribution(Config):
    """Distribution of a field over trials: U(low, high), exp U(log low, log high), or uniform over values."""

    distribution: Literal["uniform", "log-uniform", "choice"]
    """Uniform between low and high, uniform in the logarithm, or one of the values."""
    low: float | None = None
    """Smallest value."""
    high: float | None = None
    """Largest value."""
    integer: bool = False
    """Round to whole numbers."""
    values: tuple[Any, ...] = ()
    """What a choice chooses from."""

    @model_validator(mode="after")
    def _whole(self) -> Distribution:
        if self.distribution == "choice":
            if not self.values or (self.low, self.high) != (None, None):
                raise ValueError("a choice takes values = [...], at least one, and neither low nor high")
            return self
        if self.values or self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"{self.distribution} takes low and high, low below high, and no values")
        if self.distribution == "log-uniform" and self.low <= 0:
            raise ValueError(f"log-uniform needs a low above 0, not {self.low:g}")
        return self


class Search(Config):
    """Random search: the fields of each trial are drawn independently."""

    trials: Annotated[int, Field(ge=1)]
    """How many; raising it adds trials and changes none."""
    seed: Seed = 0
    """Decides what is drawn."""
    fields: Annotated[dict[str, Distribution], Field(min_length=1)]
    """What each field is drawn from."""


class Optuna(Search):
    """Sequential search by Optuna: each trial is proposed from the results of those before."""

    sampler: Literal["tpe", "random"] = "tpe"
    """How: by tree-structured Parzen estimators, or at random."""
    metric: Metric | None = None
    """What it raises, as a mean over the seeds; without it normalized_return, or return where there is none."""
    startup: Annotated[int, Field(ge=1)] = 10
    """Trials that must have ended before tpe begins; those before are drawn at random."""
    at_once: Annotated[int, Field(ge=1)] | None = None
    """Trials in a round; without it as many as run at once."""


class ModelPart(Config):
    """World model to fit once and share among runs."""

    kind: str = "ensemble"
    """Registry name of its kind."""
    seed: Seed | Literal["run"] = 0
    """One model of this seed for all runs, or one for each seed of the runs."""
    fields: dict[str, Any] = Field(default_factory=dict)
    """Any field of fit-model or of the kind."""


class Axes(Config):
    """Axes of variation; the runs are their Cartesian product."""

    datasets: Names | None = None
    """Data sets, as for `train --dataset`."""
    environments: Names | None = None
    """Environments to learn in without data, as for `train --environment`."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    """Seeds of the runs."""
    presets: Names | None = None
    """Presets of the algorithm; {dataset} stands for the data set's name, none for no preset."""
    world_models: Names | None = None
    """Names of [models], kinds of world model, folders of fitted ones, or none."""
    fields: dict[str, Any] = Field(default_factory=dict)
    """Settings of every run; they win over presets."""
    grid: Grid = Field(default_factory=dict)
    """Values of each field that is varied; all combinations are run."""
    search: Search | None = None
    """Random search, beside or in place of the grid."""
    optuna: Optuna | None = None
    """Optuna's search, in place of a random one."""

    @model_validator(mode="after")
    def _one_search(self) -> Axes:
        if self.search is not None and self.optuna is not None:
            raise ValueError("[search] and [optuna] both say how trials are drawn: keep one of them")
        return self

    @property
    def drawn(self) -> dict[str, Distribution]:
        """Distributions of the fields that trials draw, by either search."""
        search = self.optuna or self.search
        return {} if search is None else search.fields

    @field_validator("datasets", "environments", "seeds", "presets", "world_models")
    @classmethod
    def _once(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return _refuse_duplicates(values)

    @field_validator("grid")
    @classmethod
    def _once_each(cls, grid: Grid) -> Grid:
        for values in grid.values():
            _refuse_duplicates(values)
        return grid


class SweepFile(Axes):
    """Content of a sweep file: axes for all algorithms, overrides for single ones, shared world models."""

    algorithms: Names
    """Registry names."""
    plugins: tuple[Path, ...] = ()
    """Python files to import first, as by --plugin; paths from the folder of this file."""
    command: str = TRAIN.command
    """Kind of run, by its command; of another kind than train, `algorithms` are the names that it takes."""
    algorithm: dict[str, Axes] = Field(default_factory=dict)
    """What is otherwise for one algorithm: its lists replace those above, its fields and grid are added."""
    models: dict[str, ModelPart] = Field(default_factory=dict)
    """World models that runs share; each is fitted once to each data set, before the runs that need it."""

    @field_validator("algorithms")
    @classmethod
    def _algorithms_once(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_refuse_duplicates(values) or ())

    def axes_of(self, algorithm: str) -> Axes:
        """Merge the axes of one algorithm into those of all."""
        overrides = self.algorithm.get(algorithm, Axes())
        lists = ("datasets", "environments", "seeds", "presets", "world_models")
        searched = self if overrides.search is None and overrides.optuna is None else overrides
        if overrides.datasets is not None or overrides.environments is not None:
            tasks = {"datasets": overrides.datasets, "environments": overrides.environments}
        else:
            tasks = {"datasets": self.datasets, "environments": self.environments}
        chosen = {name: getattr(self if getattr(overrides, name) is None else overrides, name) for name in lists}
        joined: dict[str, Any] = {"search": searched.search, "optuna": searched.optuna}
        joined |= {"fields": {**self.fields, **overrides.fields}, "grid": {**self.grid, **overrides.grid}}
        return Axes.model_construct(**{**chosen, **tasks, **joined})


def read_sweep_file(path: Path) -> SweepFile:
    """Read a sweep file in TOML, YAML or JSON.

    Raises:
        ConfigError: It cannot be read, names an unknown field, or a field cannot be what it says.
    """
    settings = load_settings(path)
    try:
        content = SweepFile.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_sentence(error)}") from None
    for file in content.plugins:
        load_plugin(path.parent / file)
    for name in content.algorithm:
        if name not in content.algorithms:
            raise ConfigError(f"{path}: [algorithm.{name}] is of no algorithm that is listed: add it to algorithms.")
    for name, part in (("the file", content), *content.algorithm.items()):
        _refuse_reserved_fields(path, name, part)
    for name in content.algorithms:
        axes = content.axes_of(name)
        if not axes.datasets and not axes.environments:
            raise ConfigError(f"{path} names nothing to learn {name} on: add datasets = [...] or environments = [...].")
        if axes.environments and "environment" in {*axes.fields, *axes.grid, *axes.drawn}:
            raise ConfigError(
                f"{path}: 'environment' of {name} says where data is scored, and environments = [...] are learned in "
                "without data: give one of them."
            )
        if axes.seeds is None:
            raise ConfigError(f"{path} names no seeds: add seeds = [0, 1, 2].")
        for field in sorted(set(axes.drawn) & set(axes.grid)):
            raise ConfigError(
                f"{path}: '{field}' of {name} is in the grid and in the search: it can be in one of them."
            )
    return content


LISTED_FIELDS = {
    "seed": "seeds",
    "dataset": "datasets",
    "world_model": "world_models",
    "preset": "presets",
}
"""Lists of the file by the field of a run that each of them varies."""


def _refuse_reserved_fields(path: Path, name: str, part: Axes) -> None:
    for field in (*part.fields, *part.grid, *part.drawn):
        if field in LISTED_FIELDS:
            raise ConfigError(
                f"{path}: '{field}' is no field to set here: list it under {LISTED_FIELDS[field]} = [...]."
            )
        if field in {"out", "config", "fit"}:
            better = "describe the world model under [models.NAME]" if field == "fit" else "the sweep decides it"
            raise ConfigError(f"{path}: '{field}' cannot be set for {name}: {better}.")


def _sentence(error: ValidationError) -> str:
    # A misspelt field is often reported as a missing one as well: the unknown name tells more.
    first = min(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    place: tuple[Any, ...] = first["loc"]
    if first["type"] == "extra_forbidden":
        known = _find_section(place).model_fields
        return f"Unknown field '{'.'.join(map(str, place))}': {suggest(str(place[-1]), known)}."
    if first["type"] == "too_short":
        return f"'{'.'.join(map(str, place))}' is empty: list at least one, or leave it away."
    if first["type"] == "tuple_type":
        return f"'{'.'.join(map(str, place))}' cannot be {first['input']!r}: it should be a list, such as [1, 2]."
    return explain(error)


def _find_section(place: tuple[Any, ...]) -> type[Config]:
    """Find the section of the file that an error's location lies in."""
    kind: type[Config] = SweepFile
    for word in place[:-1]:
        parts: dict[str, type[Config]] = {
            "algorithm": Axes,
            "models": ModelPart,
            "search": Search,
            "optuna": Optuna,
        }
        kind = Distribution if issubclass(kind, Search) and word == "fields" else parts.get(str(word), kind)
    return kind


def _refuse_duplicates(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    for number, value in enumerate(values or ()):
        if value in (values or ())[:number]:
            raise ValueError(f"{value!r} is listed twice")
    return values
