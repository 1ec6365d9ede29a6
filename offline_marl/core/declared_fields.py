"""Fields of config classes, read from their source: names and annotations are known without importing what computes."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path

PACKAGE = __name__.partition(".")[0]
"""Bases are looked for in this package alone."""
ROOT = (f"{PACKAGE}.core.config", "Config")
"""Module and name of the class in which every chain of bases ends."""


@dataclass(frozen=True)
class _Class:
    """A class and the module that it is written in."""

    module: str
    node: ast.ClassDef


def declared_fields(module: str, name: str) -> dict[str, str] | None:
    """The fields of a config class, those of its bases among them.

    Args:
        module: Where the class, or an import of it, stands.
        name: Of the class.

    Returns:
        The annotation of each field as it is written; None where the source alone does not tell, as with bases that
        are computed or lie in another package.
    """
    found = _find(module, name)
    return None if found is None else _fields(found)


def config_of(module: str, registered: str) -> tuple[str, str] | None:
    """Module and name of the Config of the class that a module registers under a name; None if the source is mute."""
    tree = _parse(module)
    for node in () if tree is None else tree.body:
        if isinstance(node, ast.ClassDef) and any(_names(decorator, registered) for decorator in node.decorator_list):
            return _config(_Class(module, node))
    return None


def _names(decorator: ast.expr, registered: str) -> bool:
    """Whether a decorator is a call of `register` with this name."""
    return (
        isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Attribute)
        and decorator.func.attr == "register"
        and any(isinstance(word, ast.Constant) and word.value == registered for word in decorator.args)
    )


def _config(owner: _Class) -> tuple[str, str] | None:
    for node in owner.node.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "Config" for target in targets):
            value = getattr(node, "value", None)
            return (owner.module, value.id) if isinstance(value, ast.Name) else None
    for base in owner.node.bases:
        found = _find(owner.module, base.id) if isinstance(base, ast.Name) else None
        config = None if found is None else _config(found)
        if config is not None:
            return config
    return None


def _fields(owner: _Class) -> dict[str, str] | None:
    fields: dict[str, str] = {}
    for base in reversed(owner.node.bases):  # as pydantic: of a name in two bases the first one's counts
        found = _find(owner.module, base.id) if isinstance(base, ast.Name) else None
        if found is None:
            return None
        inherited = {} if (found.module, found.node.name) == ROOT else _fields(found)
        if inherited is None:
            return None
        fields |= inherited
    for node in owner.node.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            annotation = ast.unparse(node.annotation)
            if not (node.target.id.startswith("_") or annotation.startswith("ClassVar")):
                fields[node.target.id] = annotation
        elif not isinstance(node, ast.Assign | ast.Expr | ast.FunctionDef | ast.Pass):
            return None
    return fields


def _find(module: str, name: str) -> _Class | None:
    """The class that a name stands for in a module, behind imports from one module of this package to the next."""
    tree = _parse(module)
    for node in () if tree is None else tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _Class(module, node)
        if isinstance(node, ast.ImportFrom) and not node.level and node.module is not None:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(node.module, alias.name)
    return None


@cache
def _parse(module: str) -> ast.Module | None:
    if module.partition(".")[0] != PACKAGE:
        return None
    spec = util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
