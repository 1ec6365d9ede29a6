"""Command `offline-marl train`: flags, call and output."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from offline_marl.launch.cli.command import PROGRAM
from offline_marl.launch.cli.kinds import begin, refuse_flag_first
from offline_marl.launch.cli.list import algorithm_rows
from offline_marl.launch.cli.text import print_lines, table
from offline_marl.runs.kinds import TRAIN

if TYPE_CHECKING:
    from offline_marl.training.training_run import Result


def run(args: Sequence[str]) -> None:
    """Train the algorithm that the first word names; without one, list them."""
    if not args or args[0] in {"-h", "--help"}:
        return _overview()
    refuse_flag_first(TRAIN, args[0], f": `{PROGRAM} list algorithms` shows them.")
    begin(TRAIN, args, print_result)


def _overview() -> None:
    print(f"usage: {PROGRAM} train ALGORITHM --dataset ID [--preset NAME] [--config FILE] [--FIELD VALUE ...]\n")
    print_lines(table(algorithm_rows()))
    print("\nma-ppo learns without data: --environment NAME in place of --dataset ID.")
    print(f"`{PROGRAM} train ALGORITHM --help` shows all fields of the run and the algorithm, with their defaults;")
    print(f"`{PROGRAM} data list` shows what ID can be, `{PROGRAM} list presets` what NAME.")


def print_result(result: Result) -> None:
    """Print the score of a finished run, and where all that belongs to it lies."""
    run = shlex.quote(str(result.folder))
    print(result.score if result.score is not None else "no score: there is nothing to act in")
    rows: list[tuple[str, Any]] = [("run folder", result.folder), ("picture", result.picture)]
    rows += [("evaluate", f"{PROGRAM} evaluate {run} --episodes 1000" if result.score is not None else None)]
    rows += [("see again", f"{PROGRAM} resume {run}")]
    for name, value in rows:
        if value is not None:
            print(f"{name:<12}{value}")
