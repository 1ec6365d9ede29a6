"""`offline-marl sweep`: many runs from one file; where they stand, what failed, what they came to."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.core.errors import FAILED
from offline_marl.launch.cli.command import PROGRAM, Command, choose
from offline_marl.launch.cli.failures import Stopped
from offline_marl.launch.cli.flags import read
from offline_marl.launch.cli.terminal import duration
from offline_marl.launch.cli.text import table
from offline_marl.launch.sweeps.folder import Sweep
from offline_marl.launch.sweeps.status import ORDER

if TYPE_CHECKING:
    from offline_marl.launch.sweeps.folder import Merged, Sweep
    from offline_marl.launch.sweeps.plan import Planned
    from offline_marl.launch.sweeps.studies import Study

Executor = Literal["debug", "local", "slurm"]


class CarryFlags(Config):
    """Who carries jobs out."""

    executor: Executor | None = None
    """local (processes of this machine), slurm or debug (this process); without it as the last time, at first local."""
    profile: Path | None = None
    """TOML file of what a job asks for; without it $OFFLINE_MARL_PROFILE, else the user's profile.toml."""
    parallel: Annotated[int, Field(ge=1)] | None = None
    """Jobs at once at most; without it the profile's array_parallelism, and here as many as there are cores."""
    dry_run: bool = False
    """Print the jobs, and for Slurm the scripts; start and write nothing."""


class StartFlags(CarryFlags):
    """Flags of `sweep FILE`."""

    file: CliPositionalArg[Path]
    """Sweep file, or the folder of a sweep to go on with."""
    out: Path | None = None
    """Folder of the sweep; without it sweeps/<name of the file>."""


class FolderFlags(Config):
    """Flags of commands that take the sweep's folder alone."""

    dir: CliPositionalArg[Path]
    """Folder of the sweep."""


class StatusFlags(FolderFlags):
    """Flags of `sweep status`."""

    # A field called json would hide a method of pydantic's models.
    as_json: Annotated[bool, Field(validation_alias="json")] = False
    """Print JSON for machines."""


class RetryFlags(CarryFlags, FolderFlags):
    """Flags of `sweep retry`."""


class CollectFlags(FolderFlags):
    """Flags of `sweep collect`."""

    out: Path | None = None
    """CSV file; without it table.csv in the sweep's folder."""


class BestFlags(CarryFlags, FolderFlags):
    """Flags of `sweep best`."""

    metric: str = "normalized_return"
    """What chooses: return, normalized_return, return_low, normalized_low or agreement; more is better."""
    seeds: tuple[int, ...] = ()
    """New seeds for the chosen settings, such as 10,11,12; without them the choice is shown and nothing is started."""
    out: Path | None = None
    """Folder of the new sweep; without it <DIR>-best."""


def run(args: Sequence[str]) -> None:
    """Do what the words behind `sweep` say.

    Raises:
        BadInputError: Of a kind that says what is wrong.
        WorkError: Jobs failed.
    """
    if args and args[0] not in COMMANDS and not args[0].startswith("-"):
        return _start(args)
    choose("sweep ", {**COMMANDS, **({} if args[:1] and args[0] not in {"-h", "--help"} else START)}, args)


def _start(args: Sequence[str]) -> None:
    about = "Runs every job of a sweep file that is not over; typed again it goes on. docs/sweeps.md has an example."
    flags: StartFlags = build(StartFlags, read(StartFlags, "sweep", "FILE [--out DIR]", about, args))

    from offline_marl.launch.sweeps.folder import Merged, Sweep, merge
    from offline_marl.launch.sweeps.studies import besides, merge_studies, plan_studies

    if flags.file.is_dir():
        if flags.out is not None:
            raise ConfigError(f"--out is for a sweep file: {flags.file} is the folder of a sweep already.")
        sweep = Sweep(flags.file)
        manifest = sweep.manifest()
        merged = Merged(list(manifest.jobs), besides(manifest.jobs, manifest.studies), [])
        return _launch(sweep, merged, flags, manifest.source, manifest.studies)

    from offline_marl.launch.sweeps.file import read_sweep_file
    from offline_marl.launch.sweeps.plan import plan

    said, source = read_sweep_file(flags.file), str(flags.file)
    asked, studies = plan(said), plan_studies(said)
    sweep = Sweep(flags.out or Path("sweeps") / flags.file.stem)
    merged = merge(sweep.held(), asked, source)
    held = sweep.manifest().studies if sweep.file.exists() else ()
    _launch(sweep, merged, flags, source, merge_studies(held, studies, merged.moved, source))


def _retry(args: Sequence[str]) -> None:
    about = "Starts again what failed, and what waits for it; each goes on from its newest checkpoint."
    flags: RetryFlags = build(RetryFlags, read(RetryFlags, "sweep retry", "DIR", about, args))

    from offline_marl.launch.jobs.states import states_of
    from offline_marl.launch.sweeps.folder import Merged, Sweep

    sweep = Sweep(flags.dir)
    every = list(sweep.manifest().jobs)
    states = states_of([sweep.folder(job) for job in every])
    failed = {job.folder for job, state in zip(every, states, strict=True) if state.state == "failed"}
    if not failed:
        print(f"nothing in {sweep.path} has failed")
        return
    # Runs that were held back because their world model failed come with it.
    named = [job for job in every if job.folder in failed or job.model in failed]
    fits = [job for job in every if job.command == "fit-model" and job not in named]
    _launch(sweep, Merged(every, [*fits, *named], []), flags, sweep.manifest().source, again=True)


def _best(args: Sequence[str]) -> None:
    about = "Chooses settings by a metric over the sweep's seeds, and trains them on new seeds, marked as tuned."
    usage = "DIR --metric NAME --seeds 10,11,12"
    flags: BestFlags = build(BestFlags, read(BestFlags, "sweep best", usage, about, args))

    from offline_marl.launch.sweeps.folder import Sweep, merge
    from offline_marl.launch.sweeps.tuning import best

    old = Sweep(flags.dir)
    chosen = best.choose(old, flags.metric)
    print("\n".join(best.as_lines(chosen, flags.metric)))
    if not flags.seeds:
        return
    sweep = Sweep(flags.out or old.path.with_name(f"{old.path.name}-best"))
    asked, held = best.retrain(old, chosen, flags.metric, flags.seeds), sweep.held()
    best.refuse_other_choice(held, asked, sweep)
    source = f"the best of {old.path}"
    _launch(sweep, merge(held, asked, source), flags, source)


def _launch(
    sweep: Sweep,
    merged: Merged,
    flags: CarryFlags,
    source: str,
    studies: Sequence[Study] = (),
    again: bool = False,
) -> None:
    """Remember the jobs, start those that are to be started, say what came of it.

    Raises:
        Stopped: Some of them failed.
    """
    from offline_marl.launch.sweeps.launch import how_of, launch
    from offline_marl.launch.sweeps.preview import show
    from offline_marl.launch.sweeps.tuning.optuna_study import refuse_missing
    from offline_marl.launch.sweeps.tuning.progress import standing
    from offline_marl.launch.sweeps.tuning.tune import tune

    if studies:
        refuse_missing()
    before = sweep.manifest() if sweep.file.exists() else None
    executor: Executor = flags.executor or ("local" if before is None else before.executor)
    profile = flags.profile or (None if before is None or before.profile is None else Path(before.profile))
    how = how_of(executor, profile, flags.parallel)
    if flags.dry_run:
        return show(sweep, merged, how, studies)
    with _terminated_like_interrupted(), sweep.locked():
        sweep.remember(source, executor, profile, merged.every, studies)
        added = f", {len(merged.new)} of them new" if before is not None and merged.new else ""
        print(f"{len(merged.every)} jobs{added}, in {sweep.path}", file=sys.stderr)
        said, blamed = (
            tune(sweep, merged.named, studies, how)
            if studies
            else (launch(sweep, merged.named, how, again), merged.named)
        )
    place = shlex.quote(str(sweep.path))
    print(f"{len(said.started)} started; before: {said.done} done, {said.live} under way, {said.failed} failed")
    for study in studies:
        print(standing(sweep, sweep.manifest().jobs, study))
    print(f"{'status':<12}{PROGRAM} sweep status {place}")
    print(f"{'table':<12}{PROGRAM} sweep collect {place}")
    _refuse_failed(sweep, blamed, said.held)


def _refuse_failed(sweep: Sweep, jobs: Sequence[Planned], held: Sequence[str]) -> None:
    from offline_marl.launch.jobs.states import states_of

    states = states_of([sweep.folder(job) for job in jobs])
    failed, stopped = ([state for state in states if state.state == name] for name in ("failed", "stopped"))
    place = shlex.quote(str(sweep.path))
    if failed or held:
        waiting = f", {len(held)} wait for a world model that failed" if held else ""
        first = f", the first ({failed[0].folder.name}): {failed[0].why.rstrip('.')}" if failed else ""
        line = f"error: {len(failed)} of {len(jobs)} jobs failed{waiting}{first}: `{PROGRAM} sweep retry {place}`"
        raise Stopped(FAILED, line)
    if stopped:
        line = f"{len(stopped)} of {len(jobs)} jobs were told to stop: `{PROGRAM} sweep {place}` goes on with them"
        raise Stopped(FAILED, line)


def _status(args: Sequence[str]) -> None:
    about = "Waiting, running, stopped, done, failed and why, requeued how often, steps a second, time left."
    flags: StatusFlags = build(StatusFlags, read(StatusFlags, "sweep status", "DIR [--json]", about, args))

    from offline_marl.launch.sweeps.folder import Sweep
    from offline_marl.launch.sweeps.status import stand

    said = stand(Sweep(flags.dir))
    print(json.dumps(said, indent=2) if flags.as_json else "\n".join(as_lines(said)))


def _cancel(args: Sequence[str]) -> None:
    about = "Ends what waits and what runs; runs save first, and `sweep DIR` goes on with them."
    flags: FolderFlags = build(FolderFlags, read(FolderFlags, "sweep cancel", "DIR", about, args))

    from offline_marl.launch.sweeps.cancel import cancel
    from offline_marl.launch.sweeps.folder import Sweep

    print(cancel(Sweep(flags.dir)))


def _collect(args: Sequence[str]) -> None:
    about = "One table of every finished run: what was varied, seeds, returns with intervals, where they came from."
    flags: CollectFlags = build(CollectFlags, read(CollectFlags, "sweep collect", "DIR [--out FILE.csv]", about, args))

    from offline_marl.launch.sweeps.folder import Sweep
    from offline_marl.launch.sweeps.table import collect

    sweep = Sweep(flags.dir)
    out = flags.out or sweep.path / "table.csv"
    finished, runs = collect(sweep, out)
    print(f"{finished} of {runs} runs have finished")
    print(f"{'table':<12}{out}")


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the launcher as Ctrl-C does, so that the processes that it started are told to save."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


START = {"FILE": Command("[--out DIR] ...", "run what a sweep file asks for, or go on with a sweep's DIR", _start)}
COMMANDS = {
    "status": Command("DIR [--json]", "where every job stands, and why some failed", _status),
    "retry": Command("DIR", "start again what failed, and nothing else", _retry),
    "cancel": Command("DIR", "end what waits and what runs", _cancel),
    "collect": Command("DIR [--out FILE.csv]", "one table of all finished runs", _collect),
    "best": Command("DIR --metric NAME --seeds ...", "choose settings, train them on new seeds", _best),
}


def as_lines(said: dict[str, Any]) -> list[str]:
    """Counts, a line for each job that is not done, and the last words of those that failed."""
    counts = ", ".join(f"{said[name]} {name}" for name in reversed(ORDER) if said[name]) or "none yet"
    lines = [f"{said['sweep']}: {said['jobs']} jobs: {counts}; requeued {said['requeues']} times"]
    lines += [each["line"] for each in said["studies"]]
    if said["steps_per_s"] is not None:
        left = "" if said["left_s"] is None else f", about {duration(said['left_s'])} left"
        lines.append(f"{said['steps_per_s']:,.1f} steps/s together{left}")
    rows = [each for name in ORDER[:-1] for each in said["each"] if each["state"] == name]
    if rows:
        lines += table([("job", "state", "step", "steps/s", "left", "requeues", "why"), *map(_row, rows)])
    for each in rows:
        if each["log"]:
            lines += [f"last lines of {each['job']}", *(f"  {line}" for line in each["log"])]
    return lines


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    step = f"{each['step']:,}" + ("" if each["steps"] is None else f"/{each['steps']:,}")
    rate = "" if each["steps_per_s"] is None or each["state"] != "running" else f"{each['steps_per_s']:,.1f}"
    left = "" if each["left_s"] is None else duration(each["left_s"])
    return Path(each["job"]).name, each["state"], step, rate, left, str(each["requeues"]), each["why"]
