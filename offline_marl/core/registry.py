"""Registries of what plugs in by name: algorithms, world models, environments, readers of data, loggers.

Three doors lead in: a file in the room's folder, whose calls of `register("name")` are read without running it, the
decorator, and an entry point of an installed package. Listing names imports nothing; a plugin loads only when asked
for.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

from offline_marl.core.config import suggest
from offline_marl.core.errors import BadInputError

T = TypeVar("T")


class RegistryError(BadInputError, LookupError):
    """A name that is unknown, taken twice, or whose plugin does not load."""


@dataclass(frozen=True)
class Listing:
    """Name, summary and origin of an entry, known without importing it."""

    name: str
    summary: str
    """First line of its module's docstring; for a plugin, the package it comes from."""
    origin: str
    """`built-in`, `here` (decorator) or the plugin's package."""


@dataclass(frozen=True)
class _Builtin:
    """A name that a file of the room registers."""

    module: str
    summary: str


class Registry(Generic[T]):
    """A table of plug-ins by name.

    Args:
        kind: What the things are, in the singular, as errors should say it.
        package: The room whose files register the built-in entries.
        group: The entry-point group that plugins join; by default called as the room.
    """

    def __init__(self, kind: str, package: str, group: str | None = None) -> None:
        self.kind = kind
        self.package = package
        self.group = group or package
        self._loaded: dict[str, T] = {}

    def register(self, name: str, summary: str | None = None) -> Callable[[T], T]:
        """Decorator that enters a thing under `name`.

        Args:
            name: The key. In a file of the room it is written out, so that listing it runs no code.
            summary: What lists say of it, where there is no class with a docstring; written out, too.

        Raises:
            RegistryError: The name is not kebab-case, or something else holds it already.
        """
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
            raise RegistryError(
                f"The {self.kind} name '{name}' should be kebab-case, such as 'my-{self.kind.replace(' ', '-')}'."
            )

        def enter(thing: T) -> T:
            entered = self._loaded.get(name)
            if entered is not None and _place(entered) != _place(thing):
                raise RegistryError(f"Two {self.kind}s are called '{name}': {_place(entered)} and {_place(thing)}.")
            builtin = self._builtins().get(name)
            if builtin is not None and _module(thing) != builtin.module:
                raise RegistryError(
                    f"The name '{name}' belongs to the built-in {self.kind} {builtin.module}; "
                    f"{_place(thing)} needs another one."
                )
            self._loaded[name] = thing
            return thing

        return enter

    def names(self) -> list[str]:
        """All names, sorted; imports nothing."""
        return sorted({*self._builtins(), *self._loaded, *self._plugins()})

    def knows(self, name: object) -> bool:
        """Whether a name is registered, or is `family/member` of an entry that is; imports nothing."""
        return isinstance(name, str) and (name in self.names() or ("/" in name and _family(name) in self.names()))

    def get(self, name: str) -> T:
        """The thing called `name`, imported now if it was not before.

        `family/member` asks the entry `family`, an underscore in it read as a hyphen, for its `member`.

        Raises:
            RegistryError: The name is unknown (the answer lists all), two plugins claim it, or the
                plugin does not import.
        """
        if "/" in name and _family(name) in self.names():
            family: Any = self.get(_family(name))
            if not hasattr(family, "member"):
                raise RegistryError(f"The {self.kind} '{_family(name)}' is one, not many: leave the rest away.")
            member: T = family.member(name.partition("/")[2])
            return member
        if name in self._loaded:
            return self._loaded[name]
        builtins = self._builtins()
        if name in builtins:
            importlib.import_module(builtins[name].module)
        elif name in self._plugins():
            self._load_plugin(name)
        else:
            raise RegistryError(f"Unknown {self.kind} '{name}': {suggest(name, self.names())}.")
        if name not in self._loaded:
            raise RegistryError(f"Importing the {self.kind} '{name}' did not register it.")
        return self._loaded[name]

    def module_of(self, name: str) -> str | None:
        """The module that a built-in or a plugin's name lives in; None if nobody, or more than one, claims it."""
        builtin = self._builtins().get(name)
        if builtin is not None:
            return builtin.module
        points = self._plugins().get(name, [])
        return points[0].module if len(points) == 1 else None

    def listings(self) -> list[Listing]:
        """One line about each name; imports nothing."""
        builtins, plugins = self._builtins(), self._plugins()
        lines = []
        for name in sorted({*builtins, *self._loaded, *plugins}):
            if name in builtins:
                lines.append(Listing(name, builtins[name].summary, "built-in"))
                losers = sorted(_origin(point) for point in plugins.get(name, []))
                lines += [Listing(name, f"refused: the name is that of a built-in {self.kind}", by) for by in losers]
            elif name in plugins:
                origins = sorted(_origin(point) for point in plugins[name])
                refused = f"refused: claimed by {' and '.join(origins)}; uninstall one"
                summary = f"plugin of {origins[0]}" if len(origins) == 1 else refused
                lines.append(Listing(name, summary, ", ".join(origins)))
            else:
                thing = self._loaded[name]
                lines.append(Listing(name, (getattr(thing, "__doc__", None) or "").partition("\n")[0], "here"))
        return lines

    def _builtins(self) -> dict[str, _Builtin]:
        folder = Path(__file__).parents[1].joinpath(*self.package.split(".")[1:])
        builtins: dict[str, _Builtin] = {}
        files = {f"{self.package}.{path.stem}": path for path in folder.glob("*.py")}
        files |= {f"{self.package}.{path.parent.name}": path for path in folder.glob("*/__init__.py")}
        for module, path in sorted(files.items()):
            for name, summary in _registered(path.read_text(encoding="utf-8"), folder.name).items():
                if name in builtins:
                    raise RegistryError(
                        f"Two files register the {self.kind} '{name}': {builtins[name].module}, {module}."
                    )
                builtins[name] = _Builtin(module, summary)
        return builtins

    def _plugins(self) -> dict[str, list[metadata.EntryPoint]]:
        plugins: dict[str, list[metadata.EntryPoint]] = {}
        for point in metadata.entry_points(group=self.group):
            claims = plugins.setdefault(point.name, [])
            if all((known.value, _origin(known)) != (point.value, _origin(point)) for known in claims):
                claims.append(point)
        return plugins

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


def _family(name: str) -> str:
    return name.partition("/")[0].replace("_", "-")


def _origin(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _module(thing: Any) -> str:
    return str(getattr(thing, "__module__", ""))


def _place(thing: Any) -> str:
    return f"{_module(thing)}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


@cache
def _registered(source: str, room: str) -> dict[str, str]:
    """Names that a file of a room registers, each with its summary.

    The summary is the call's second argument, else the first line of the module's docstring where the file registers
    one name, else that of the decorated class.
    """
    if ".register(" not in source:
        return {}
    tree = ast.parse(source)
    calls = [call for node in tree.body for call in _register_calls(node, room)]
    whole = _first_line(tree) if len(calls) == 1 else ""
    return {name: summary or whole or docstring for name, summary, docstring in calls}


def _register_calls(node: ast.stmt, room: str) -> Iterator[tuple[str, str, str]]:
    """Name, summary and docstring's first line of each `<room>.register("name")` at a module's top level."""
    docstring, places = "", []
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        docstring, places = _first_line(node), list(node.decorator_list)
    elif isinstance(node, ast.Expr):  # the inner call of `room.register("name")(thing)`
        places = [expression for expression in ast.walk(node) if isinstance(expression, ast.expr)]
    for call in places:
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "register"):
            continue
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        texts = [
            argument.value
            for argument in given
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        ]
        if isinstance(call.func.value, ast.Name) and call.func.value.id in (room, "registry") and texts:
            yield texts[0], texts[1] if len(texts) > 1 else "", docstring


def _first_line(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]
