"""`offline-marl resume`: go on with a run or a fit."""

from __future__ import annotations

from collections.abc import Sequence

from offline_marl.core.config import build
from offline_marl.launch.cli.failures import going
from offline_marl.launch.cli.fit_model import print_fit
from offline_marl.launch.cli.flags import ResumeFlags, read
from offline_marl.launch.cli.train import print_result


def run(args: Sequence[str]) -> None:
    """Go on with the run or fit in a folder."""
    about = "Goes on with a run, or with the fit of a world model, and ends exactly where it would have ended."
    flags: ResumeFlags = build(ResumeFlags, read(ResumeFlags, "resume", "RUN", about, args))

    from offline_marl.runs.folder import holds_model
    from offline_marl.training.models.fit import resume_fit
    from offline_marl.training.run import resume

    with going(flags.run):
        if holds_model(flags.run):
            print_fit(resume_fit(flags.run))
        else:
            print_result(resume(flags.run))
