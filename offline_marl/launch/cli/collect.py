"""Command `offline-marl collect`: flags, call and output."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import CliPositionalArg

from offline_marl.collection.config import CollectConfig
from offline_marl.core.config import ConfigError, build
from offline_marl.core.errors import INTERRUPTED
from offline_marl.launch.cli.command import PROGRAM
from offline_marl.launch.cli.failures import Stopped
from offline_marl.launch.cli.flags import read

ABOUT = (
    "Records episodes into a file; called again after it was stopped, it goes on where it stood. With --tiers, a file "
    "for each of several checkpoints of a run, from poor to expert."
)
USAGE = "ENV --out FILE [--who NAME=SHARE,... | --tiers RUN] [--episodes N] [--noise X,...] [--workers N] ..."


class CollectFlags(CollectConfig):
    """Flags of the command `collect`."""

    environment: CliPositionalArg[str]
    """Name of an environment, or import path of a PettingZoo one (package.module:function)."""


def run(args: Sequence[str]) -> None:
    """Collect episodes.

    Raises:
        BadInputError: Of a kind that says what is wrong.
        Stopped: It was interrupted.
    """
    given = read(CollectFlags, "collect", USAGE, ABOUT, args)
    if "out" not in given:
        raise ConfigError("collect needs --out FILE, such as --out mine.safetensors.")
    flags: CollectFlags = build(CollectFlags, given)
    for name in ("tier_fractions", "tier_tolerance") if flags.tiers is None else ():
        if name in given:
            raise ConfigError(f"--{name.replace('_', '-')} is of files by quality: it needs --tiers RUN.")

    try:
        files = _tiers(flags) if flags.tiers is not None else _file(flags)
    except KeyboardInterrupt:
        raise Stopped(INTERRUPTED, "interrupted: the same command goes on where it stood.") from None
    for file in files:
        print(f"{'look at it':<12}{PROGRAM} data info {shlex.quote(str(file))}")


def _file(flags: CollectFlags) -> list[Path]:
    from offline_marl.collection.collect import collect

    path = collect(flags)
    print(f"{'file':<12}{path}")
    return [path]


def _tiers(flags: CollectFlags) -> list[Path]:
    from offline_marl.collection.tiers import collect_tiers

    tiers = collect_tiers(flags)
    for tier in tiers:
        print(f"{tier.name:<12}{tier}")
    return [tier.path for tier in tiers]
