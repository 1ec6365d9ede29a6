"""Command `offline-marl submit`: submission of one job to Slurm or this machine, its status, and a site check."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.core.errors import FAILED
from offline_marl.core.fields import Count
from offline_marl.launch.cli.command import PROGRAM, Command, choose
from offline_marl.launch.cli.failures import Stopped
from offline_marl.launch.cli.kinds import read_run, with_added
from offline_marl.runs.kinds import kinds

if TYPE_CHECKING:
    from offline_marl.launch.jobs.job import Job


class SubmitFlags(Config):
    """Flags of `submit`, which stand among those of the run."""

    executor: Literal["debug", "local", "slurm"] = "slurm"
    """slurm, local (processes of this machine) or debug (this process)."""
    profile: Path | None = None
    """TOML file of what a job asks for; without it $OFFLINE_MARL_PROFILE, else the user's profile.toml."""
    nodes: Count | None = None
    """Nodes of a run with --engine ray: Ray is started on all of them, and ends with the job."""
    dry_run: bool = False
    """Print the scripts and submit nothing."""


def run(args: Sequence[str]) -> None:
    """Run a subcommand of `submit`.

    Raises:
        BadInputError: Of a kind that says what is wrong.
        Stopped: `check` found that this machine cannot submit.
    """
    choose("submit ", with_added(COMMANDS, "status", "the same as a job", _submit), args)


def _submit(command: str, args: Sequence[str]) -> None:
    kind = kinds.get(command)
    usage = f"{PROGRAM} submit {command} {kind.argument} --dataset ID [--FIELD VALUE ...]"
    usage += " [--executor slurm|local|debug]"
    flags, rest = split(args)
    if not rest or rest[0] in {"-h", "--help"}:
        print(f"usage: {usage} [--profile FILE] [--nodes N] [--dry-run]\n\n{ABOUT}")
        return
    if rest[0].startswith("-"):
        raise ConfigError(f"submit {command} needs the {kind.argument} first, before {rest[0]}.")

    from offline_marl.launch.cli.unknown_names import refuse_unknown_names

    refuse_unknown_names(kind, rest[0], rest[1:])

    from offline_marl.launch.jobs import executors
    from offline_marl.launch.jobs.job import Job, checked
    from offline_marl.launch.jobs.profile import read_profile
    from offline_marl.launch.jobs.ray_allocation import refuse_without_ray
    from offline_marl.training.kinds import procedure_of

    profile = read_profile(flags.profile)
    if flags.nodes is not None:
        if flags.executor != "slurm":
            raise ConfigError(f"--nodes is for --executor slurm, not for {flags.executor}.")
        profile = profile.model_copy(update={"nodes": flags.nodes})
    fields, out = read_run(procedure_of(kind), rest[0], rest[1:])
    job = checked(Job(command=command, name=rest[0], fields=fields, out=out))
    if flags.nodes is not None:
        refuse_without_ray(job)
    logs = job.out / "logs"
    if flags.dry_run:
        print(executors.dry_run([job], profile, logs))
        return
    _refuse_twice(job)
    name = executors.submit([job], flags.executor, profile, logs)[0]
    rows = [("run folder", str(job.out)), ("logs", str(logs))]
    rows += [("job", name), ("cancel", f"scancel {name}")] if flags.executor == "slurm" else []
    for title, value in rows:
        print(f"{title:<12}{value}")
    if flags.executor == "slurm":
        print(f"{'see it':<12}{PROGRAM} submit status {shlex.quote(str(job.out))}")


def _refuse_twice(job: Job) -> None:
    from offline_marl.launch.jobs.job import JobError, read_submitted, refuse_another
    from offline_marl.launch.jobs.states import state_of

    refuse_another(job)
    if read_submitted(job.out) is not None:
        state = state_of(job.out)
        if state.state in {"waiting", "running"}:
            raise JobError(f"{job.out} is {state.state} already, as job {state.id}.")


def split(args: Sequence[str]) -> tuple[SubmitFlags, list[str]]:
    """Split words into the flags of `submit` and those of the run."""
    given, rest, words = dict[str, Any](), list[str](), list(args)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        field = name.removeprefix("--").replace("-", "_")
        if name == "--dry-run":
            given[field] = value if equals else True
        elif name in {"--executor", "--profile", "--nodes"}:
            if not equals and not words:
                raise ConfigError(f"Flag {name} of submit needs a value.")
            given[field] = value if equals else words.pop(0)
        else:
            rest.append(word)
    flags: SubmitFlags = build(SubmitFlags, given)
    return flags, rest


def _check(args: Sequence[str]) -> None:
    flags, rest = split(args)
    if rest:
        raise ConfigError(f"'{rest[0]}' is one word too many: {PROGRAM} submit check [--profile FILE].")

    from offline_marl.launch.jobs.site_check import check_site

    bad = 0
    for good, line in check_site(flags.profile):
        bad += not good
        print(f"{'ok' if good else 'NO':<4}{line}")
    if bad:
        raise Stopped(FAILED, "This machine cannot submit with this profile: see the lines with NO.")
    print("This machine can submit.")


def _status(args: Sequence[str]) -> None:
    if not args or args[0].startswith("-"):
        print(f"usage: {PROGRAM} submit status RUN ...\n\nWhere submitted runs stand; of those that failed, why.")
        return

    from offline_marl.launch.cli.text import print_lines, table
    from offline_marl.launch.jobs.states import states_of

    folders = [Path(arg).absolute() for arg in args]
    for folder in folders:
        if not folder.is_dir():  # a job that waits has its folder already: a misspelt one would wait forever
            raise ConfigError(f"There is no folder {folder}.")
    states = states_of(folders)
    rows = [("run", "state", "step", "of", "per s", "left", "requeues", "why")]
    for state in states:
        rate = "" if state.rate is None else f"{state.rate:.1f}"
        of = "" if state.steps is None else f"{state.steps:,}"
        times = rate, _left(state.left_s), str(state.requeues)
        rows.append((str(state.folder), state.state, f"{state.step:,}", of, *times, state.why))
    print_lines(table(rows))
    for state in states:
        if state.state == "failed" and state.log:
            print(f"\nlast lines of {state.folder}")
            print_lines([f"  {line}" for line in state.log])


def _left(seconds: float | None) -> str:
    if not seconds:
        return ""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


ABOUT = (
    "Gives one run to an executor: slurm (the default), local (a process of this machine) or debug (this process).\n"
    "All flags of the command work, see its --help. --profile FILE says what the job asks for (account, partition,\n"
    "minutes, memory_gb, gpus, setup ...); --nodes N, with --engine ray, starts Ray on N nodes and ends it with the\n"
    "job; --dry-run prints the script and submits nothing. Submitted again, a run goes on in its folder."
)
COMMANDS = {
    "train": Command("ALGORITHM --dataset ID ...", "train as a job", partial(_submit, "train")),
    "fit-model": Command("KIND --dataset ID ...", "fit a world model as a job", partial(_submit, "fit-model")),
    "fit-reward": Command("KIND --dataset ID ...", "fit a reward model as a job", partial(_submit, "fit-reward")),
    "status": Command("RUN ...", "where submitted runs stand, and why they failed", _status),
    "check": Command("[--profile FILE]", "whether this machine can submit, in plain words", _check),
}
