"""Other Pythons that this library runs programs of its own in, as the user names them. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from offline_marl.core.config import ConfigError

SMAX_PYTHON = "OFFLINE_MARL_SMAX_PYTHON"
"""Variable of the environment that names the Python which has jaxmarl."""
FLAG = "--smax-python"


def take_interpreters(words: Sequence[str]) -> list[str]:
    """Note what `--smax-python PATH` among the words of a command names, for this process and those it starts.

    Only the user says which: no file does.

    Returns:
        The other words.

    Raises:
        ConfigError: A path is missing behind the flag, or nothing that can be run is there.
    """
    rest, left = list[str](), list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if name != FLAG:
            rest.append(word)
            continue
        if not equals and not left:
            raise ConfigError(f"Flag {FLAG} needs a value: the Python that has jaxmarl, such as .venv-smax/bin/python.")
        value = value if equals else left.pop(0)
        # Not resolved: a virtual environment is known by the link's own place.
        path = Path(value).expanduser().absolute()
        if not path.is_file() or not os.access(path, os.X_OK):
            raise ConfigError(f"{FLAG} {value} should be a Python that can be run, such as .venv-smax/bin/python.")
        os.environ[SMAX_PYTHON] = str(path)
    return rest
