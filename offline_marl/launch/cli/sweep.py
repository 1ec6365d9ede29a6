"""Command `offline-marl sweep`: runs of one sweep file, with status, retry, cancel, collect and best."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_marl.core.config import ConfigError, build
from offline_marl.core.errors import FAILED
from offline_marl.launch.cli.command import PROGRAM, Command, choose
from offline_marl.launch.cli.failures import Stopped
from offline_marl.launch.cli.flags import read
from offline_marl.launch.cli.sweep_flags import (
    BestFlags,
    CollectFlags,
    ExecutionFlags,
    Executor,
    FolderFlags,
    RetryFlags,
    StartFlags,
    StatusFlags,
)
from offline_marl.launch.cli.terminal import duration
from offline_marl.launch.cli.text import table
from offline_marl.runs.live import STATE_ORDER
from offline_marl.runs.stopping import heeding_the_end

if TYPE_CHECKING:
    from offline_marl.launch.sweeps.folder import MergedJobs, Sweep
    from offline_marl.launch.sweeps.launch import Launched
    from offline_marl.launch.sweeps.plan import Planned
    from offline_marl.launch.sweeps.studies import Study


def run(args: Sequence[str]) -> None:
    """Start a sweep, or run one of the subcommands.

    Raises:
        BadInputError: Of a kind that says what is wrong.
        WorkError: Jobs failed.
    """
    if args and args[0] not in COMMANDS and not args[0].startswith("-"):
        return _start(args)
    choose("sweep ", {**COMMANDS, **({} if args[:1] and args[0] not in {"-h", "--help"} else START)}, args)


def _start(args: Sequence[str]) -> None:
    summary = "Runs every job of a sweep file that is not over; typed again it goes on. docs/sweeps.md has an example."
    flags: StartFlags = build(StartFlags, read(StartFlags, "sweep", "FILE [--out DIR]", summary, args))

    from offline_marl.launch.sweeps.folder import MergedJobs, Sweep, merge
    from offline_marl.launch.sweeps.studies import jobs_outside_studies, merge_studies, plan_studies

    if flags.file.is_dir():
        if flags.out is not None:
            raise ConfigError(f"--out is for a sweep file: {flags.file} is the folder of a sweep already.")
        sweep = Sweep(flags.file)
        manifest = sweep.manifest()
        merged = MergedJobs(list(manifest.jobs), jobs_outside_studies(manifest.jobs, manifest.studies), [])
        return _launch(sweep, merged, flags, manifest.source, manifest.studies)

    from offline_marl.launch.sweeps.file import read_sweep_file
    from offline_marl.launch.sweeps.plan import paths_to_import, plan
    from offline_marl.runs.permissions import remember

    content, source = read_sweep_file(flags.file), str(flags.file)
    asked, studies = plan(content), plan_studies(content)
    sweep = Sweep(flags.out or Path("sweeps") / flags.file.stem)
    merged = merge(sweep.current_jobs(), asked, source)
    former = sweep.manifest().studies if sweep.file.exists() else ()
    if not flags.dry_run:
        remember(sweep.path, paths_to_import(_all_runs(asked, studies)))
    _launch(sweep, merged, flags, source, merge_studies(former, studies, merged.moved, source))


def _retry(args: Sequence[str]) -> None:
    summary = "Starts again what failed, and what waits for it; each goes on from its newest checkpoint."
    flags: RetryFlags = build(RetryFlags, read(RetryFlags, "sweep retry", "DIR", summary, args))

    from offline_marl.launch.jobs.states import states_of
    from offline_marl.launch.sweeps.folder import MergedJobs, Sweep

    sweep = Sweep(flags.dir)
    every = list(sweep.manifest().jobs)
    states = states_of([sweep.folder(job) for job in every])
    failed = {job.folder for job, state in zip(every, states, strict=True) if state.state == "failed"}
    if not failed:
        print(f"nothing in {sweep.path} has failed")
        return
    # Runs that were held back because their world model failed come with it.
    named = [job for job in every if job.folder in failed or job.model in failed]
    fits = [job for job in every if job.fits_model and job not in named]
    _launch(sweep, MergedJobs(every, [*fits, *named], []), flags, sweep.manifest().source, again=True)


def _best(args: Sequence[str]) -> None:
    summary = "Chooses settings by a metric over the sweep's seeds, and trains them on new seeds, marked as tuned."
    usage = "DIR --metric NAME --seeds 10,11,12"
    flags: BestFlags = build(BestFlags, read(BestFlags, "sweep best", usage, summary, args))

    from offline_marl.launch.sweeps.folder import Sweep, merge
    from offline_marl.launch.sweeps.plan import paths_to_import
    from offline_marl.launch.sweeps.tuning import best
    from offline_marl.runs.permissions import remember

    old = Sweep(flags.dir)
    chosen = best.choose(old, flags.metric)
    print("\n".join(best.as_lines(chosen, flags.metric)))
    if not flags.seeds:
        return
    sweep = Sweep(flags.out or old.path.with_name(f"{old.path.name}-best"))
    asked, former = best.retrain(old, chosen, flags.metric, flags.seeds), sweep.current_jobs()
    best.refuse_other_choice(former, asked, sweep)
    if not flags.dry_run:
        _refuse_unnamed(old, old.manifest().jobs, ())
        remember(sweep.path, paths_to_import(asked))
    source = f"the best of {old.path}"
    _launch(sweep, merge(former, asked, source), flags, source)


def _launch(
    sweep: Sweep,
    merged: MergedJobs,
    flags: ExecutionFlags,
    source: str,
    studies: Sequence[Study] = (),
    again: bool = False,
) -> None:
    """Write the manifest, start the jobs, and print the outcome.

    Raises:
        Stopped: Some of them failed.
    """
    from offline_marl.launch.sweeps.launch import launch, resolve_execution
    from offline_marl.launch.sweeps.preview import print_preview
    from offline_marl.launch.sweeps.tuning.optuna_study import refuse_missing
    from offline_marl.launch.sweeps.tuning.tune import tune

    if studies:
        refuse_missing()
    if not flags.dry_run:
        _refuse_unnamed(sweep, merged.every, studies)
    before = sweep.manifest() if sweep.file.exists() else None
    executor: Executor = flags.executor or ("local" if before is None else before.executor)
    profile = flags.profile or (None if before is None or before.profile is None else Path(before.profile))
    address = flags.ray_address
    if address is None and executor == "ray" and before is not None:
        address = before.ray_address
    execution = resolve_execution(executor, profile, flags.parallel, address)
    if flags.dry_run:
        return print_preview(sweep, merged, execution, studies)
    with heeding_the_end(_interrupt), sweep.locked():
        sweep.refuse_outdated(merged.every)
        sweep.write_manifest(source, executor, profile, merged.every, studies, address)
        added = f", {len(merged.new)} of them new" if before is not None and merged.new else ""
        print(f"{len(merged.every)} jobs{added}, in {sweep.path}", file=sys.stderr)
        launched, blamed = (
            tune(sweep, merged.named, studies, execution)
            if studies
            else (launch(sweep, merged.named, execution, again), merged.named)
        )
    _print_launched(sweep, launched, studies)
    _refuse_failed(sweep, blamed, launched.blocked)


def _all_runs(jobs: Sequence[Planned], studies: Sequence[Study]) -> list[Planned]:
    return [*jobs, *(run for study in studies for run in study.runs)]


def _refuse_unnamed(sweep: Sweep, jobs: Sequence[Planned], studies: Sequence[Study]) -> None:
    """Make sure that all code which the jobs import was named by the user, and not by a folder from elsewhere."""
    from offline_marl.launch.sweeps.plan import paths_to_import
    from offline_marl.runs.permissions import permit_of

    permit = permit_of(sweep.path, advice="start the sweep by a file of yours that names it: offline-marl sweep FILE")
    for path in sorted(paths_to_import(_all_runs(jobs, studies))):
        permit(path)


def _print_launched(sweep: Sweep, launched: Launched, studies: Sequence[Study]) -> None:
    from offline_marl.launch.sweeps.tuning.progress import study_progress

    place = shlex.quote(str(sweep.path))
    earlier = f"{launched.done} done, {launched.live} under way, {launched.failed} failed"
    print(f"{len(launched.started)} started; before: {earlier}")
    for study in studies:
        print(study_progress(sweep, sweep.manifest().jobs, study))
    print(f"{'status':<12}{PROGRAM} sweep status {place}")
    print(f"{'table':<12}{PROGRAM} sweep collect {place}")


def _refuse_failed(sweep: Sweep, jobs: Sequence[Planned], blocked: Sequence[str]) -> None:
    from offline_marl.launch.jobs.states import states_of

    states = states_of([sweep.folder(job) for job in jobs])
    failed, stopped = ([state for state in states if state.state == name] for name in ("failed", "stopped"))
    place = shlex.quote(str(sweep.path))
    if failed or blocked:
        waiting = f", {len(blocked)} wait for a world model that failed" if blocked else ""
        first = f", the first ({failed[0].folder.name}): {failed[0].why.rstrip('.')}" if failed else ""
        line = f"error: {len(failed)} of {len(jobs)} jobs failed{waiting}{first}: `{PROGRAM} sweep retry {place}`"
        raise Stopped(FAILED, line)
    if stopped:
        line = f"{len(stopped)} of {len(jobs)} jobs were told to stop: `{PROGRAM} sweep {place}` goes on with them"
        raise Stopped(FAILED, line)


def _status(args: Sequence[str]) -> None:
    summary = "Waiting, running, stopped, done, failed and why, requeued how often, steps a second, time left."
    flags: StatusFlags = build(StatusFlags, read(StatusFlags, "sweep status", "DIR [--json]", summary, args))

    from offline_marl.launch.sweeps.folder import Sweep
    from offline_marl.launch.sweeps.status import read_status

    status = read_status(Sweep(flags.dir))
    print(json.dumps(status, indent=2) if flags.as_json else "\n".join(as_lines(status)))


def _cancel(args: Sequence[str]) -> None:
    summary = "Ends what waits and what runs; runs save first, and `sweep DIR` goes on with them."
    flags: FolderFlags = build(FolderFlags, read(FolderFlags, "sweep cancel", "DIR", summary, args))

    from offline_marl.launch.sweeps.cancel import cancel
    from offline_marl.launch.sweeps.folder import Sweep

    print(cancel(Sweep(flags.dir)))


def _collect(args: Sequence[str]) -> None:
    summary = "One table of every finished run: what was varied, seeds, returns with intervals, where they came from."
    flags: CollectFlags = build(
        CollectFlags, read(CollectFlags, "sweep collect", "DIR [--out FILE.csv]", summary, args)
    )

    from offline_marl.launch.sweeps.folder import Sweep
    from offline_marl.launch.sweeps.table import collect

    sweep = Sweep(flags.dir)
    out = flags.out or sweep.path / "table.csv"
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder: name a file, such as {out / 'table.csv'}.")
    finished, runs = collect(sweep, out)
    print(f"{finished} of {runs} runs have finished")
    print(f"{'table':<12}{out}")


def _interrupt() -> None:
    """Turn the end of the process into KeyboardInterrupt, so that the launcher's clean-up tells its jobs to save."""
    raise KeyboardInterrupt


START = {"FILE": Command("[--out DIR] ...", "run what a sweep file asks for, or go on with a sweep's DIR", _start)}
COMMANDS = {
    "status": Command("DIR [--json]", "where every job stands, and why some failed", _status),
    "retry": Command("DIR", "start again what failed, and nothing else", _retry),
    "cancel": Command("DIR", "end what waits and what runs", _cancel),
    "collect": Command("DIR [--out FILE.csv]", "one table of all finished runs", _collect),
    "best": Command("DIR --metric NAME --seeds ...", "choose settings, train them on new seeds", _best),
}


def as_lines(status: dict[str, Any]) -> list[str]:
    """Format counts, a line for each job that is not done, and the log of those that failed."""
    counts = ", ".join(f"{status[name]} {name}" for name in reversed(STATE_ORDER) if status[name]) or "none yet"
    lines = [f"{status['sweep']}: {status['jobs']} jobs: {counts}; requeued {status['requeues']} times"]
    lines += [job["line"] for job in status["studies"]]
    if status["steps_per_s"] is not None:
        left = "" if status["left_s"] is None else f", about {duration(status['left_s'])} left"
        lines.append(f"{status['steps_per_s']:,.1f} steps/s together{left}")
    rows = [job for name in STATE_ORDER[:-1] for job in status["each"] if job["state"] == name]
    if rows:
        lines += table([("job", "state", "step", "steps/s", "left", "requeues", "why"), *map(_row, rows)])
    for job in rows:
        if job["log"]:
            lines += [f"last lines of {job['job']}", *(f"  {line}" for line in job["log"])]
    return lines


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    step = f"{job['step']:,}" + ("" if job["steps"] is None else f"/{job['steps']:,}")
    rate = "" if job["steps_per_s"] is None or job["state"] != "running" else f"{job['steps_per_s']:,.1f}"
    left = "" if job["left_s"] is None else duration(job["left_s"])
    return Path(job["job"]).name, job["state"], step, rate, left, str(job["requeues"]), job["why"]
