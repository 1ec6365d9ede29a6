"""Command `offline-marl train`: flags, call and output."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from offline_marl.core.config import ConfigError
from offline_marl.launch.cli.command import PROGRAM
from offline_marl.launch.cli.failures import resumable
from offline_marl.launch.cli.kinds import begin, refuse_flag_first
from offline_marl.launch.cli.list import algorithm_rows
from offline_marl.launch.cli.text import print_lines, table
from offline_marl.runs.kinds import TRAIN

MOST_SEEDS = 1_000
"""Of one range."""

if TYPE_CHECKING:
    from offline_marl.training.training_run import Result


def run(args: Sequence[str]) -> None:
    """Train the algorithm that the first word names; without one, list them."""
    if not args or args[0] in {"-h", "--help"}:
        return _overview()
    refuse_flag_first(TRAIN, args[0], f": `{PROGRAM} list algorithms` shows them.")
    if any(word.partition("=")[0] == "--seeds" for word in args) and not {"-h", "--help"} & set(args):
        return _begin_seeds(args[0], args[1:])
    begin(TRAIN, args, print_result)


def _begin_seeds(name: str, args: Sequence[str]) -> None:
    """Begin, or go on with, runs that differ by their seed alone."""
    from offline_marl.launch.cli.unknown_names import refuse_unknown_names

    refuse_unknown_names(TRAIN, name, args)

    from offline_marl.algorithms import registry
    from offline_marl.launch.cli.flags import read_training
    from offline_marl.training.seeds import folders_of, train_seeds

    fields, out = read_training(name, registry.get(name).Config, "", args)
    seeds = read_seeds(fields.pop("seeds"))
    if "seed" in fields:
        raise ConfigError("--seeds names the seeds of all runs: leave --seed away.")
    dataset = fields.pop("dataset", None)
    if dataset is None:
        raise ConfigError(
            f"--seeds lays learners of recorded rows side by side, and train {name} was given no --dataset: for seeds "
            "that play there are sweeps."
        )
    runs = folders_of(name, dataset, seeds, out=out, **fields)
    with resumable(runs[0].parent, runs):
        results = train_seeds(name, dataset, seeds, out=out, **fields)
    for seed, result in zip(seeds, results, strict=True):
        print(f"{f'seed {seed}':<12}{result.score if result.score is not None else 'no score'}")
        print(f"{'run folder':<12}{result.folder}")
    print(
        f"{'compare':<12}{PROGRAM} report {' '.join(shlex.quote(str(result.folder)) for result in results)} --out DIR"
    )


def read_seeds(text: str) -> list[int]:
    """Seeds from words such as 0..7, 0,3,5 or 0..3,8.

    Raises:
        ConfigError: It is none of these.
    """
    seeds: list[int] = []
    for piece in text.split(","):
        match = re.fullmatch(r"(\d{1,18})(?:\.\.(\d{1,18}))?", piece.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 0 <= last - first < MOST_SEEDS:
            raise ConfigError(f"--seeds {text} should be seeds such as 0..7 or 0,3,5, at most {MOST_SEEDS}.")
        seeds += range(first, last + 1)
    return seeds


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
