"""Command `offline-marl fit-model`: flags, call and output."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from offline_marl.launch.cli.command import PROGRAM
from offline_marl.launch.cli.kinds import begin, refuse_flag_first
from offline_marl.launch.cli.list import model_rows
from offline_marl.launch.cli.text import print_lines, table
from offline_marl.runs.kinds import FIT

if TYPE_CHECKING:
    from offline_marl.training.models.fit import Fit


def run(args: Sequence[str]) -> None:
    """Fit the kind of world model that the first word names; without one, list them."""
    if not args or args[0] in {"-h", "--help"}:
        return _overview()
    refuse_flag_first(FIT, args[0], f": `{PROGRAM} list worldmodels` shows them.")
    begin(FIT, args, print_fit)


def _overview() -> None:
    print(f"usage: {PROGRAM} fit-model KIND --dataset ID [--config FILE] [--FIELD VALUE ...]\n")
    print_lines(table(model_rows()))
    print(f"\n`{PROGRAM} fit-model KIND --help` shows all fields of the fit and of the model, with their defaults.")


def print_fit(fit: Fit) -> None:
    """Print how far a fitted model can be trusted, and where all that belongs to it lies."""
    from offline_marl.training.models.report import verdict

    error = sum(fit.errors) / len(fit.errors)
    print(f"held-out error {error:.3f} of the data's own deviation, {len(fit.errors)} members, {fit.steps:,} updates")
    print(f"{'verdict':<12}{verdict(fit.report)}")
    print(f"{'model':<12}{fit.folder}")
    for name, file in (("report", fit.folder / "report.json"), ("picture", fit.folder / "report.png")):
        if file.is_file():
            print(f"{name:<12}{file}")
    print(f"{'use it':<12}{PROGRAM} train ALGORITHM --dataset ID --world-model {shlex.quote(str(fit.folder))}")
