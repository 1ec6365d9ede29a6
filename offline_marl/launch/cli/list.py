"""Command `offline-marl list`: registries and the catalogue. Neither entries nor torch are imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from offline_marl import algorithms, environments, worldmodels
from offline_marl.algorithms.presets import preset_rows
from offline_marl.core.config import ConfigError, suggest
from offline_marl.core.registry import Listing, Registry, RegistryError
from offline_marl.datasets import readers
from offline_marl.datasets.catalog import CATALOG, path_of
from offline_marl.launch.cli.command import read_words
from offline_marl.launch.cli.text import print_lines, table
from offline_marl.runs.loggers import loggers


def run(args: Sequence[str]) -> None:
    """Print the named list, or all short ones.

    Raises:
        ConfigError: There is no such list.
    """
    short_lists = {
        "algorithms": algorithm_rows,
        "worldmodels": model_rows,
        "environments": environment_rows,
        "datasets": dataset_rows,
    }
    # Long, or slow because its entries are imported: shown only when named.
    named_only = {"presets": preset_rows, "plugins": plugin_rows, "loggers": logger_rows, "readers": reader_rows}
    summary = (
        "What there is: names, where they come from, what they are. Presets, plugins, loggers and readers\n"
        "only when named; `plugins` imports what other packages bring and says which of it works."
    )
    wanted = read_words("list", args, f"[{'|'.join([*short_lists, *named_only])}]", summary)
    if wanted is None:
        return
    every = {**short_lists, **named_only}
    if wanted and wanted[0] not in every:
        raise ConfigError(f"Unknown list '{wanted[0]}': {suggest(wanted[0], every)}.")
    for name in wanted or short_lists:
        print(name)
        print_lines(table(every[name]()) or ["  none"])


def algorithm_rows() -> list[tuple[str, ...]]:
    """List name, origin and first docstring line of each algorithm."""
    return _rows(algorithms.registry)


def plugin_rows() -> list[tuple[str, ...]]:
    """List name, package and load status of everything that plugins bring. Imports it, unlike all else here."""
    return [
        (entry.name, entry.origin, _load_status(registry, entry))
        for registry in (algorithms.registry, environments.registry, worldmodels.registry, readers.registry)
        for entry in registry.listings()
        if entry.origin not in {"built-in", "here"}
    ]


def _load_status(registry: Registry[Any], entry: Listing) -> str:
    try:
        registry.get(entry.name)
    except RegistryError as error:
        return str(error)
    return entry.summary if entry.summary.startswith("refused") else "works"


def model_rows() -> list[tuple[str, ...]]:
    """List name, origin and first docstring line of each kind of world model."""
    return _rows(worldmodels.registry)


def logger_rows() -> list[tuple[str, ...]]:
    """List name, origin and package of each plugin's logger."""
    return _rows(loggers)


def reader_rows() -> list[tuple[str, ...]]:
    """Name, origin and first docstring line of each reader of a published format."""
    return _rows(readers.registry)


def environment_rows() -> list[tuple[str, ...]]:
    """List name, origin and first docstring line of each environment."""
    return _rows(environments.registry)


def dataset_rows() -> list[tuple[str, ...]]:
    """List name, size, presence on disk, and summary of each data set of the catalogue."""
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
    """List how to name a task on the catalogue's data sets: confs and views of each body, and sets without any."""
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


def _rows(registry: Registry[Any]) -> list[tuple[str, ...]]:
    return [(entry.name, entry.origin, entry.summary) for entry in registry.listings()]
