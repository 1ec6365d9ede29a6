"""Commands of kinds of run: what `train`, `fit-model`, other packages' kinds, `resume` and `submit` have in common."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_marl.core import allocator
from offline_marl.core.config import ConfigError
from offline_marl.launch.cli.command import PROGRAM, Command
from offline_marl.launch.cli.failures import resumable
from offline_marl.launch.cli.text import print_lines, table
from offline_marl.runs.combinations import learns_alone
from offline_marl.runs.kinds import TRAIN, RunKind, added_commands, kinds

if TYPE_CHECKING:
    from offline_marl.training.kinds import Procedure

Printer = Callable[[Any], None]
"""Prints what a finished run came to."""


def with_added(
    commands: Mapping[str, Command],
    before: str,
    summary: str,
    run: Callable[[str, Sequence[str]], None] | None = None,
) -> dict[str, Command]:
    """Commands, those of other packages' kinds among them; their packages are not imported.

    Args:
        commands: Our own.
        before: The command that they come before.
        summary: What is said of each.
        run: What runs one, given its command and the words behind it; begins a run by default.
    """
    added = {
        name: Command("NAME --dataset ID ...", summary, partial(run or begin_added, name))
        for name in added_commands()
        if name not in commands
    }
    index = list(commands).index(before)
    entries = list(commands.items())
    return dict([*entries[:index], *added.items(), *entries[index:]])


def begin_added(command: str, args: Sequence[str]) -> None:
    """Begin a run of another package's kind."""
    kind = kinds.get(command)
    if args and args[0] not in {"-h", "--help"}:
        refuse_flag_first(kind, args[0], f": `{PROGRAM} {command}` shows them.")
        return begin(kind, args, None)

    from offline_marl.training.kinds import procedure_of

    print(f"usage: {PROGRAM} {command} {kind.argument} --dataset ID [--config FILE] [--FIELD VALUE ...]\n")
    entries = procedure_of(kind).names.listings()
    print_lines(table([(entry.name, entry.origin, entry.summary) for entry in entries]))
    print(f"\n`{PROGRAM} {command} {kind.argument} --help` shows all fields, with their defaults.")


def begin(kind: RunKind[Any], args: Sequence[str], printer: Printer | None) -> None:
    """Begin a run of what the first word names."""
    from offline_marl.launch.cli.unknown_names import refuse_unknown_names

    refuse_unknown_names(kind, args[0], args[1:])

    from offline_marl.training.kinds import procedure_of

    allocator.keep_memory()
    procedure = procedure_of(kind)
    fields, folder = read_run(procedure, args[0], args[1:])
    dataset = fields.pop("dataset", None)
    with resumable(folder):
        outcome = procedure.begin(args[0], dataset, folder, fields)
        (printer or partial(print_run, procedure, folder))(outcome)


def read_run(procedure: Procedure[Any, Any], name: str, args: Sequence[str]) -> tuple[dict[str, Any], Path]:
    """Read the fields of a run, `dataset` or `environment` among them, and its folder.

    Raises:
        BadInputError: Nothing has this name, or a flag is unknown or unreadable.
    """
    from offline_marl.launch.cli.flags import read_other, read_training

    kind, learnt = procedure.kind, procedure.names.get(name)
    summary = next(entry.summary for entry in procedure.names.listings() if entry.name == name)
    if kind is TRAIN:
        fields, out = read_training(name, learnt.Config, summary, args, learns_alone(learnt.needs))
        if "seeds" in fields:
            raise ConfigError("A job makes one run: give it a --seed, or write a sweep of several seeds.")
    else:
        fields, out = read_other(kind, name, learnt.Config, summary, args)
    rest = {field: value for field, value in fields.items() if field != "dataset"}
    return fields, out or procedure.default_folder(procedure.prepare(name, fields.get("dataset"), rest))


def print_run(procedure: Procedure[Any, Any], folder: Path, outcome: Any) -> None:
    """Print what a run of another package's kind came to, and where it lies."""
    print_lines(procedure.lines(outcome))
    print(f"{'run folder':<12}{folder}")
    print(f"{'see again':<12}{PROGRAM} resume {shlex.quote(str(folder))}")


def refuse_flag_first(kind: RunKind[Any], word: str, advice: str) -> None:
    """Refuse a flag where the name of what is learnt should stand.

    Raises:
        ConfigError: It is one.
    """
    if word.startswith("-"):
        raise ConfigError(f"{kind.command} needs the {kind.argument} first, before {word}{advice}")
