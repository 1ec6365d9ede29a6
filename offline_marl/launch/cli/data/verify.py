"""Command `offline-marl data verify`: all problems of data sets, and whether their checksums hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, build
from offline_marl.core.errors import BAD_INPUT, BadInputError
from offline_marl.launch.cli.failures import Stopped
from offline_marl.launch.cli.flags import read

if TYPE_CHECKING:
    from offline_marl.datasets.examine import Report

ABOUT = (
    "Looks through whole sets and lists all that is wrong with them, also with files that training refuses; "
    "exit code 0 if nothing is, 2 if something is."
)


class VerifyFlags(Config):
    """Flags of `data verify`."""

    ids: CliPositionalArg[list[str]]
    """Files, folders, names of the catalogue, tasks on them, places on the hub."""
    as_json: Annotated[bool, Field(validation_alias="json")] = False
    """Print JSON for machines."""


def run(args: Sequence[str]) -> None:
    """Report on each set.

    Raises:
        ConfigError: A flag is unknown, or no set is named.
        Stopped: Something is wrong with one of them.
    """
    flags: VerifyFlags = build(VerifyFlags, read(VerifyFlags, "data verify", "ID ... [--json]", ABOUT, args))

    from offline_marl.core.progress import progress_bar

    reports = {}
    with progress_bar(len(flags.ids), "verifying", "set", leave=False) as bar:
        for name in flags.ids:
            reports[name] = report(name)
            bar.update()
    if flags.as_json:
        print(json.dumps({name: _plain(result) for name, result in reports.items()}, indent=2))
    else:
        print("\n".join(line for name, result in reports.items() for line in lines(name, result)))
    bad = sum(bool(result.problems) for result in reports.values())
    if bad:
        raise Stopped(BAD_INPUT, f"error: something is wrong with {bad} of {len(reports)}; all of it is listed above.")


def report(name: str) -> Report:
    """Examine a file, a folder, a place on the hub, a set of the catalogue or a task."""
    from offline_marl.datasets.catalog import CATALOG, path_of
    from offline_marl.datasets.examine import Report, examine, examine_data
    from offline_marl.datasets.places import place_of
    from offline_marl.datasets.readers.catalogue_sets import local
    from offline_marl.datasets.validate import Problem
    from offline_marl.tasks.data_tasks import load_recording, open_task

    place = place_of(name)
    try:
        if place is None and name in CATALOG:
            if not path_of(name).exists():
                load_recording(name)
            return examine(path_of(name))
        if place is not None and place[1] is None:
            return examine(local(place[0]))
        return examine_data(open_task(name).data, "as a task")
    except BadInputError as error:
        return Report([Problem("file", "", 0, str(error))])


def lines(name: str, result: Report) -> list[str]:
    """Format a report for people."""
    shown = [f"{name}: {'ok' if not result.problems else _counted(len(result.problems))}"]
    if result.layout is not None:
        shown.append(f"  {'layout':<10}{result.layout}")
    if result.episodes is not None:
        shown.append(f"  {'holds':<10}{result.episodes:,} episodes, {result.transitions:,} transitions")
    if result.stored is not None and result.stored == result.computed:
        shown.append(f"  {'sha256':<10}{result.stored}, stored and computed alike")
    elif result.stored is not None:
        shown.append(f"  {'stored':<10}{result.stored}")
        shown.append(f"  {'computed':<10}{result.computed or 'unknown: not all of it can be read'}")
    return shown + [f"  - {problem.sentence}" for problem in result.problems]


def _counted(problems: int) -> str:
    return f"{problems} problem{'s' if problems > 1 else ''}"


def _plain(result: Report) -> dict[str, Any]:
    return {"ok": not result.problems, **asdict(result)}
