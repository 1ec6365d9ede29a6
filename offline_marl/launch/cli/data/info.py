"""Command `offline-marl data info`: flags, call and output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, build
from offline_marl.launch.cli.flags import read

ABOUT = "What is in a data set, or in a task on it; a set of the catalogue is made first if need be."


class InfoFlags(Config):
    """Flags of `data info`."""

    id: CliPositionalArg[str]
    """Data set (reacher-scripted-mix-v0), task on it (reacher-scripted-mix-v0_2x1notip_0), file, folder, hf://..."""
    # A field called json would hide a method of pydantic's models.
    as_json: Annotated[bool, Field(validation_alias="json")] = False
    """Print JSON for machines."""


def run(args: Sequence[str]) -> None:
    """Describe a data set.

    Raises:
        BadInputError: It cannot be found or used.
    """
    flags: InfoFlags = build(InfoFlags, read(InfoFlags, "data info", "ID [--json]", ABOUT, args))

    from offline_marl.launch.cli.data.describe import as_json, as_lines, describe

    description = describe(flags.id)
    print(as_json(description) if flags.as_json else "\n".join(as_lines(description)))
