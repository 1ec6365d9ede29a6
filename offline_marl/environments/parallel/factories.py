"""Functions that make PettingZoo's parallel environments, found by import path or id; owns that package's import."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from offline_marl.core.config import suggest
from offline_marl.core.permissions import ImportPath
from offline_marl.core.types import DataError
from offline_marl.environments.base import MissingSimulatorError


def factory_of(path: ImportPath) -> Callable[..., Any]:
    """What makes the environment.

    Args:
        path: `package.module:function`, a module with a function `parallel_env`, or an id of PettingZoo's own registry,
            such as `sisl/pursuit-v5`.

    Raises:
        MissingSimulatorError: The module does not import; the answer names its other versions that are installed.
        DataError: There is no such function in it, or no such id.
    """
    if "/" in path.text and ":" not in path.text:
        return _registered(path.text)
    module, _, name = path.text.partition(":")
    try:
        function = getattr(import_from_here(module), name or "parallel_env", None)
    except ImportError as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        others = other_versions(module)
        if others:
            raise MissingSimulatorError(f"{module} is not installed here, but {' and '.join(others)}.") from error
        advice = ": pip install 'offline-marl[pettingzoo]'" if module.split(".")[0] in {"mpe2", "pettingzoo"} else ""
        raise MissingSimulatorError(f"{module} cannot be imported here ({reason}){advice}.") from error
    if not callable(function):
        raise DataError(f"{module} has no function '{name or 'parallel_env'}' that makes an environment.")
    made: Callable[..., Any] = function
    return made


def import_from_here(module: str) -> ModuleType:
    """Import a module that the user named, also of the working folder, which is not on the path of a console script."""
    here, (top, *_) = Path.cwd(), module.split(".")
    beside = (here / f"{top}.py").is_file() or (here / top).is_dir()
    if beside and importlib.util.find_spec(top) is None:
        sys.path.append(str(here))
    return importlib.import_module(module)


def other_versions(module: str) -> list[str]:
    """Installed modules that are called as this one, which is not there, but for the version: `pursuit_v5` of `_v4`."""
    parent, _, name = module.rpartition(".")
    # PettingZoo's own copies of MPE moved into a package.
    parent = "mpe2" if parent == "pettingzoo.mpe" else parent
    try:
        spec = importlib.util.find_spec(parent) if parent else None
    except (ImportError, ValueError):
        return []
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    stem = re.sub(r"_v\d+$", "", name)
    names = {
        sibling.name
        for sibling in pkgutil.iter_modules(places)
        if re.fullmatch(rf"{re.escape(stem)}_v\d+", sibling.name)
    }
    return sorted(f"{parent}.{sibling}" for sibling in names if f"{parent}.{sibling}" != module)


def _registered(name: str) -> Callable[..., Any]:
    """What makes an environment of PettingZoo's registry.

    Raises:
        MissingSimulatorError: PettingZoo is not installed, or older than its registry.
        DataError: It registers no such id.
    """
    try:
        package = importlib.import_module("pettingzoo")
        registry, make = package.parallel_registry, package.make
    except (ImportError, AttributeError) as error:
        raise MissingSimulatorError(
            f"{name} is an id of PettingZoo's registry, which versions from 1.27 have: pip install -U pettingzoo."
        ) from error
    if name not in registry:
        stem = re.sub(r"-v\d+$", "", name)
        versions = [known for known in registry if re.sub(r"-v\d+$", "", known) == stem]
        advice = f"there is {' and '.join(versions)}" if versions else suggest(name, registry)
        raise DataError(f"PettingZoo registers no '{name}': {advice}.")

    def factory(**settings: Any) -> Any:
        try:
            return make("parallel", name, **settings)
        except Exception as error:
            if not isinstance(error.__cause__ or error, ImportError):
                raise
            reason = " ".join(str(error).split()).rstrip(".")
            raise MissingSimulatorError(f"{name} cannot be made here: {reason}.") from error

    return factory


@lru_cache
def packages_of(module: str) -> tuple[str, ...]:
    """Of the installed packages, those that bring a module; most are called as it is, and asking all takes a second."""
    try:
        return (metadata.distribution(module).name,)
    except metadata.PackageNotFoundError:
        return tuple(metadata.packages_distributions().get(module, ()))
