"""Refusal of unknown names on the command line, before anything that computes is imported.

Names of fields are read from the source of the config's classes. Values are checked by the configs themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import create_model

from offline_marl.algorithms.presets import read_preset
from offline_marl.core.config import Config, load_settings
from offline_marl.core.declared_fields import config_of, declared_fields
from offline_marl.launch.cli.flags import FLAGS_ALONE, Composed, FolderFlags, TrainFlags, known_fields, parser_of
from offline_marl.runs.kinds import TRAIN, RunKind


def refuse_unknown_names(kind: RunKind[Any], name: str, args: Sequence[str]) -> None:
    """Refuse names that nobody knows; those of other packages, of which only an import tells, are left alone.

    Args:
        kind: Of the run that begins.
        name: Of what is learnt.
        args: The command line behind it.

    Raises:
        RegistryError: Nothing has this name.
        ConfigError: A flag, a preset or a field of a file is unknown, or a file cannot be read.
    """
    if kind.names is None:
        return
    if not kind.names.knows(name):
        kind.names.get(name)  # says what there is
    everything = _flags(kind, name)
    if everything is None or {"-h", "--help"} & set(args):
        return
    parser, _, words = parser_of(everything, f"{kind.command} {name}", "", "", args)
    given = vars(parser.parse(words))
    known = set(everything.model_fields) - FLAGS_ALONE
    if given.get("config") is not None:
        known_fields(load_settings(Path(given["config"])), known, given["config"])
    if given.get("preset") is not None:
        known_fields(read_preset(name, given["preset"]), known, f"the preset '{given['preset']}'")


def _flags(kind: RunKind[Any], name: str) -> type[Config] | None:
    """Config with the names of all flags of a run, whose values are text or, of switches, truths."""
    module = None if kind.names is None else kind.names.module_of(name)
    where = None if module is None else config_of(module, name)
    fields = None if where is None else declared_fields(*where)
    if fields is None:
        return None
    named: dict[str, Any] = {
        field: (bool if annotation == "bool" else str, None) for field, annotation in fields.items()
    }
    bases = (TrainFlags, Composed) if kind is TRAIN else (FolderFlags, kind.flags, Composed)
    made: type[Config] = create_model("Names", __base__=bases, **named)
    return made
