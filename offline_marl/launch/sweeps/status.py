"""Status of a sweep: counts, rates, studies and the state of each job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from offline_marl.launch.jobs.states import State, states_of
from offline_marl.launch.sweeps.folder import Sweep
from offline_marl.launch.sweeps.tuning.progress import StudyProgress, progress_of_studies
from offline_marl.runs.live import STATE_ORDER


def read_status(sweep: Sweep) -> dict[str, Any]:
    """Read the status of a sweep as plain values."""
    manifest = sweep.manifest()
    jobs = manifest.jobs
    states = states_of([sweep.folder(job) for job in jobs])
    counts: Counter[str] = Counter(state.state for state in states)
    running = [state for state in states if state.state == "running"]
    rates = [state.rate for state in running if state.rate is not None]
    return {
        "sweep": str(sweep.path),
        "jobs": len(jobs),
        **{name: counts[name] for name in STATE_ORDER},
        "requeues": sum(state.requeues for state in states),
        "steps_per_s": round(sum(rates), 1) if rates else None,
        "left_s": _left(states),
        "studies": [_plain_study(progress) for progress in progress_of_studies(sweep, manifest)],
        "each": [_plain(sweep, state) for state in states],
    }


def _left(states: Sequence[State]) -> float | None:
    """Estimate the seconds left if the running jobs share all updates left; None where nothing runs or has a rate."""
    running = [state for state in states if state.state == "running"]
    rates = [state.rate for state in running if state.rate]
    steps = [state.steps for state in states if state.steps is not None]
    if not rates or not steps:
        return None
    mean = sum(steps) / len(steps)
    left = sum((state.steps or mean) - state.step for state in states if state.state in {"running", "waiting"})
    # Those without rows yet are taken to be as fast as the others.
    together = left / (sum(rates) / len(rates) * len(running))
    return round(max(together, max((state.left_s or 0.0) for state in running)), 1)


def _plain(sweep: Sweep, state: State) -> dict[str, Any]:
    return {
        "job": str(state.folder.relative_to(sweep.path)),
        "state": state.state,
        "why": state.why,
        "id": state.id,
        "requeues": state.requeues,
        "step": state.step,
        "steps": state.steps,
        "steps_per_s": None if state.rate is None else round(state.rate, 1),
        "left_s": None if state.left_s is None else round(state.left_s, 1),
        "log": list(state.log) if state.state == "failed" else [],
    }


def _plain_study(progress: StudyProgress) -> dict[str, Any]:
    number, value = (None, None) if progress.best is None else progress.best
    return {
        "algorithm": progress.study.about["algorithm"],
        "task": progress.study.task,
        "over": progress.over,
        "trials": progress.study.asked.trials,
        "failed": progress.failed,
        "best_trial": number,
        "best": value,
        "line": str(progress),
    }
