"""Command `offline-marl train`: flags, call and output."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from offline_marl.core.config import ConfigError
from offline_marl.launch.cli.command import PROGRAM
from offline_marl.launch.cli.failures import resumable
from offline_marl.launch.cli.list import algorithm_rows
from offline_marl.launch.cli.text import print_lines, table

if TYPE_CHECKING:
    from offline_marl.training.training_run import Result


def run(args: Sequence[str]) -> None:
    """Train the algorithm that the first word names; without one, list them."""
    if not args or args[0] in {"-h", "--help"}:
        return _overview()
    name = args[0]
    if name.startswith("-"):
        raise ConfigError(f"train needs the ALGORITHM first, before {name}: `{PROGRAM} list algorithms` shows them.")
    from offline_marl.algorithms.base import algorithms
    from offline_marl.launch.cli.flags import read_training

    kind = algorithms.get(name)
    summary = next(entry.summary for entry in algorithms.listings() if entry.name == name)
    fields, out = read_training(name, kind.Config, summary, args[1:], kind.needs.origin == "environment")
    dataset = fields.pop("dataset", None)

    from offline_marl.training.run import default_folder, prepare, train

    folder = out or default_folder(prepare(name, dataset, fields))
    with resumable(folder):
        print_result(train(name, dataset, out=folder, **fields))


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
