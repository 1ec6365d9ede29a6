"""Flags from a config's fields: pydantic-settings builds and reads them, its parser is made to answer in one sentence.

Only what was given is returned: files merge beneath it, and whoever owns the config fills in the defaults.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

from pydantic import Field, create_model
from pydantic.fields import FieldInfo
from pydantic_settings import CliPositionalArg, CliSettingsSource, SettingsError

from offline_marl.core.config import Config, ConfigError, load_settings, suggest
from offline_marl.launch.presets import preset_names, read_preset
from offline_marl.training.config import FitFlags, RunFlags

PROGRAM = "offline-marl"
METAVARS = {"dataset": "ID", "environment": "NAME", "preset": "NAME", "config": "FILE", "out": "DIR"} | dict.fromkeys(
    ("fit", "settings", "env_settings"), "JSON"
)
METAVARS |= {"reference": "RANDOM,EXPERT"}
ORIGINS = {"dataset", "environment"}
"""Of which a run has one."""
TYPE_NAMES = {"str": "TEXT", "Path": "PATH"}


class TrainFlags(RunFlags):
    """Flags of `train` that are no algorithm's."""

    preset: str | None = None
    """Settings of a name; file and flags win over them."""
    config: Path | None = None
    """TOML, YAML or JSON file of any fields on this page, named as here; flags win over it."""
    out: Path | None = None
    """Run folder; without it runs/<algorithm>_<dataset>_seed<seed>."""


class FitModelFlags(FitFlags):
    """Flags of `fit-model` that are no model's."""

    config: Path | None = None
    """TOML, YAML or JSON file of any fields on this page, named as here; flags win over it."""
    out: Path | None = None
    """Folder of the model; without it models/<kind>_<dataset>_seed<seed>."""


class ResumeFlags(Config):
    """Flags of `resume`."""

    run: CliPositionalArg[Path]
    """Run folder."""


class EvaluateFlags(Config):
    """Flags of `evaluate`."""

    run: CliPositionalArg[Path]
    """Run folder; its newest checkpoint is scored, on the CPU."""
    episodes: Annotated[int, Field(ge=1)] = 100
    """Episodes to play."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides their starts; runs scored with the same one are scored on the same starts."""


def read_training(
    algorithm: str, kind: type[Config], about: str, args: Sequence[str], online: bool = False
) -> tuple[dict[str, Any], Path | None]:
    """What flags, file and preset say of a run to train: flags over file over preset.

    Args:
        algorithm: Registry name.
        kind: The algorithm's config.
        about: What `--help` says of the algorithm.
        args: The command line behind the algorithm's name.
        online: Whether it can learn without data.

    Returns:
        Fields of the run and of the algorithm, `dataset` or `environment` among them, and the run folder if named.

    Raises:
        ConfigError: A flag, a preset or a field of the file is unknown or unreadable, or there is no task.
    """
    presets = ", ".join(preset_names(algorithm)) or "none"
    # Never instantiated: it tells pydantic-settings which flags there are. The algorithm's win, as in `prepare`.
    preset_flag: tuple[Any, Any] = (
        str | None,
        Field(None, description=f"Settings of a name, under those of file and flags: {presets}."),
    )
    everything = create_model("Training", __base__=(kind, TrainFlags), preset=preset_flag)
    groups = {**dict.fromkeys(TrainFlags.model_fields, "the run"), **dict.fromkeys(kind.model_fields, algorithm)}
    command = f"train {algorithm}"
    task = "--dataset ID | --environment NAME" if online else "--dataset ID"
    given = read(everything, command, f"{task} [--FIELD VALUE ...]", about, args, groups)
    known = set(everything.model_fields) - {"config", "preset"}
    preset = given.pop("preset", None)
    given = _with_file(given, known)
    if preset is not None:
        beneath = _known(read_preset(algorithm, preset), known, f"the preset '{preset}'")
        if ORIGINS & set(given):
            beneath = {name: value for name, value in beneath.items() if name not in ORIGINS}
        given = {**beneath, **given}
    if online and not ORIGINS & set(given):
        raise ConfigError(f"{command} needs --environment NAME (`{PROGRAM} list environments`) or --dataset ID.")
    return _with_folder(given, command)


def read_fit(model: str, kind: type[Config], about: str, args: Sequence[str]) -> tuple[dict[str, Any], Path | None]:
    """What flags and file say of a world model to fit: flags over file; see `read_training`."""
    everything = create_model("Fitting", __base__=(kind, FitModelFlags))
    groups = {**dict.fromkeys(FitModelFlags.model_fields, "the fit"), **dict.fromkeys(kind.model_fields, model)}
    command = f"fit-model {model}"
    given = read(everything, command, "--dataset ID [--FIELD VALUE ...]", about, args, groups)
    return _with_folder(_with_file(given, set(everything.model_fields) - {"config"}), command)


def _with_file(given: dict[str, Any], known: set[str]) -> dict[str, Any]:
    file = given.pop("config", None)
    return given if file is None else {**_known(load_settings(Path(file)), known, str(file)), **given}


def _with_folder(given: dict[str, Any], command: str) -> tuple[dict[str, Any], Path | None]:
    if not ORIGINS & set(given):
        raise ConfigError(f"{command} needs --dataset ID: `{PROGRAM} data list` shows what there is.")
    out = given.pop("out", None)
    if out is not None and not isinstance(out, str):
        raise ConfigError(f"Field 'out' cannot be {out!r}: it should be the path of a folder.")
    return given, None if out is None else Path(out)


def read(
    kind: type[Config],
    command: str,
    usage: str,
    about: str,
    args: Sequence[str],
    groups: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The fields that a command line gives, their values not yet validated; `--help` prints and exits.

    Args:
        kind: Its fields are the flags.
        command: What comes before the flags, without the program's name.
        usage: What comes behind it, in short.
        about: Text above the flags.
        args: The command line behind the command.
        groups: Heading in `--help` of each field; those without one stand first.

    Raises:
        ConfigError: A flag is unknown, lacks its value, or the value cannot be read.
    """
    parser = _Parser(command, usage, about)
    adder = _Adder(parser, kind.model_fields, groups or {})
    try:
        source: Any = CliSettingsSource(
            cast(Any, kind),
            root_parser=parser,
            cli_kebab_case=True,
            cli_hide_none_type=True,
            parse_args_method=_Parser.parse,
            add_argument_method=adder.add,
        )
        given: dict[str, Any] = source(args=[_kebab(arg) for arg in args])()
    except SettingsError as error:
        raise ConfigError(f"A flag of {command} cannot be read: {' '.join(str(error).split())}.") from None
    return given


class _Parser(argparse.ArgumentParser):
    """Raises what argparse would print as usage and error."""

    def __init__(self, command: str, usage: str, about: str) -> None:
        prog = f"{PROGRAM} {command}"
        super().__init__(
            prog, usage=f"{prog} {usage}", description=about, formatter_class=_Formatter, allow_abbrev=False
        )
        self.command = command

    def parse(self, args: Sequence[str]) -> argparse.Namespace:
        found, extra = self.parse_known_args(args)
        flags = [arg.partition("=")[0] for arg in extra if arg.startswith("-")]
        if flags:
            raise ConfigError(f"Unknown flag '{flags[0]}' of {self.command}: {self._closest(flags[0])}.")
        if extra:
            raise ConfigError(f"'{extra[0]}' is one word too many for {self.command}; see {self._help()}.")
        return found

    def error(self, message: str) -> NoReturn:
        """One sentence instead of a page of usage."""
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
    """`--flag`, `--no-flag` and `--flag true|false`."""

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


class _Adder:
    """Adds arguments as pydantic-settings does, under headings and with defaults as they are typed."""

    def __init__(self, parser: argparse.ArgumentParser, fields: Mapping[str, FieldInfo], groups: Mapping[str, str]):
        self._parser = parser
        self._fields = {str(info.validation_alias or name): info for name, info in fields.items()}
        self._groups = groups
        self._made: dict[str, Any] = {}

    def add(self, context: Any, *names: str, **settings: Any) -> None:
        dest = settings.get("dest", names[0])
        info = self._fields.get(dest)
        if info is not None:
            settings["help"] = _help(info, required_flag="dest" in settings and info.is_required())
            if "dest" in settings:
                settings["metavar"] = METAVARS.get(dest) or _metavar(settings["metavar"])
            context = self._group(dest) if context is self._parser else context
            if info.annotation is bool:
                settings |= {"action": _Switch, "metavar": "true|false"}
        context.add_argument(*names, **settings)

    def _group(self, dest: str) -> Any:
        title = self._groups.get(dest)
        if title is None:
            return self._parser
        if title not in self._made:
            self._made[title] = self._parser.add_argument_group(title)
        return self._made[title]


def _known(settings: Mapping[str, Any], known: set[str], place: str) -> dict[str, Any]:
    fields = {str(name).replace("-", "_"): value for name, value in settings.items()}
    for name in fields:
        if name not in known:
            raise ConfigError(f"Unknown field '{name}' in {place}: {suggest(name, known)}.")
    return fields


def _kebab(arg: str) -> str:
    name, equals, value = arg.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if arg.startswith("--") else arg


def _help(info: FieldInfo, required_flag: bool) -> str:
    default = None if info.is_required() else info.get_default(call_default_factory=True, validated_data={})
    note = " [required]" if required_flag else "" if default is None else f" [default: {show(default)}]"
    return f"{info.description or ''}{note}".replace("%", "%%")


def show(value: Any) -> str:
    """A value as it is typed behind its flag."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(show(item) for item in value) or "[]"
    return str(value)


def _metavar(shown: str) -> str:
    if shown.startswith("{"):
        return shown[1:-1].replace(",", "|")
    several = re.fullmatch(r"(?:tuple|list|Sequence)\[(\w+)(?:,\.\.\.)?\]", shown)
    if several:
        return f"{_metavar(several[1])},..."
    return TYPE_NAMES.get(shown, shown.upper())
