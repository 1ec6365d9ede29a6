"""Data from the fields that a file of our layout holds, each of the type that it should be; or what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from torch import Tensor

from offline_marl.core.small_files import shown
from offline_marl.core.types import DataError, Spec
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.layout import LAYOUT
from offline_marl.datasets.validate import Problem

KINDS = ("Recording", "Dataset")


class UnknownLayoutError(DataError):
    """A file of another layout than is read here."""


def assemble(tree: dict[str, Any]) -> tuple[str, Recording | Dataset | None, list[Problem]]:
    """Name of the layout, the data, and what stands in its way; the data are None where anything does.

    Raises:
        UnknownLayoutError: It is of another layout.
    """
    number, name = tree.get("layout"), tree.get("type")
    if number != LAYOUT:
        what = f" of a {name}" if name in KINDS else ""
        raise UnknownLayoutError(f"has layout {shown(number)}{what}; this version reads layout {LAYOUT}")
    if name not in KINDS:
        raise UnknownLayoutError(f"holds {shown(name)}; layout {LAYOUT} holds a Recording or a Dataset")
    kind: Any = Dataset if name == "Dataset" else Recording
    held = {field: value for field, value in tree.items() if field not in ("layout", "type")}
    layout, problems = f"ours, layout {number}, {name}", _mistakes(kind, held)
    if problems:
        return layout, None, problems
    if kind is Dataset:
        try:
            held["spec"] = Spec.from_plain(held["spec"])
        except DataError as error:
            return layout, None, [Problem("spec", "", 0, str(error))]
    return layout, kind(**held), []


def _mistakes(kind: Any, held: Mapping[str, Any]) -> list[Problem]:
    """Fields that are unknown, missing or of another type."""
    wanted = {item.name: item for item in fields(kind)}
    problems = [
        Problem("file", "", 0, f"There is an unknown field {shown(name)}.") for name in held if name not in wanted
    ]
    problems += [
        Problem(name, "", 0, f"The field '{name}' is missing.")
        for name, item in wanted.items()
        if held.get(name) is None and item.default is MISSING and item.default_factory is MISSING
    ]
    for name, value in held.items():
        needed: Any = Mapping if name in {"metadata", "spec"} else Tensor
        if name in wanted and (value is not None or name == "metadata") and not isinstance(value, needed):
            message = f"Field '{name}' is a {type(value).__name__}, it should be a {needed.__name__.lower()}."
            problems.append(Problem(name, "", 0, message))
    return problems
