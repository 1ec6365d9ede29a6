"""Command `offline-marl list`: registries and the catalogue. Neither entries nor torch are imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from offline_marl import algorithms, environments, preferences, worldmodels
from offline_marl.algorithms.presets import preset_rows
from offline_marl.core.config import ConfigError, suggest
from offline_marl.core.progress import progress_bar
from offline_marl.core.registry import Listing, Registry, RegistryError
from offline_marl.datasets import readers
from offline_marl.datasets.catalog import CATALOG, path_of
from offline_marl.launch.cli.command import read_words
from offline_marl.launch.cli.text import print_lines, table
from offline_marl.runs.kinds import BUILT_IN, kinds
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
    named_only |= {"rewardmodels": reward_rows, "dm-control": dm_control_rows}
    summary = (
        "What there is: names, where they come from, what they are. Presets, plugins, loggers, readers and\n"
        "reward models only when named; `plugins` imports what other packages bring and says which of it works,\n"
        "`dm-control` tries every task of DeepMind Control and says which work, and why others do not."
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
        if name == "environments" and wanted:
            print_lines(f"  {line}" for line in share_lines())


def algorithm_rows() -> list[tuple[str, ...]]:
    """List name, origin and first docstring line of each algorithm."""
    return _rows(algorithms.registry)


def plugin_rows() -> list[tuple[str, ...]]:
    """List name, package and load status of everything that plugins bring. Imports it, unlike all else here."""
    groups = (
        algorithms.registry,
        environments.registry,
        worldmodels.registry,
        preferences.registry,
        readers.registry,
        loggers,
        kinds,
    )
    built_in = {kind.command for kind in BUILT_IN}
    return [
        (entry.name, entry.origin if entry.origin != "here" else "--plugin", _load_status(registry, entry))
        for registry in groups
        for entry in registry.listings()
        if entry.origin != "built-in" and not (registry is kinds and entry.name in built_in)
    ]


def _load_status(registry: Registry[Any], entry: Listing) -> str:
    try:
        registry.get(entry.name)
    except RegistryError as error:
        return str(error)
    if entry.summary.startswith("refused"):
        return entry.summary
    # Most are algorithms; of the others a name alone does not say what they are.
    return "works" if registry is algorithms.registry else f"{registry.kind}: works"


def model_rows() -> list[tuple[str, ...]]:
    """List name, origin and first docstring line of each kind of world model."""
    return _rows(worldmodels.registry)


def reward_rows() -> list[tuple[str, ...]]:
    """List name, origin and first docstring line of each kind of reward model."""
    return _rows(preferences.registry)


def logger_rows() -> list[tuple[str, ...]]:
    """List name, origin and package of each plugin's logger."""
    return _rows(loggers)


def reader_rows() -> list[tuple[str, ...]]:
    """Name, origin and first docstring line of each reader of a published format."""
    return _rows(readers.registry)


def environment_rows() -> list[tuple[str, ...]]:
    """List name, origin and first docstring line of each environment."""
    return _rows(environments.registry)


def dm_control_rows() -> list[tuple[str, ...]]:
    """Try every task of DeepMind Control; list its name, whether it works, and what it is or why it does not."""
    from offline_marl.environments.dmcontrol import PREFIX, task_names, try_all

    names, rows = task_names(), list[tuple[str, ...]]()
    with progress_bar(len(names), "dm_control", "task", leave=False) as bar:
        for name, works, words in try_all(names):
            rows.append((f"{PREFIX}{name}", "works" if works else "fails", words))
            bar.update()
    count = sum(row[1] == "works" for row in rows)
    return [*rows, (f"{count} of {len(rows)} work", "", "")]


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
    from offline_marl.core.partition import SCENARIOS, confs, explain_conf, explain_view, views

    scenarios = dict.fromkeys(entry.scenario for entry in CATALOG.values())
    lines, shown_confs, shown_views = list[str](), dict[str, str](), dict[str, str]()
    for scenario in scenarios:
        if scenario not in SCENARIOS:
            lines.append(f"{scenario}: NAME alone, it is made for a team")
            continue
        shown = views(scenario, confs(scenario)[0])
        lines.append(f"{scenario}: CONF is {' | '.join(confs(scenario))}; VIEW is {' | '.join(shown)}")
        shown_confs |= {conf: explain_conf(conf) for conf in confs(scenario)}
        shown_views |= {view: explain_view(view) for view in shown}
    lines += [f"CONF {conf}: {words}" for conf, words in shown_confs.items()]
    return [*lines, *(f"VIEW {view}, each agent sees {words}" for view, words in shown_views.items())]


def share_lines() -> list[str]:
    """List what the confs and views of all bodies mean."""
    from offline_marl.core.partition import SCENARIOS, confs, explain_conf, explain_view, views

    lines = ["a body is named with who moves and who sees what, BODY_CONF_VIEW, or by --conf and --view:"]
    for body in SCENARIOS:
        lines.append(f"{body}: " + "; ".join(f"{conf} ({explain_conf(conf)})" for conf in confs(body)))
    seen = dict.fromkeys(view for body in SCENARIOS for view in views(body, confs(body)[0]))
    return [*lines, "each agent sees: " + "; ".join(f"{view} ({explain_view(view)})" for view in seen)]


def _rows(registry: Registry[Any]) -> list[tuple[str, ...]]:
    return [(entry.name, entry.origin, entry.summary) for entry in registry.listings()]
