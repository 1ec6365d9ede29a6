"""Commands of the command line, their selection by words, and the page that lists them. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata

from offline_marl.core.config import ConfigError, suggest

PROGRAM = "offline-marl"
PLUGIN_HELP = (
    "On every command, --plugin FILE.py imports a file of yours, whose decorators register algorithms and more, and "
    "--smax-python PATH names the Python that SMAX runs in."
)


@dataclass(frozen=True)
class Command:
    """Command with its usage, summary and the function that takes the words behind it."""

    usage: str
    summary: str
    run: Callable[[Sequence[str]], None]


def run_lazily(module: str) -> Callable[[Sequence[str]], None]:
    """Make a function that imports a command's file (`train`, `data.info`) only when it runs."""

    def run(args: Sequence[str]) -> None:
        import_module(f"offline_marl.launch.cli.{module}").run(args)

    return run


def choose(group: str, commands: Mapping[str, Command], args: Sequence[str]) -> None:
    """Run the command that the first word names; without one, list them.

    Raises:
        ConfigError: There is no such command.
    """
    if not args or args[0] in {"-h", "--help"}:
        _overview(group, commands)
    elif args[0] == "--version" and not group:
        print(f"{PROGRAM} {_version()}")
    elif args[0] in commands:
        commands[args[0]].run(args[1:])
    else:
        kind = "flag" if args[0].startswith("-") else "command"
        raise ConfigError(f"Unknown {kind} '{group}{args[0]}': {suggest(args[0], [*commands, '--help'])}.")


def read_words(command: str, args: Sequence[str], usage: str, summary: str, most: int = 1) -> Sequence[str] | None:
    """Read the words behind a command that has no flags; None after `--help`.

    Raises:
        ConfigError: There is a flag, or one word too many.
    """
    if any(arg in {"-h", "--help"} for arg in args):
        print(f"usage: {PROGRAM} {command} {usage}".rstrip() + f"\n\n{summary}")
        return None
    for arg in args:
        if arg.startswith("-"):
            raise ConfigError(f"Unknown flag '{arg}' of {command}: it has none but --help.")
    if len(args) > most:
        raise ConfigError(f"'{args[most]}' is one word too many for {command}; see `{PROGRAM} {command} --help`.")
    return args


def _overview(group: str, commands: Mapping[str, Command]) -> None:
    from offline_marl.launch.cli.text import print_lines, table

    if not group:
        print(f"{PROGRAM} {_version()}: learn to act together from recorded data alone\n")
    print(f"usage: {PROGRAM} {group}COMMAND ...\n")
    rows = [(f"{group}{name} {command.usage}".rstrip(), command.summary) for name, command in commands.items()]
    print_lines(table(rows))
    if not group:
        print(f"\n{PLUGIN_HELP}")
    print(f"\n`{PROGRAM} {group}COMMAND --help` says more{'' if group else ', --version which version this is'}.")


def _version() -> str:
    try:
        return metadata.version("offline-marl")
    except metadata.PackageNotFoundError:
        return "0+unknown"
