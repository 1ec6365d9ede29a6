"""Command `offline-marl crossplay`: flags, call and output."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offline_marl.core.config import build
from offline_marl.core.files import refuse_unwritable
from offline_marl.launch.cli.flags import read
from offline_marl.runs.config import EnvironmentChoice

ABOUT = (
    "Lets agents of different runs play together on the same starts, and says who shares a convention: the matrix of "
    "mean returns with intervals, groups, self-play beside cross-play. Writes crossplay.json, .csv, .svg and .png."
)
USAGE = "RUN RUN ... [--episodes N] [--seed N] [--workers N] [--environment NAME] [--out DIR]"


class CrossplayFlags(EnvironmentChoice):
    """Flags of the command `crossplay`."""

    runs: CliPositionalArg[list[Path]]
    """Run folders, trained for one environment and one split among agents; their newest checkpoints play."""
    episodes: Annotated[int, Field(ge=1)] = 100
    """Starts; every pairing plays the same ones."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides the starts, as in evaluate."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that step the simulator; nothing depends on how many."""
    out: Path | None = None
    """Folder to write to, what was there is replaced; without it crossplay/ in the folder that holds the runs."""


def run(args: Sequence[str]) -> None:
    """Let runs play together.

    Raises:
        BadInputError: Of a kind that says why they cannot.
    """
    flags: CrossplayFlags = build(CrossplayFlags, read(CrossplayFlags, "crossplay", USAGE, ABOUT, args))

    out = flags.out or Path(os.path.commonpath([folder.absolute().parent for folder in flags.runs])) / "crossplay"
    refuse_unwritable(out, "--out")

    from offline_marl.core.progress import progress_bar
    from offline_marl.report.crossplay.crossplay import crossplay
    from offline_marl.report.crossplay.files import lines_of, write_crossplay

    with progress_bar(len(flags.runs) ** 2, "crossplay", "pairing", leave=False) as bar:
        result = crossplay(flags.runs, flags.episodes, flags.seed, flags.workers, bar.update, flags)
    for note in result.notes:
        print(f"warning: {note}", file=sys.stderr)
    written = write_crossplay(result, out)
    if len(written) < 4:
        print("warning: no picture: pip install 'offline-marl[report]'.", file=sys.stderr)
    print("\n".join(lines_of(result)))
    for file in written:
        print(f"{file.suffix.removeprefix('.'):<12}{file}")
