"""Names for things that plug in: algorithms, environments and what comes later.

Three doors lead in: a file in the room's folder (its name is the key), the decorator, and an entry
point of an installed package. Listing names imports nothing; a plugin loads only when asked for.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

from offline_marl.core.config import suggest
from offline_marl.core.errors import BadInputError

T = TypeVar("T")
GROUND = frozenset({"__init__", "base"})


class RegistryError(BadInputError, LookupError):
    """A name that is unknown, taken twice, or whose plugin does not load."""


@dataclass(frozen=True)
class Listing:
    """What can be said of a name without importing it."""

    name: str
    summary: str
    """First line of its module's docstring; for a plugin, the package it comes from."""
    origin: str
    """`built-in`, `here` (decorator) or the plugin's package."""


class Registry(Generic[T]):
    """Finds things by name.

    Args:
        kind: What the things are, in the singular, as errors should say it.
        package: The room whose files are the built-in entries; also the entry-point group.
        leaves_out: Files of the room that register nothing.
        families: Files of the room that register several names, none of them the file's own: what each name is.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        leaves_out: frozenset[str] = frozenset(),
        families: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.kind = kind
        self.package = package
        self._families = {name: file for file, names in (families or {}).items() for name in names}
        self._summaries = {name: text for names in (families or {}).values() for name, text in names.items()}
        self._leaves_out = GROUND | leaves_out | set(families or {})
        self._loaded: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters a thing under `name`.

        Raises:
            RegistryError: The name is not kebab-case, or something else holds it already.
        """
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
            raise RegistryError(
                f"The {self.kind} name '{name}' should be kebab-case, such as 'my-{self.kind.replace(' ', '-')}'."
            )

        def enter(thing: T) -> T:
            held = self._loaded.get(name)
            if held is not None and _place(held) != _place(thing):
                raise RegistryError(f"Two {self.kind}s are called '{name}': {_place(held)} and {_place(thing)}.")
            if name in self._files() and _module(thing) != self._module(name):
                raise RegistryError(
                    f"The name '{name}' belongs to the built-in {self.kind} {self._module(name)}; "
                    f"{_place(thing)} needs another one."
                )
            self._loaded[name] = thing
            return thing

        return enter

    def names(self) -> list[str]:
        """All names, sorted; imports nothing."""
        return sorted({*self._files(), *self._loaded, *self._plugins()})

    def get(self, name: str) -> T:
        """The thing called `name`, imported now if it was not before.

        Raises:
            RegistryError: The name is unknown (the answer lists all), two plugins claim it, or the
                plugin does not import.
        """
        if name in self._loaded:
            return self._loaded[name]
        if name in self._files():
            importlib.import_module(self._module(name))
        elif name in self._plugins():
            self._load_plugin(name)
        else:
            raise RegistryError(f"Unknown {self.kind} '{name}': {suggest(name, self.names())}.")
        if name not in self._loaded:
            raise RegistryError(f"Importing the {self.kind} '{name}' did not register it; its decorator names another.")
        return self._loaded[name]

    def module_of(self, name: str) -> str | None:
        """The module that a built-in or a plugin's name lives in; None if nobody, or more than one, claims it."""
        if name in self._files():
            return self._module(name)
        points = self._plugins().get(name, [])
        return points[0].module if len(points) == 1 else None

    def listings(self) -> list[Listing]:
        """One line about each name; imports nothing."""
        files, plugins = self._files(), self._plugins()
        found = []
        for name in sorted({*files, *self._loaded, *plugins}):
            if name in files:
                summary = self._summaries.get(name) or _first_line(files[name].read_text(encoding="utf-8"))
                found.append(Listing(name, summary, "built-in"))
                losers = sorted(_origin(point) for point in plugins.get(name, []))
                found += [Listing(name, f"refused: the name is that of a built-in {self.kind}", by) for by in losers]
            elif name in plugins:
                origins = sorted(_origin(point) for point in plugins[name])
                refused = f"refused: claimed by {' and '.join(origins)}; uninstall one"
                summary = f"plugin of {origins[0]}" if len(origins) == 1 else refused
                found.append(Listing(name, summary, ", ".join(origins)))
            else:
                thing = self._loaded[name]
                found.append(Listing(name, (getattr(thing, "__doc__", None) or "").partition("\n")[0], "here"))
        return found

    def _module(self, name: str) -> str:
        return f"{self.package}.{self._families.get(name, name.replace('-', '_'))}"

    def _files(self) -> dict[str, Path]:
        folder = Path(__file__).parents[1].joinpath(*self.package.split(".")[1:])
        own = {
            path.stem.replace("_", "-"): path
            for path in folder.glob("*.py")
            if path.stem not in self._leaves_out and not path.stem.startswith("_")
        }
        return {**own, **{name: folder / f"{file}.py" for name, file in self._families.items()}}

    def _plugins(self) -> dict[str, list[metadata.EntryPoint]]:
        found: dict[str, list[metadata.EntryPoint]] = {}
        for point in metadata.entry_points(group=self.package):
            claims = found.setdefault(point.name, [])
            if all((known.value, _origin(known)) != (point.value, _origin(point)) for known in claims):
                claims.append(point)
        return found

    def _load_plugin(self, name: str) -> None:
        points = self._plugins()[name]
        if len(points) > 1:
            claims = " and ".join(f"{_origin(point)} ({point.value})" for point in points)
            raise RegistryError(f"Two plugins claim the {self.kind} name '{name}': {claims}; uninstall one.")
        try:
            thing: Any = points[0].load()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise RegistryError(
                f"The {self.kind} '{name}' of the plugin {_origin(points[0])} does not import ({reason})."
            ) from error
        if self._loaded.get(name) is not thing:
            self.register(name)(thing)


def _origin(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _module(thing: Any) -> str:
    return str(getattr(thing, "__module__", ""))


def _place(thing: Any) -> str:
    return f"{_module(thing)}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


@cache
def _first_line(source: str) -> str:
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
