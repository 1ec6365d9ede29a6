"""Command `offline-marl data mix`: mixture of episodes of several sets, by a recipe."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, ConfigError, build, load_settings
from offline_marl.launch.cli.command import PROGRAM
from offline_marl.launch.cli.flags import read

ABOUT = (
    "Puts episodes of several sets into one file, as a recipe says (TOML or YAML): `name`, `seed`, `shuffle`, and for "
    "each of its `parts`: `data`, how many `episodes` or which `share` of them, and `returns = [low, high]`, the "
    "quantiles of the set's returns between which episodes are taken. Equal recipes of equal sets make equal files."
)
USAGE = "RECIPE OUT [--overwrite]"


class MixFlags(Config):
    """Flags of `data mix`."""

    recipe: CliPositionalArg[Path]
    """The recipe, .toml or .yaml; file names in it are seen from the folder you are in."""
    out: CliPositionalArg[Path]
    """File to write, such as mine.safetensors."""
    overwrite: bool = False
    """Replace OUT if it exists."""


def run(args: Sequence[str]) -> None:
    """Mix data sets.

    Raises:
        BadInputError: The recipe makes no sense, or the sets do not go together.
    """
    flags: MixFlags = build(MixFlags, read(MixFlags, "data mix", USAGE, ABOUT, args))

    from offline_marl.core.progress import progress_bar
    from offline_marl.datasets.catalog import SUFFIX
    from offline_marl.datasets.files import save_data
    from offline_marl.datasets.mixing import MixRecipe, mix
    from offline_marl.datasets.staging import staged
    from offline_marl.launch.cli.data.loading import load_named

    if flags.out.suffix != SUFFIX:
        raise ConfigError(f"OUT is {flags.out}: it should end in {SUFFIX}.")
    settings = load_settings(flags.recipe)
    recipe: MixRecipe = build(MixRecipe, {"name": flags.recipe.stem, **settings})
    with staged(flags.out, flags.overwrite) as place:
        with progress_bar(len(recipe.parts), f"mixing {recipe.name}", "part", leave=False) as bar:
            made = mix(recipe, lambda name: load_named(name)[0], lambda _: (bar.update(), None)[1])
        save_data(place, made.data)
    for warning in made.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    lengths = made.data.lengths
    print(f"{'file':<12}{flags.out}: {len(lengths):,} episodes, {int(lengths.sum()):,} transitions")
    print(f"{'look at it':<12}{PROGRAM} data info {shlex.quote(str(flags.out))}")
