"""Command `offline-marl prefs export`: labels and open pairs as a CSV file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.launch.cli.command import PROGRAM
from offline_marl.launch.cli.flags import read

ABOUT = (
    "Writes a line for each label, and one without an answer for each pair that nobody labelled: fill in `answer` "
    "(first, second, equal, skip) and `annotator`, and import the file."
)


class ExportFlags(Config):
    """Flags of `prefs export`."""

    folder: CliPositionalArg[Path]
    """Folder of comparisons."""
    file: CliPositionalArg[Path]
    """File to write, .csv."""
    overwrite: bool = False
    """Replace FILE if it exists."""


def run(args: Sequence[str]) -> None:
    """Write the labels of a folder.

    Raises:
        BadInputError: There is no such folder, or the file exists.
    """
    usage = "FOLDER FILE.csv [--overwrite]"
    flags: ExportFlags = build(ExportFlags, read(ExportFlags, "prefs export", usage, ABOUT, args))

    from offline_marl.training.preferences.folders import ComparisonFolder
    from offline_marl.training.preferences.label_tables import export

    if flags.file.exists() and not flags.overwrite:
        raise ConfigError(f"{flags.file} exists already: choose another name, or say --overwrite.")
    with ComparisonFolder(flags.folder) as folder:
        labels, still_open = export(folder, flags.file)
    print(f"{'file':<12}{flags.file}: {labels:,} labels, {still_open:,} pairs without")
    print(f"{'take in':<12}{PROGRAM} prefs import {flags.folder} {flags.file} --annotator NAME")
