"""Command `offline-marl data plot`: picture of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.launch.cli.flags import read

ABOUT = "Draws returns, lengths of episodes, actions of each agent, and how observations cover their space."
USAGE = "ID --out FILE.png|FILE.svg"


class PlotFlags(Config):
    """Flags of `data plot`."""

    id: CliPositionalArg[str]
    """Data set, task on it, file, folder or place on the hub."""
    out: Path
    """Picture to write, .png or .svg; one that exists is replaced."""


def run(args: Sequence[str]) -> None:
    """Draw a data set.

    Raises:
        BadInputError: It cannot be used, or matplotlib is missing.
    """
    given = read(PlotFlags, "data plot", USAGE, ABOUT, args)
    if "out" not in given:
        raise ConfigError("data plot needs --out FILE, such as --out data.png.")
    flags: PlotFlags = build(PlotFlags, given)
    form = flags.out.suffix.removeprefix(".").lower()
    if form not in {"png", "svg"}:
        raise ConfigError(f"--out {flags.out} should end in .png or .svg.")

    from offline_marl.core.files import write_atomically
    from offline_marl.datasets.picture import draw_data
    from offline_marl.launch.cli.data.loading import load_named

    data, _ = load_named(flags.id)
    write_atomically(flags.out, draw_data(data, Path(flags.id).name, "svg" if form == "svg" else "png"))
    print(f"{'picture':<12}{flags.out}")
