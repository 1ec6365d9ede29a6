"""Command `offline-marl resume`: continuation of a run or a fit."""

from __future__ import annotations

from collections.abc import Sequence

from offline_marl.core.config import build
from offline_marl.launch.cli.failures import resumable
from offline_marl.launch.cli.fit_model import print_fit
from offline_marl.launch.cli.flags import ResumeFlags, read
from offline_marl.launch.cli.train import print_result


def run(args: Sequence[str]) -> None:
    """Resume the run or fit in a folder."""
    summary = "Goes on with a run, or with the fit of a world model, and ends exactly where it would have ended."
    flags: ResumeFlags = build(ResumeFlags, read(ResumeFlags, "resume", "RUN", summary, args))

    from offline_marl.runs.folder import holds_model
    from offline_marl.training.models.fit import resume_fit
    from offline_marl.training.run import resume

    with resumable(flags.run):
        if holds_model(flags.run):
            print_fit(resume_fit(flags.run))
        else:
            print_result(resume(flags.run))
