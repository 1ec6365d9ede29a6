"""One file an algorithm; the file's name is the registry key.

Importing any of them makes Python bind this package to the name `offline_marl.algorithms`, which is also the public
name of the registry: so the package answers as the registry does.
"""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name in {"register", "get", "names", "listings"}:
        return getattr(import_module("offline_marl.algorithms.base").algorithms, name)
    raise AttributeError(f"module 'offline_marl.algorithms' has no attribute '{name}'")
