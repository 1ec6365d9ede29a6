"""Dry runs: what a launch of a sweep would start."""

from __future__ import annotations

from collections.abc import Sequence

from offline_marl.launch.jobs import executors
from offline_marl.launch.sweeps.folder import Merged, Sweep
from offline_marl.launch.sweeps.launch import How, arrays, ready_of
from offline_marl.launch.sweeps.studies import Study
from offline_marl.launch.sweeps.tuning.tune import preview


def show(sweep: Sweep, merged: Merged, how: How, studies: Sequence[Study]) -> None:
    """What a launch would do."""
    trials, more = preview(sweep, merged.every, studies, how) if studies else ([], [])
    named = [*merged.named, *trials]
    ready = ready_of(sweep, named)
    for job in ready:
        print(f"{job.command:<11}{sweep.folder(job)}{'' if job.model is None else f' (after {job.model})'}")
        if job in trials:
            print(f"{'':<11}{', '.join(f'{name} = {job.fields[name]}' for name in job.varied)}")
    added = len(merged.new) + len(more)
    new = f", {added} of them new" if added else ""
    print(f"{len(ready)} of {len(merged.every) + len(more)} jobs to start{new}; nothing was started")
    if studies:
        print("trials after these depend on results")
    if how.executor == "slurm":
        for fits, some in arrays(sweep, named, ready):
            jobs = [sweep.job(job) for job in some]
            after = [f"<id of {fit.folder}>" for fit in fits]
            print(f"\n# an array of {len(jobs)}")
            print(executors.dry_run(jobs, how.profile, sweep.logs, after))
