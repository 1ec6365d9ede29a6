"""Permission to import code by its name: paths that the user wrote, unlike those that files hold. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FAMILIES = ("dm_control/",)
"""Beginnings of names that a registered environment stands for: `dm_control/cheetah-run`."""


@dataclass(frozen=True)
class ImportPath:
    """`package.module:function` that may be imported, because the user named it.

    What a file says stays a `str`, which nothing imports. Turning one into an ImportPath is the decision to run that
    code: only words of the command line, arguments of a call, and what `runs.permissions` remembers become one.
    """

    text: str

    def __str__(self) -> str:
        return self.text


Permit = Callable[[str], ImportPath]
"""Turns a path into one that may be imported, or refuses: `ImportPath` itself for what the user named just now."""


def is_import_path(name: str) -> bool:
    """Whether a name asks for an import; registered names hold neither of these signs."""
    return ":" in name or "." in name


def names_code(environment: str) -> bool:
    """Whether an environment's name is an import path, or an id of PettingZoo's registry, which imports too."""
    return is_import_path(environment) or ("/" in environment and not environment.startswith(FAMILIES))
