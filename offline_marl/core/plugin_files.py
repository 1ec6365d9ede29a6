"""Plugins of one file, which the user names by `--plugin FILE`. Imports no torch."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from offline_marl.core.config import ConfigError

PREFIX = "offline_marl_plugin_"
"""Beginning of the names of their modules."""
_loaded: dict[str, str] = {}


def load_plugin(path: str | Path) -> None:
    """Import a file, so that what its decorators register is known by name; once in a process.

    Only the user says which: no run folder, sweep folder or data set does.

    Raises:
        ConfigError: There is no such file, it is no Python file, or it does not import.
    """
    file = Path(path).expanduser().absolute()
    if str(file) in _loaded:
        return
    if file.suffix != ".py" or not file.is_file():
        raise ConfigError(f"--plugin {path} should be a Python file, such as my_algorithm.py.")
    stem, digest = re.sub(r"\W", "_", file.stem), hashlib.sha256(str(file).encode("utf-8", "surrogateescape"))
    name = f"{PREFIX}{stem}_{digest.hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look for it there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        text = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"The plugin {path} does not import ({type(error).__name__}: {text}).") from error
    _loaded[str(file)] = name


def loaded_plugins() -> tuple[str, ...]:
    """Whole paths of the files that this process has imported, in that order."""
    return tuple(_loaded)


def take_plugins(words: Sequence[str]) -> list[str]:
    """Import the files that `--plugin FILE` among the words of a command names, and give the other words.

    Raises:
        ConfigError: A file is missing behind the flag, or cannot be imported.
    """
    rest, left = list[str](), list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if name != "--plugin":
            rest.append(word)
            continue
        if not equals and not left:
            raise ConfigError("Flag --plugin needs a value: the Python file that registers what you wrote.")
        load_plugin(value if equals else left.pop(0))
    return rest
