"""Keys, folders and standing of a recipe's stages.

A stage's key is a checksum of its settings and of the content of its inputs. What it makes lies in a folder named by
its name and its key, with `stage.json` once it is whole: an equal stage is found there, whichever recipe it is of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from offline_marl.core.errors import BadInputError
from offline_marl.core.small_files import read_table
from offline_marl.datasets.catalog import SUFFIX
from offline_marl.launch.recipes.contents import content_of
from offline_marl.launch.recipes.file import MAKES_DATA, Recipe, Stage
from offline_marl.runs.folder import write_json

RECORD = "stage.json"
"""Written once a stage is whole: its settings, its inputs' checksums and that of what it made."""
DIGITS = 12


class RecipeError(BadInputError, RuntimeError):
    """Recipe folder that cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Standing:
    """Where a stage of a recipe stands."""

    name: str
    stage: Stage
    lacks: tuple[str, ...] = ()
    """Stages that have to be done before."""
    key: str = ""
    """Empty while the content of its inputs is unknown."""
    folder: Path = Path()
    inputs: Mapping[str, str] | None = None
    """Checksums of its inputs."""
    content: str | None = None
    """Checksum of what it made; None until that is whole."""

    @property
    def done(self) -> bool:
        """Whether what it makes is there."""
        return self.content is not None

    @property
    def made(self) -> Path:
        """The file or folder that it makes."""
        return self.folder / made_name(self.name, self.stage)

    def finish(self, folder: Path) -> None:
        """Write the record of a stage whose result lies, whole, in a folder."""
        record = {**self.stage.identity(), "inputs": dict(self.inputs or {}), "key": self.key}
        content = content_of(folder / made_name(self.name, self.stage))
        write_json(folder / RECORD, {**to_jsonable_python(record), "content": content})


def made_name(name: str, stage: Stage) -> str:
    """Name, inside the stage's folder, of what it makes: a data set, or a folder."""
    return f"{name}{SUFFIX}" if stage.command in MAKES_DATA and "tiers" not in stage.fields else name


def stand(recipe: Recipe, out: Path, order: Sequence[str], given: Mapping[str, str]) -> dict[str, Standing]:
    """Where the stages stand.

    Args:
        recipe: The recipe.
        out: Folder of the stages.
        order: Names of the stages, each behind its inputs.
        given: Checksums of the recipe's inputs.

    Raises:
        RecipeError: A record was damaged or edited.
    """
    contents, found = dict(given), dict[str, Standing]()
    for name in order:
        stage = recipe.stages[name]
        lacks = tuple(needed for needed in stage.inputs if needed not in contents)
        if lacks:
            found[name] = Standing(name, stage, lacks)
            continue
        inputs = {needed: contents[needed] for needed in stage.inputs}
        key = _key([stage.identity(), inputs])
        folder = out / f"{name}-{key}"
        content = _recorded(folder / RECORD)
        found[name] = Standing(name, stage, (), key, folder, inputs, content)
        if content is not None:
            contents[name] = content
    return found


def contents_of_inputs(recipe: Recipe) -> dict[str, str]:
    """Checksums of what a recipe reads from elsewhere."""
    return {name: content_of(path) for name, path in recipe.inputs.items()}


def _key(parts: Any) -> str:
    return hashlib.sha256(json.dumps(to_jsonable_python(parts), sort_keys=True).encode()).hexdigest()[:DIGITS]


def _recorded(file: Path) -> str | None:
    try:
        return str(read_table(file)["content"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise RecipeError(f"{file} was damaged or edited: remove {file.parent}, and it is made again.") from None
