"""Preview of a launch: the jobs and Slurm scripts of a dry run."""

from __future__ import annotations

from collections.abc import Sequence

from offline_marl.launch.jobs import executors
from offline_marl.launch.sweeps.folder import MergedJobs, Sweep
from offline_marl.launch.sweeps.launch import Execution, group_into_arrays, jobs_to_start
from offline_marl.launch.sweeps.studies import Study
from offline_marl.launch.sweeps.tuning.tune import preview_round


def print_preview(sweep: Sweep, merged: MergedJobs, execution: Execution, studies: Sequence[Study]) -> None:
    """Print the jobs that a launch would start, and the scripts it would submit."""
    trials, more = preview_round(sweep, merged.every, studies, execution) if studies else ([], [])
    named = [*merged.named, *trials]
    ready = jobs_to_start(sweep, named)
    for job in ready:
        print(f"{job.command:<11}{sweep.folder(job)}{'' if job.model is None else f' (after {job.model})'}")
        if job in trials:
            print(f"{'':<11}{', '.join(f'{name} = {job.fields[name]}' for name in job.varied)}")
    added = len(merged.new) + len(more)
    new = f", {added} of them new" if added else ""
    print(f"{len(ready)} of {len(merged.every) + len(more)} jobs to start{new}; nothing was started")
    if studies:
        print("trials after these depend on results")
    if execution.executor == "slurm":
        for fits, some in group_into_arrays(sweep, named, ready):
            jobs = [sweep.job(job) for job in some]
            after = [f"<id of {fit.folder}>" for fit in fits]
            print(f"\n# an array of {len(jobs)}")
            print(executors.dry_run(jobs, execution.profile, sweep.logs, after))
