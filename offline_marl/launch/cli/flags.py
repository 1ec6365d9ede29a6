"""Flags from a config's fields, built and read by pydantic-settings.

Only given fields are returned: files and presets merge beneath them, and the config's own class adds the defaults.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast, get_origin

from pydantic import ConfigDict, Field, create_model
from pydantic_settings import CliPositionalArg, CliSettingsSource, SettingsError

from offline_marl.algorithms.presets import preset_names, read_preset
from offline_marl.core.config import Config, ConfigError, load_settings, suggest
from offline_marl.core.names import named_places
from offline_marl.launch.cli.command import PROGRAM
from offline_marl.launch.cli.parser import Adder, Parser
from offline_marl.runs.combinations import layered
from offline_marl.runs.config import EnvironmentChoice, RunFlags
from offline_marl.runs.kinds import RunKind

TASK_FIELDS = {"dataset", "environment"}
"""Fields of the task, of which a run has one."""
FLAGS_ALONE = {"config", "preset", "seeds"}
"""Flags that no file holds."""


class ShareFlags(Config):
    """Flags that say who moves and who sees what, in place of the ends of a task's name."""

    conf: str | None = None
    """Who moves what of a body's data or environment, such as 2x1; as NAME_CONF_VIEW. `data list` explains them."""
    view: str | None = None
    """What agents see beside their own joints: 0 nothing, full everything; goes with --conf."""


class TrainFlags(ShareFlags, RunFlags):
    """Flags of `train`, beside the algorithm's."""

    preset: str | None = None
    """Settings of a name; file and flags win over them."""
    config: Path | None = None
    """TOML, YAML or JSON file of any fields on this page, named as here; flags win over it."""
    out: Path | None = None
    """Run folder; without it runs/<algorithm>_<dataset>_seed<seed>."""
    seeds: str | None = None
    """Several runs in one process, in place of --seed: 0..7 or 0,3,5; their folders are OUT/seed<seed>. The same again
    goes on with those that are unfinished."""


class FolderFlags(ShareFlags):
    """Flags of every command that begins a run."""

    config: Path | None = None
    """TOML, YAML or JSON file of any fields on this page, named as here; flags win over it."""
    out: Path | None = None
    """Run folder."""


class ResumeFlags(Config):
    """Flags of the command `resume`."""

    run: CliPositionalArg[Path]
    """Run folder."""
    environment: str | None = None
    """The import path that the folder's files ask for, package.module:function, if you trust that code."""
    env_settings: dict[str, Any] = Field(default_factory=dict)
    """The same for import paths among the environment's settings, such as {"prey": "package.module:function"}."""


class EvaluateFlags(EnvironmentChoice):
    """Flags of the command `evaluate`."""

    run: CliPositionalArg[Path]
    """Run folder; its newest checkpoint is scored, on the CPU."""
    episodes: Annotated[int, Field(ge=1)] = 100
    """Episodes to play."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides their starts; runs scored with the same one are scored on the same starts."""
    video: Path | None = None
    """File to show the first of these episodes in, .mp4 or .gif, and beside it a sheet of pictures, .png."""
    video_episodes: Annotated[int, Field(ge=1)] = 1
    """Episodes of the video, one after another."""
    show: bool = False
    """Open a window and show the episodes as they are played, until they are over or it is closed; then score."""
    infos: Path | None = None
    """File for what the environment tells of each step and agent, with summaries of episodes: .csv or .jsonl."""


class Composed(Config):
    """Mixin of configs created at run time, which keeps pydantic from searching their source for docstrings.

    The search goes through all modules and all callers, and takes longer than all else that flags need.
    """

    model_config = ConfigDict(use_attribute_docstrings=False)


def read_training(
    algorithm: str, kind: type[Config], summary: str, args: Sequence[str], online: bool = False
) -> tuple[dict[str, Any], Path | None]:
    """Merge the settings of a training run: flags over file over preset.

    Args:
        algorithm: Registry name.
        kind: The algorithm's config.
        summary: What `--help` says of the algorithm.
        args: The command line behind the algorithm's name.
        online: Whether it can learn without data.

    Returns:
        Fields of the run and of the algorithm, `dataset` or `environment` among them, and the run folder if named.

    Raises:
        ConfigError: A flag, a preset or a field of the file is unknown or unreadable, or there is no task.
    """
    presets = ", ".join(preset_names(algorithm)) or "none"
    # Never instantiated: its fields are the flags. The algorithm's win over the run's, as in `prepare`.
    preset_flag: tuple[Any, Any] = (
        str | None,
        Field(None, description=f"Settings of a name, under those of file and flags: {presets}."),
    )
    everything = create_model("Training", __base__=(kind, TrainFlags, Composed), preset=preset_flag)
    groups = {**dict.fromkeys(TrainFlags.model_fields, "the run"), **dict.fromkeys(kind.model_fields, algorithm)}
    command = f"train {algorithm}"
    task = "--dataset ID | --environment NAME" if online else "--dataset ID"
    given = read(everything, command, f"{task} [--FIELD VALUE ...]", summary, args, groups)
    known = set(everything.model_fields) - FLAGS_ALONE
    preset = given.pop("preset", None)
    given = _with_file(given, known)
    if preset is not None:
        beneath = known_fields(read_preset(algorithm, preset), known, f"the preset '{preset}'")
        # Another task takes the place of the preset's; beside data, an environment only says where it is scored.
        replaced = TASK_FIELDS if "dataset" in given or (online and "environment" in given) else set()
        beneath = {name: value for name, value in beneath.items() if name not in replaced}
        given = layered(beneath, given)
    if online and not TASK_FIELDS & set(given):
        raise ConfigError(f"{command} needs --environment NAME (`{PROGRAM} list environments`) or --dataset ID.")
    return _with_folder(given, command)


def read_other(
    kind: RunKind[Any], name: str, config_class: type[Config], summary: str, args: Sequence[str]
) -> tuple[dict[str, Any], Path | None]:
    """Merge the settings of a run of another kind than training: flags over file; see `read_training`."""
    out: tuple[Any, Any] = (Path | None, Field(None, description=kind.out))
    # Of the bases the last one's fields come first.
    everything = create_model("Flags", __base__=(config_class, FolderFlags, kind.flags, Composed), out=out)
    fields = (*kind.flags.model_fields, *FolderFlags.model_fields)
    groups = {**dict.fromkeys(fields, kind.heading), **dict.fromkeys(config_class.model_fields, name)}
    command = f"{kind.command} {name}"
    given = read(everything, command, "--dataset ID [--FIELD VALUE ...]", summary, args, groups)
    return _with_folder(_with_file(given, set(everything.model_fields) - FLAGS_ALONE), command)


def _with_file(given: dict[str, Any], known: set[str]) -> dict[str, Any]:
    file = given.pop("config", None)
    return given if file is None else layered(known_fields(load_settings(Path(file)), known, str(file)), given)


def _with_folder(given: dict[str, Any], command: str) -> tuple[dict[str, Any], Path | None]:
    if not TASK_FIELDS & set(given):
        raise ConfigError(f"{command} needs --dataset ID: `{PROGRAM} data list` shows what there is.")
    out = given.pop("out", None)
    if out is not None and not isinstance(out, str):
        raise ConfigError(f"Field 'out' cannot be {out!r}: it should be the path of a folder.")
    return given, None if out is None else Path(out)


def read(
    kind: type[Config],
    command: str,
    usage: str,
    summary: str,
    args: Sequence[str],
    groups: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Read the fields that a command line gives, not yet validated; `--help` prints and exits.

    Args:
        kind: Its fields are the flags.
        command: What comes before the flags, without the program's name.
        usage: What comes behind it, in short.
        summary: Text above the flags.
        args: The command line behind the command.
        groups: Heading in `--help` of each field; those without one stand first.

    Raises:
        ConfigError: A flag is unknown, lacks its value, or the value cannot be read.
    """
    _, source, words = parser_of(kind, command, usage, summary, args, groups)
    try:
        given: dict[str, Any] = source(args=words)()
    except SettingsError as error:
        raise ConfigError(f"A flag of {command} cannot be read: {' '.join(str(error).split())}.") from None
    return given


def parser_of(
    kind: type[Config],
    command: str,
    usage: str,
    summary: str,
    args: Sequence[str],
    groups: Mapping[str, str] | None = None,
) -> tuple[Parser, Any, list[str]]:
    """Make the parser of a config's flags, what reads their values, and the words that both understand; see `read`."""
    parser = Parser(f"{PROGRAM} {command}", command, usage, summary)
    adder = Adder(parser, kind.model_fields, groups or {})
    source: Any = CliSettingsSource(
        cast(Any, kind),
        root_parser=parser,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        parse_args_method=Parser.parse,
        add_argument_method=adder.add,
    )
    return parser, source, _whole_names(kind, _objects(kind, [_numbers(_kebab(arg)) for arg in args]))


def known_fields(settings: Mapping[str, Any], known: set[str], place: str) -> dict[str, Any]:
    """Settings of a file with their names as fields are written.

    Raises:
        ConfigError: One is no field.
    """
    fields = {str(name).replace("-", "_"): value for name, value in settings.items()}
    for name in fields:
        if name not in known:
            raise ConfigError(f"Unknown field '{name}' in {place}: {suggest(name, known)}.")
    return fields


def _numbers(arg: str) -> str:
    """Rewrite lists of numbers for JSON, which lacks `.2`."""
    # Of a word that is no flag all is the value: it may be a path with such signs in it.
    name, equals, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
    return f"{name}{equals}{_POINT.sub('0.', value)}" if _NUMBERS.fullmatch(value) else arg


def _whole_names(kind: type[Config], args: Sequence[str]) -> list[str]:
    """Keep names of places that are there whole, where a flag takes a list and would cut them at their commas."""
    lists = {name for name, info in kind.model_fields.items() if get_origin(info.annotation) in {list, tuple}}
    switches = {name for name, info in kind.model_fields.items() if info.annotation is bool}
    positional = {name for name in lists if _POSITIONAL in kind.model_fields[name].metadata}
    words, field = list[str](), ""
    for arg in args:
        name, equals, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
        if name:
            field = name.removeprefix("--").replace("-", "_")
        if (name and not equals) or not (field in lists or (not field and positional)):
            words.append(arg)
        else:
            pieces = named_places(value)
            words.append(f"{name}{equals}{json.dumps(pieces)}" if "," in "".join(pieces) else arg)
        if (equals or not name) or field in switches:
            field = ""
    return words


def _objects(kind: type[Config], args: Sequence[str]) -> list[str]:
    """Rewrite `N=5,local_ratio=0.2` behind a flag that takes an object as JSON, numbers and truths as such."""
    objects = {name for name, info in kind.model_fields.items() if get_origin(info.annotation) is dict}
    words, field = list[str](), ""
    for arg in args:
        name, equals, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
        field = name.removeprefix("--").replace("-", "_") if name else field
        if field in objects and (equals or not name):
            entries = dict(_entry(piece) for piece in _BETWEEN_ENTRIES.split(value)) if _ENTRY.match(value) else None
            words.append(arg if entries is None else f"{name}{equals}{json.dumps(entries)}")
            field = ""
        else:
            words.append(arg)
            field = field if name and not equals else ""
    return words


def _entry(piece: str) -> tuple[str, Any]:
    key, _, text = piece.partition("=")
    try:
        return key, json.loads(text)
    except ValueError:
        return key, text


_ENTRY = re.compile(r"[A-Za-z_]\w*=")
_BETWEEN_ENTRIES = re.compile(rf",(?={_ENTRY.pattern})")
_POSITIONAL = cast(Any, CliPositionalArg[str]).__metadata__[0]
_NUMBERS = re.compile(r"[-+.\d,e]*,[-+.\d,e]*")
_POINT = re.compile(r"(?<![\d.])\.(?=\d)")


def _kebab(arg: str) -> str:
    name, equals, value = arg.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if arg.startswith("--") else arg
