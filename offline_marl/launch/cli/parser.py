"""Argument parser beneath the flags: argparse with errors of one sentence, and defaults shown as they are typed."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo

from offline_marl.core.config import ConfigError
from offline_marl.launch.cli.command import PLUGIN_HELP

METAVARS = {"dataset": "ID", "environment": "NAME", "preset": "NAME", "config": "FILE", "out": "DIR"} | dict.fromkeys(
    ("fit", "settings", "env_settings"), "JSON"
)
METAVARS |= {"reference": "RANDOM,EXPERT"}
NEGATIVE = re.compile(r"-(?:\d|\.\d|inf\b|nan\b)[-+.,\w]*")
TYPE_NAMES = {"str": "TEXT", "Path": "PATH"}


class Parser(argparse.ArgumentParser):
    """Parser that raises ConfigError where argparse would print usage and exit.

    Args:
        prog: What comes before the flags.
        command: The same without the program's name, as errors say it.
        usage: What comes behind it, in short.
        about: Text above the flags.
    """

    def __init__(self, prog: str, command: str, usage: str, summary: str) -> None:
        super().__init__(
            prog,
            usage=f"{prog} {usage}",
            description=summary,
            epilog=PLUGIN_HELP,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        self.command = command
        # argparse knows single negative numbers alone, and takes -30,-5 or -1e-3 for flags.
        self._negative_number_matcher = NEGATIVE

    def parse(self, args: Sequence[str]) -> argparse.Namespace:
        """Parse words into flags.

        Raises:
            ConfigError: A flag is unknown, or there is a word too many.
        """
        namespace, extra = self.parse_known_args(args)
        flags = [arg.partition("=")[0] for arg in extra if arg.startswith("-")]
        if flags:
            raise ConfigError(f"Unknown flag '{flags[0]}' of {self.command}: {self._closest(flags[0])}.")
        if extra:
            raise ConfigError(f"'{extra[0]}' is one word too many for {self.command}; see {self._help()}.")
        return namespace

    def error(self, message: str) -> NoReturn:
        """Raise one sentence instead of printing a page of usage."""
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            raise ConfigError(f"{self.command} needs {missing}; see {self._help()}.")
        flag = re.fullmatch(r"argument ([^:]+): (.*)", message)
        if flag:
            raise ConfigError(f"Flag {flag[1].split(',')[0]} of {self.command}: {flag[2]}.")
        raise ConfigError(f"{self.command}: {message}.")

    def _closest(self, flag: str) -> str:
        known = [name for name in self._option_string_actions if name.startswith("--")]
        close = difflib.get_close_matches(flag, known, n=1)
        return f"did you mean '{close[0]}'? ({self._help()} shows all)" if close else f"{self._help()} shows all"

    def _help(self) -> str:
        return f"`{self.prog} --help`"


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{"max_help_position": 34, **settings})

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return (
            ", ".join(action.option_strings)
            if isinstance(action, _Switch)
            else super()._format_action_invocation(action)
        )


class _Switch(argparse.Action):
    """Boolean flag: `--flag`, `--no-flag` and `--flag true|false`."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        negative = [f"--no-{name.removeprefix('--')}" for name in option_strings]
        super().__init__([*option_strings, *negative], dest, nargs="?", **settings)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        if option_string == self.option_strings[0]:
            setattr(namespace, self.dest, "true" if values is None else values)
        elif values is not None:
            parser.error(f"argument {option_string}: takes no value, but was given '{values}'")
        else:
            setattr(namespace, self.dest, "false")

    def format_usage(self) -> str:
        return self.option_strings[0]


class Adder:
    """Hook of pydantic-settings that adds arguments under headings, with defaults as they are typed.

    Args:
        parser: Takes the arguments.
        fields: By their names.
        groups: Heading of each field; those without one stand first.
    """

    def __init__(self, parser: argparse.ArgumentParser, fields: Mapping[str, FieldInfo], groups: Mapping[str, str]):
        self._parser = parser
        self._fields = {str(info.validation_alias or name): info for name, info in fields.items()}
        self._groups = groups
        self._made: dict[str, Any] = {}

    def add(self, context: Any, *names: str, **settings: Any) -> None:
        """Add an argument under its heading."""
        dest = settings.get("dest", names[0])
        info = self._fields.get(dest)
        if info is not None:
            settings["help"] = _help(info, required_flag="dest" in settings and info.is_required())
            if "dest" in settings:
                settings["metavar"] = METAVARS.get(dest) or _metavar(settings["metavar"])
            context = self._group(dest) if context is self._parser else context
            if info.annotation is bool:
                settings |= {"action": _Switch, "metavar": "true|false"}
            elif "dest" in settings and _is_tuple(info.annotation):
                settings["action"] = "append"  # pydantic-settings does so from 2.16 on
        context.add_argument(*names, **settings)

    def _group(self, dest: str) -> Any:
        title = self._groups.get(dest)
        if title is None:
            return self._parser
        if title not in self._made:
            self._made[title] = self._parser.add_argument_group(title)
        return self._made[title]


def _is_tuple(annotation: Any) -> bool:
    return any(get_origin(kind) is tuple for kind in (annotation, *get_args(annotation)))


def _help(info: FieldInfo, required_flag: bool) -> str:
    default = None if info.is_required() else info.get_default(call_default_factory=True, validated_data={})
    note = " [required]" if required_flag else "" if default is None else f" [default: {format_value(default)}]"
    return f"{info.description or ''}{note}".replace("%", "%%")


def format_value(value: Any) -> str:
    """Format a value as it is typed behind its flag."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(format_value(item) for item in value) or "[]"
    return str(value)


def _metavar(shown: str) -> str:
    if shown.startswith("{"):
        return shown[1:-1].replace(",", "|")
    several = re.fullmatch(r"(?:tuple|list|Sequence)\[(\w+)(?:,\.\.\.)?\]", shown)
    if several:
        return f"{_metavar(several[1])},..."
    return TYPE_NAMES.get(shown, shown.upper())
