"""What there is: algorithms, world models, environments, data. Nothing listed is imported, nor is torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from offline_marl import algorithms, environments, worldmodels
from offline_marl.core.registry import Listing, Registry, RegistryError
from offline_marl.datasets.catalog import CATALOG, path_of
from offline_marl.training.loggers import loggers


def algorithm_rows() -> list[tuple[str, ...]]:
    """Name, origin and first docstring line of each algorithm."""
    return _rows(algorithms.registry)


def plugin_rows() -> list[tuple[str, ...]]:
    """Name, package and fate of each algorithm that another package brings. Imports them, unlike all else here."""
    entries = [entry for entry in algorithms.listings() if entry.origin not in {"built-in", "here"}]
    return [(entry.name, entry.origin, _fate(entry)) for entry in entries]


def _fate(entry: Listing) -> str:
    try:
        algorithms.get(entry.name)
    except RegistryError as error:
        return str(error)
    return entry.summary if entry.summary.startswith("refused") else "works"


def model_rows() -> list[tuple[str, ...]]:
    """Name, origin and first docstring line of each kind of world model."""
    return _rows(worldmodels.registry)


def logger_rows() -> list[tuple[str, ...]]:
    """Name, origin and package of each logger that plugins bring."""
    return _rows(loggers)


def environment_rows() -> list[tuple[str, ...]]:
    """Name, origin and first docstring line of each environment."""
    return _rows(environments.registry)


def dataset_rows() -> list[tuple[str, ...]]:
    """Name, size, whether it is here already, and summary of each data set of the catalogue."""
    return [
        (
            entry.name,
            entry.size,
            "on disk" if path_of(entry.name).exists() else f"{'made' if entry.recipe else 'fetched'} on first use",
            entry.summary,
        )
        for entry in CATALOG.values()
    ]


def partition_lines() -> list[str]:
    """How to name a task on the catalogue's data sets: the confs and views of each body, and what has none."""
    from offline_marl.core.partition import SCENARIOS, confs, views

    scenarios = dict.fromkeys(entry.scenario for entry in CATALOG.values())
    lines = []
    for scenario in scenarios:
        if scenario not in SCENARIOS:
            lines.append(f"{scenario}: NAME alone, it is made for a team")
            continue
        shown = views(scenario, confs(scenario)[0])
        lines.append(f"{scenario}: CONF is {' | '.join(confs(scenario))}; VIEW is {' | '.join(shown)}")
    return lines


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows in columns, indented; the last column is as wide as it likes."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1:] = [0]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _rows(registry: Registry[Any]) -> list[tuple[str, ...]]:
    return [(entry.name, entry.origin, entry.summary) for entry in registry.listings()]


def print_lines(lines: Iterable[str]) -> None:
    """Print each."""
    for line in lines:
        print(line)
