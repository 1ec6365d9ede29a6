"""Base of every config: frozen, no unknown fields, each field documented by the string beneath it.

Files (TOML or YAML) and flags come in, JSON goes out. Imports no torch, so that the command line
answers at once.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from offline_marl.core.errors import BadInputError
from offline_marl.core.small_files import LONGEST, MOST_NESTED, nests_deeper, parse, shown

LARGEST_FILE = 1 << 22
"""Bytes of a file of settings."""


class ConfigError(BadInputError, ValueError):
    """A setting that cannot be used; the message is one sentence for the person who gave it."""


class Config(BaseModel):
    """Settings that cannot change after they were made and refuse a misspelt name."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


def suggest(name: str, known: Iterable[str]) -> str:
    """A sentence part that helps after an unknown name: the closest name, else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    listed = ", ".join(names) or "none"
    return f"did you mean '{close[0]}'? (there are: {listed})" if close else f"there are: {listed}"


def explain(error: ValidationError, known: Iterable[str] = ()) -> str:
    """One sentence for a pydantic error: which field, what was given, what would be right."""
    first = error.errors()[0]
    field = ".".join(str(part)[:LONGEST] for part in first["loc"]) or "settings"
    if first["type"] == "extra_forbidden":
        return f"Unknown field '{field}': {suggest(field, known)}."
    if first["type"] == "missing":
        return f"Field '{field}' is missing."
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # two fields that do not go together: the message names them
        return f"{message}."
    # Of a field that takes one of several types, pydantic tells what is wrong by each, under names of its own.
    *outer, last = first["loc"]
    told = [each for each in error.errors() if [*each["loc"][:-1]] == outer and each["input"] is first["input"]]
    if outer and isinstance(last, str) and len(told) > 1:
        field = ".".join(str(part)[:LONGEST] for part in outer)
        message = ", or ".join([message, *(each["msg"].removeprefix("Input should be ") for each in told[1:])])
    return f"Field '{field}' cannot be {shown(first['input'])}: {message[0].lower()}{message[1:]}."


def build(kind: type[Config], settings: dict[str, Any]) -> Any:
    """Make a config from plain settings.

    Raises:
        ConfigError: A field is unknown, missing or has a bad value.
    """
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(explain(error, kind.model_fields)) from None


def load_settings(path: Path) -> dict[str, Any]:
    """Settings from a TOML, YAML or JSON file.

    Raises:
        ConfigError: The file is missing, has another ending, does not parse or holds no table.
    """
    if not path.is_file():
        raise ConfigError(f"There is no config file {path}.")
    try:
        loaded = _parse(path)
        if nests_deeper(loaded, MOST_NESTED):
            raise ValueError(f"it is nested more than {MOST_NESTED} deep")
    except RecursionError:
        raise ConfigError(f"Config file {path} cannot be read: it is nested too deeply.") from None
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"Config file {path} cannot be read: {reason}.") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"Config file {path} should hold named fields, not a {type(loaded).__name__}.")
    return loaded


def _parse(path: Path) -> Any:
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"it has {path.stat().st_size:,} bytes, too many for settings")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        return tomllib.loads(text)
    if path.suffix in {".yaml", ".yml"}:
        import yaml

        try:
            return yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from None
    if path.suffix == ".json":
        return parse(text)
    raise ValueError(f"its ending is '{path.suffix}', should be .toml, .yaml or .json")
