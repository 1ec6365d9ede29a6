"""Command `offline-marl fit-reward`: flags, call and output."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from offline_marl.launch.cli.command import PROGRAM
from offline_marl.launch.cli.kinds import begin, refuse_flag_first
from offline_marl.launch.cli.list import reward_rows
from offline_marl.launch.cli.text import print_lines, table
from offline_marl.runs.kinds import FIT_REWARD

if TYPE_CHECKING:
    from offline_marl.training.preferences.fit import RewardFit


def run(args: Sequence[str]) -> None:
    """Fit the kind of reward model that the first word names; without one, list them."""
    if not args or args[0] in {"-h", "--help"}:
        return _overview()
    refuse_flag_first(FIT_REWARD, args[0], f": `{PROGRAM} list rewardmodels` shows them.")
    begin(FIT_REWARD, args, print_reward)


def _overview() -> None:
    print(f"usage: {PROGRAM} fit-reward KIND --dataset ID --preferences FOLDER [--config FILE] [--FIELD VALUE ...]\n")
    print_lines(table(reward_rows()))
    print(f"\n`{PROGRAM} fit-reward KIND --help` shows all fields of the fit and of the model, with their defaults;")
    print(f"`{PROGRAM} prefs pairs` makes a FOLDER, in which pairs are then labelled.")


def print_reward(fit: RewardFit) -> None:
    """Print how well a reward model tells held-out pairs, and where all that belongs to it lies."""
    from offline_marl.training.preferences.fit import describe

    print_lines(describe(fit))
    print(f"{'model':<12}{fit.folder}")
    if (fit.folder / "report.json").is_file():
        print(f"{'report':<12}{fit.folder / 'report.json'}")
    print(f"{'use it':<12}{PROGRAM} train ALGORITHM --dataset ID --reward-model {shlex.quote(str(fit.folder))}")
