"""Schema of recipe files: named stages, each a command with its fields, which name other stages as inputs.

Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from offline_marl.core.config import Config, ConfigError, build, load_settings, suggest
from offline_marl.core.names import is_place, named_places, split_share
from offline_marl.core.places import place_fields
from offline_marl.datasets.places import place_of
from offline_marl.runs.config import ACTING_RUNS, FROZEN, MACHINE_FIELDS, FitConfig, RewardFitConfig, RunConfig
from offline_marl.runs.kinds import kinds
from offline_marl.worldmodels import registry as worldmodels

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][\w-]*$")]
REFERENCE = re.compile(r"\{([A-Za-z][\w-]*)\}")
"""An input, by its name, inside any text of a stage."""
MAKES_DATA = ("collect", "data mix")
COMPARES = ("prefs pairs", "prefs simulate", "prefs import")
HERE = (*MAKES_DATA, *COMPARES)
"""Commands that the launching process performs itself; kinds of run become jobs."""
DATA = frozenset({"data", "dataset"})
ACTORS = frozenset({"who", "deviate", *ACTING_RUNS, FROZEN})
PATHS = frozenset({"tiers", "file"}) | place_fields(RunConfig, FitConfig, RewardFitConfig)
"""Fields, but for these, that hold the path of a file or folder."""


class Stage(Config):
    """One command of a recipe."""

    command: str
    """collect, data mix, prefs pairs, prefs simulate, prefs import, or a kind of run: train, fit-model, fit-reward."""
    name: str | None = None
    """Environment, algorithm or kind of model; of prefs the folder of comparisons to go on with, which is copied."""
    fields: dict[str, Any] = Field(default_factory=dict)
    """Flags of the command, named as in its --help with underscores; {stage} in a text is what a stage has made."""

    @property
    def is_job(self) -> bool:
        """Whether it is a run or a fit, which an executor carries out."""
        return self.command not in HERE

    @property
    def title(self) -> str:
        """The command as it is shown."""
        return f"{self.command} {self.name}" if self.is_job or self.command == "collect" else self.command

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what it reads: stages, or inputs of the recipe."""
        texts = _texts([self.name, self.fields])
        return tuple(dict.fromkeys(name for _, text in texts for name in REFERENCE.findall(text)))

    def identity(self) -> dict[str, Any]:
        """All of it that decides what it makes, but for the content of its inputs."""
        fields = {name: value for name, value in self.fields.items() if name not in MACHINE_FIELDS}
        return {"command": self.command, "name": self.name, "fields": fields}

    def filled(self, paths: Mapping[str, Path]) -> Stage:
        """The stage with paths in place of names."""

        def fill(value: Any) -> Any:
            if isinstance(value, str):
                return REFERENCE.sub(lambda match: str(paths[match[1]]), value)
            if isinstance(value, Mapping):
                return {name: fill(item) for name, item in value.items()}
            return [fill(item) for item in value] if isinstance(value, list | tuple) else value

        return self.model_copy(update={"name": fill(self.name), "fields": fill(self.fields)})


class Recipe(Config):
    """Content of a recipe file."""

    inputs: dict[Name, Path] = Field(default_factory=dict)
    """Files and folders from elsewhere that stages read, seen from the folder of the recipe."""
    stages: Annotated[dict[Name, Stage], Field(min_length=1)]
    """The stages, by name."""

    def ordered(self, until: str | None = None) -> list[str]:
        """Names of all stages, or of one and of all that it needs, each behind its inputs.

        Raises:
            ConfigError: There is no such stage, an input is unknown, or stages wait for each other.
        """
        if until is not None and until not in self.stages:
            raise ConfigError(f"The recipe has no stage '{until}': {suggest(until, self.stages)}.")
        order: list[str] = []
        for name in self.stages if until is None else [until]:
            self._visit(name, order, ())
        return order

    def _visit(self, name: str, order: list[str], path: tuple[str, ...]) -> None:
        if name in path:
            raise ConfigError(f"Stages wait for each other: {' -> '.join((*path[path.index(name) :], name))}.")
        if name in order:
            return
        for needed in self.stages[name].inputs:
            if needed in self.stages:
                self._visit(needed, order, (*path, name))
            elif needed not in self.inputs:
                known = suggest(needed, {*self.stages, *self.inputs})
                raise ConfigError(f"Stage '{name}' reads {{{needed}}}, which is neither a stage nor an input: {known}.")
        order.append(name)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file in TOML, YAML or JSON.

    Raises:
        ConfigError: It cannot be read, a field is unknown, or its stages make no sense.
    """
    try:
        return make_recipe(load_settings(path), path.parent)
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if str(path) in message else f"{path}: {message}") from None


def make_recipe(settings: dict[str, Any], folder: Path = Path()) -> Recipe:
    """Make a recipe from plain values.

    Args:
        settings: As a file holds them.
        folder: Where relative paths of inputs are seen from.

    Raises:
        ConfigError: See `read_recipe`.
    """
    recipe: Recipe = build(Recipe, settings)
    recipe = recipe.model_copy(update={"inputs": {name: folder / path for name, path in recipe.inputs.items()}})
    for name in recipe.inputs:
        if name in recipe.stages:
            raise ConfigError(f"'{name}' is an input and a stage: rename one of them.")
        if not recipe.inputs[name].exists():
            raise ConfigError(f"Input '{name}' is not there: {recipe.inputs[name]}.")
    for name, stage in recipe.stages.items():
        _refuse(name, stage)
    recipe.ordered()
    return recipe


def _refuse(name: str, stage: Stage) -> None:
    known = {*HERE, *kinds.names()}
    if stage.command not in known:
        raise ConfigError(f"Stage '{name}' has the command '{stage.command}': {suggest(stage.command, known)}.")
    if "out" in stage.fields or "config" in stage.fields:
        raise ConfigError(f"Stage '{name}' sets out or config: the recipe says where things go, and all else here.")
    unnamed = stage.command in {"data mix", "prefs pairs"}
    if stage.name is None and not unnamed:
        raise ConfigError(f"Stage '{name}' needs a name: what comes behind `{stage.command}`.")
    if stage.command in COMPARES and stage.name is not None and not REFERENCE.fullmatch(stage.name):
        raise ConfigError(f"Stage '{name}' goes on with comparisons of another: name = \"{{STAGE}}\".")
    for field, text in _texts([stage.name, stage.fields]):
        for place in _places_in(field, text):
            raise ConfigError(
                f"Stage '{name}' reads {place}: name it under [inputs], so that a change of its content is noticed."
            )


def _places_in(field: str, text: str) -> Iterator[str]:
    """Files and folders that are there among what a text names: `runs/a@2000=.5,random=.5`, `mine.hdf5_2x1_full`."""
    for word in named_places(text):
        name = split_share(word)[0]
        place = place_of(name)
        path = name if place is None else place[0]
        if is_place(path) and not REFERENCE.search(name) and ("/" in path or _means_a_path(field, path)):
            yield path


def _means_a_path(field: str, name: str) -> bool:
    """Whether a name without a slash, which may be a word as well, is read as the path of what is there."""
    if field in DATA:
        return place_of(name) is not None
    if field in ACTORS:
        return (Path(name.partition("@")[0]) / "config.json").is_file()
    return field in PATHS and not (field == "world_model" and name in worldmodels.names())


def _texts(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """All texts of a value, each behind the name of the field that it stands in."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _texts(part, str(name).replace("-", "_"))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part, field)


Perform = Callable[[list[str]], None]
"""Runs a command, given its words."""
