"""Command `offline-marl prefs import`: labels from a CSV file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, build
from offline_marl.launch.cli.flags import read

ABOUT = (
    "Stores the labels of a CSV file, all or none. Columns: pair_id; answer (first, second, equal, skip) or label (1, "
    "0, 0.5); annotator, unless --annotator; target (team, agent_0 ...) if it is not the team. Lines without an answer "
    "are passed over, and a label that is there already is not stored twice."
)


class ImportFlags(Config):
    """Flags of `prefs import`."""

    folder: CliPositionalArg[Path]
    """Folder of comparisons."""
    file: CliPositionalArg[Path]
    """The file, .csv."""
    annotator: str | None = None
    """Who gave the labels of lines that name nobody."""


def run(args: Sequence[str]) -> None:
    """Store labels.

    Raises:
        BadInputError: A line cannot be read, or labels a pair that is not there.
    """
    usage = "FOLDER FILE.csv [--annotator NAME]"
    flags: ImportFlags = build(ImportFlags, read(ImportFlags, "prefs import", usage, ABOUT, args))

    from offline_marl.preferences.agreement import contradictions
    from offline_marl.training.preferences.folders import ComparisonFolder
    from offline_marl.training.preferences.label_tables import take_in

    with ComparisonFolder(flags.folder) as folder:
        new, known = take_in(folder, flags.file, flags.annotator)
        opposed = len(contradictions(folder.store.labels()))
    print(f"{'labels':<12}{new:,} new, {known:,} known already")
    if opposed:
        print(
            f"warning: {opposed:,} questions were answered in two ways by one annotator: `prefs report` shows them.",
            file=sys.stderr,
        )
