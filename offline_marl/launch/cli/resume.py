"""Command `offline-marl resume`: continuation of a run or a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from offline_marl.core.config import build
from offline_marl.launch.cli.failures import resumable
from offline_marl.launch.cli.fit_model import print_fit
from offline_marl.launch.cli.flags import ResumeFlags, read
from offline_marl.launch.cli.kinds import Printer, print_run
from offline_marl.launch.cli.train import print_result
from offline_marl.runs.folder import kind_of
from offline_marl.runs.kinds import FIT, TRAIN


def run(args: Sequence[str]) -> None:
    """Resume the run or fit in a folder."""
    summary = "Goes on with a run, or with the fit of a world model, and ends exactly where it would have ended."
    flags: ResumeFlags = build(ResumeFlags, read(ResumeFlags, "resume", "RUN", summary, args))

    from offline_marl.training.kinds import procedure_of

    kind = kind_of(flags.run) or TRAIN  # whose folder says what is wrong with it
    procedure = procedure_of(kind)
    with resumable(flags.run):
        outcome = procedure.resume(flags.run)
        PRINTERS.get(kind.command, partial(print_run, procedure, flags.run))(outcome)


PRINTERS: Mapping[str, Printer] = {TRAIN.command: print_result, FIT.command: print_fit}
