"""Command `offline-marl resume`: continuation of a run or a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from offline_marl.core import allocator
from offline_marl.core.config import ConfigError, build
from offline_marl.launch.cli.failures import resumable
from offline_marl.launch.cli.fit_model import print_fit
from offline_marl.launch.cli.fit_reward import print_reward
from offline_marl.launch.cli.flags import ResumeFlags, read
from offline_marl.launch.cli.kinds import Printer, print_run
from offline_marl.launch.cli.train import print_result
from offline_marl.runs.folder import kind_of
from offline_marl.runs.kinds import FIT, FIT_REWARD, TRAIN, RunKind


def run(args: Sequence[str]) -> None:
    """Resume the run or fit in a folder."""
    summary = "Goes on with a run, or with the fit of a world model, and ends exactly where it would have ended."
    flags: ResumeFlags = build(ResumeFlags, read(ResumeFlags, "resume", "RUN [--environment PATH]", summary, args))

    from offline_marl.training.kinds import procedure_of

    allocator.keep_memory()
    kind = kind_of(flags.run) or TRAIN  # whose folder says what is wrong with it
    procedure = procedure_of(kind)
    named = flags.environment is not None or bool(flags.env_settings)
    with resumable(flags.run):
        outcome = procedure.resume(flags.run) if not named else resume_permitted(kind, flags)
        PRINTERS.get(kind.command, partial(print_run, procedure, flags.run))(outcome)


def resume_permitted(kind: RunKind[Any], flags: ResumeFlags) -> Any:
    """Resume a run whose files ask for code that the user names."""
    from offline_marl.training.run import resume

    if kind is not TRAIN:
        raise ConfigError(f"{flags.run} holds {kind.noun}, which acts in no environment: leave --environment away.")
    return resume(flags.run, environment=flags.environment, env_settings=flags.env_settings)


PRINTERS: Mapping[str, Printer] = {
    TRAIN.command: print_result,
    FIT.command: print_fit,
    FIT_REWARD.command: print_reward,
}
