"""The sweep file: which algorithms, tasks, world models, seeds and settings become jobs. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from offline_marl.core.config import Config, ConfigError, explain, load_settings, suggest

NONE = "none"
"""The preset, or the world model, of a run that has none."""
Names = Annotated[tuple[str, ...], Field(min_length=1)]
Seed = Annotated[int, Field(ge=0)]
Grid = dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]
Metric = Literal["return", "normalized_return", "return_low", "normalized_low", "agreement"]
"""What can choose settings; more is better."""


class Distribution(Config):
    """What each trial draws a field from."""

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
    """Random search: trials that draw their fields independently."""

    trials: Annotated[int, Field(ge=1)]
    """How many; raising it adds trials and changes none."""
    seed: Seed = 0
    """Decides what is drawn."""
    fields: Annotated[dict[str, Distribution], Field(min_length=1)]
    """What each field is drawn from."""


class Optuna(Search):
    """Trials that Optuna proposes, each after the results of those before."""

    sampler: Literal["tpe", "random"] = "tpe"
    """How: by tree-structured Parzen estimators, or at random."""
    metric: Metric | None = None
    """What it raises, as a mean over the seeds; without it normalized_return, or return where there is none."""
    startup: Annotated[int, Field(ge=1)] = 10
    """Trials that must have ended before tpe begins; those before are drawn at random."""
    at_once: Annotated[int, Field(ge=1)] | None = None
    """Trials in a round; without it as many as run at once."""


class ModelPart(Config):
    """A world model that runs share."""

    kind: str = "ensemble"
    """Registry name of its kind."""
    seed: Seed | Literal["run"] = 0
    """One model of this seed for all runs, or one for each seed of the runs."""
    fields: dict[str, Any] = Field(default_factory=dict)
    """Any field of fit-model or of the kind."""


class Axes(Config):
    """What is varied; every run is one combination."""

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
        """What trials draw, by either search."""
        search = self.optuna or self.search
        return {} if search is None else search.fields

    @field_validator("datasets", "environments", "seeds", "presets", "world_models")
    @classmethod
    def _once(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return _no_twins(values)

    @field_validator("grid")
    @classmethod
    def _once_each(cls, grid: Grid) -> Grid:
        for values in grid.values():
            _no_twins(values)
        return grid


class SweepFile(Axes):
    """All that a sweep file holds."""

    algorithms: Names
    """Registry names."""
    algorithm: dict[str, Axes] = Field(default_factory=dict)
    """What is otherwise for one algorithm: its lists replace those above, its fields and grid are added."""
    models: dict[str, ModelPart] = Field(default_factory=dict)
    """World models that runs share; each is fitted once to each data set, before the runs that need it."""

    @field_validator("algorithms")
    @classmethod
    def _algorithms_once(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_no_twins(values) or ())

    def axes_of(self, algorithm: str) -> Axes:
        """What is varied for one algorithm."""
        own = self.algorithm.get(algorithm, Axes())
        lists = ("datasets", "environments", "seeds", "presets", "world_models")
        searched = self if own.search is None and own.optuna is None else own
        if own.datasets is not None or own.environments is not None:
            tasks = {"datasets": own.datasets, "environments": own.environments}
        else:
            tasks = {"datasets": self.datasets, "environments": self.environments}
        chosen = {name: getattr(self if getattr(own, name) is None else own, name) for name in lists}
        joined: dict[str, Any] = {"search": searched.search, "optuna": searched.optuna}
        joined |= {"fields": {**self.fields, **own.fields}, "grid": {**self.grid, **own.grid}}
        return Axes.model_construct(**{**chosen, **tasks, **joined})


def read_sweep_file(path: Path) -> SweepFile:
    """What a TOML, YAML or JSON file says.

    Raises:
        ConfigError: It cannot be read, names an unknown field, or a field cannot be what it says.
    """
    settings = load_settings(path)
    try:
        said = SweepFile.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_sentence(error)}") from None
    for name in said.algorithm:
        if name not in said.algorithms:
            raise ConfigError(f"{path}: [algorithm.{name}] is of no algorithm that is listed: add it to algorithms.")
    for name, part in (("the file", said), *said.algorithm.items()):
        _refuse_taken(path, name, part)
    for name in said.algorithms:
        axes = said.axes_of(name)
        if not axes.datasets and not axes.environments:
            raise ConfigError(f"{path} names nothing to learn {name} on: add datasets = [...] or environments = [...].")
        if axes.seeds is None:
            raise ConfigError(f"{path} names no seeds: add seeds = [0, 1, 2].")
        for field in sorted(set(axes.drawn) & set(axes.grid)):
            raise ConfigError(
                f"{path}: '{field}' of {name} is in the grid and in the search: it can be in one of them."
            )
    return said


TAKEN = {
    "seed": "seeds",
    "dataset": "datasets",
    "environment": "environments",
    "world_model": "world_models",
    "preset": "presets",
}
"""Fields of a run that a list of the file stands for."""


def _refuse_taken(path: Path, name: str, part: Axes) -> None:
    for field in (*part.fields, *part.grid, *part.drawn):
        if field in TAKEN:
            raise ConfigError(f"{path}: '{field}' is no field to set here: list it under {TAKEN[field]} = [...].")
        if field in {"out", "config", "fit"}:
            better = "describe the world model under [models.NAME]" if field == "fit" else "the sweep decides it"
            raise ConfigError(f"{path}: '{field}' cannot be set for {name}: {better}.")


def _sentence(error: ValidationError) -> str:
    # A misspelt field is often a missing one as well.
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    place: tuple[Any, ...] = first["loc"]
    if first["type"] == "extra_forbidden":
        known = _owner(place).model_fields
        return f"Unknown field '{'.'.join(map(str, place))}': {suggest(str(place[-1]), known)}."
    if first["type"] == "too_short":
        return f"'{'.'.join(map(str, place))}' is empty: list at least one, or leave it away."
    if first["type"] == "tuple_type":
        return f"'{'.'.join(map(str, place))}' cannot be {first['input']!r}: it should be a list, such as [1, 2]."
    return explain(error)


def _owner(place: tuple[Any, ...]) -> type[Config]:
    """The part of the file that a place of an error lies in."""
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


def _no_twins(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    for number, value in enumerate(values or ()):
        if value in (values or ())[:number]:
            raise ValueError(f"{value!r} is listed twice")
    return values
