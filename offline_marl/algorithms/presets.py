"""Presets: settings of an algorithm under a name, a TOML file of what differs from the defaults.

The library's lie in `offline_marl/presets/<algorithm>/<name>.toml`, a plugin's in the same folders beside its
module. They are found without importing the algorithm.
"""

from __future__ import annotations

import json
import sys
from importlib import resources, util
from typing import TYPE_CHECKING, Any

from offline_marl.algorithms import registry
from offline_marl.core.config import ConfigError, load_settings, suggest

if TYPE_CHECKING:
    if sys.version_info >= (3, 11):
        from importlib.resources.abc import Traversable
    else:
        from importlib.abc import Traversable

ENDING = ".toml"


def preset_names(algorithm: str) -> list[str]:
    """Names of the algorithm's presets, sorted; none where nothing says where it comes from."""
    return sorted(_files(algorithm))


def read_preset(algorithm: str, name: str) -> dict[str, Any]:
    """The settings that a preset holds.

    Raises:
        ConfigError: There is no such preset (the answer lists what there is), or it cannot be read.
    """
    files = _files(algorithm)
    if not files:
        raise ConfigError(f"There is no preset '{name}' of {algorithm}: it has none.")
    if name not in files:
        raise ConfigError(f"There is no preset '{name}' of {algorithm}: {suggest(name, files)}.")
    with resources.as_file(files[name]) as path:
        return load_settings(path)


def preset_rows() -> list[tuple[str, ...]]:
    """Algorithm, name and settings of every preset; one that cannot be read says so."""
    return [
        (algorithm, name, _summary(algorithm, name)) for algorithm in registry.names() for name in _files(algorithm)
    ]


def _summary(algorithm: str, name: str) -> str:
    try:
        settings = read_preset(algorithm, name)
    except ConfigError as error:
        return str(error)
    return ", ".join(f"{field} = {json.dumps(value, default=str)}" for field, value in settings.items())


def _files(algorithm: str) -> dict[str, Traversable]:
    folder = _folder(algorithm)
    if folder is None or not folder.is_dir():
        return {}
    files = sorted((file for file in folder.iterdir() if file.name.endswith(ENDING)), key=lambda file: file.name)
    return {file.name.removesuffix(ENDING): file for file in files}


def _folder(algorithm: str) -> Traversable | None:
    module = registry.module_of(algorithm)
    if module is None:
        return None
    room, _, _ = registry.package.partition(".")
    package = resources.files(room) if module.startswith(f"{registry.package}.") else _package_folder(module)
    return None if package is None else package / "presets" / algorithm.replace("-", "_")


def _package_folder(module: str) -> Traversable | None:
    """The folder that the module's file lies in; None for a module outside any package."""
    top, *rest = module.split(".")
    try:
        spec = util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.submodule_search_locations is None:
        return None
    # Made from its spec and never run: importing a plugin is for those who train it.
    folder = resources.files(util.module_from_spec(spec))
    for part in rest:
        if not (folder / part).is_dir():
            break
        folder = folder / part
    return folder
