"""Scores of a policy in its task's environment, and what they repeat of the data behind them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from offline_marl.algorithms.base import Algorithm
from offline_marl.core.reference import Reference
from offline_marl.datasets.base import Dataset
from offline_marl.environments.base import JointEnv, MissingSimulatorError
from offline_marl.environments.episodes import Step, Watch, episode_seeds, play
from offline_marl.environments.guarded import Guarded
from offline_marl.environments.scores import Score, summarize
from offline_marl.tasks.data_tasks import ScoredTask, Task
from offline_marl.tasks.environment_tasks import versions_of

MOST_COPIES = 50
"""Copies of a simulator that step side by side in an evaluation."""

Scorer = Callable[[Algorithm, int], Score]


def make_scorer(
    task: ScoredTask,
    seed: int,
    most: int,
    device: torch.device | str,
    workers: int = 1,
    watch: Watch | None = None,
    named: bool = False,
    seconds: float = 0.0,
    name: str | None = None,
) -> Scorer | None:
    """A function that plays episodes in the task's environment; None, with a warning, where there is none.

    It raises `EnvironmentFailedError`, with the environment's `name`, where that dies or takes more than `seconds` over
    a step (0: any).

    Raises:
        MissingSimulatorError: It is not installed here, although the user has `named` it.
    """
    try:
        env = task.make_envs(min(MOST_COPIES, most), workers)
    except MissingSimulatorError as error:
        if named:
            raise
        print(f"warning: no scores: {error}", file=sys.stderr)
        return None
    if env is None:
        print(f"warning: no scores: no environment belongs to {task.id}; {task.hint}.", file=sys.stderr)
        return None

    guarded = Guarded(env, name or task.called, seconds)
    # Whoever watches asks the environment itself for more than a guard passes on.
    told = None if watch is None else partial(_tell, watch, env)
    versions = versions_of(env)
    others = other_versions(None if task.elsewhere else task.about.get("versions"), versions)
    if others:
        print(f"warning: {task.id} was recorded with {'; '.join(others)}: scores may differ.", file=sys.stderr)

    _warn_of_native_actions(task, env, name or task.called)

    def score(learner: Algorithm, episodes: int) -> Score:
        played = play(learner, guarded, episode_seeds(seed, episodes), device, watch=told)
        conventions = None if played.ends is None else task.conventions(played.ends)
        summed = summarize(played.returns, task.reference, conventions)
        return replace(
            summed,
            random_return=task.uniform_return,
            other_versions=others,
            versions=versions,
            environment_steps=learner.environment_steps or None,
        )

    return score


def _tell(watch: Watch, env: JointEnv, guarded: JointEnv, seeds: Sequence[int], step: Step) -> None:
    watch(env, seeds, step)


def other_versions(then: Mapping[str, Any] | None, now: Mapping[str, str]) -> tuple[str, ...] | None:
    """What is not as it was, of all that both name: simulators and the environment's id.

    Returns:
        Such as `("mujoco 3.2.0, now 4.0.0",)`; None where nothing can be compared.
    """
    both = [name for name in now if name in (then or {})]
    if not then or not both:
        return None
    return tuple(f"{name} {then[name]}, now {now[name]}" for name in both if str(then[name]) != now[name])


def describe_data(data: Dataset) -> dict[str, Any]:
    """What scores repeat of the data behind them; what is not known is left out."""
    metadata = data.metadata
    versions = dict(metadata.get("versions") or {})
    entries = {
        "name": metadata.get("name"),
        "sha256": metadata.get("sha256"),
        "env_id": versions.pop("env_id", None) or metadata.get("scenario"),
        "versions": versions or None,
    }
    return {name: value for name, value in entries.items() if value is not None}


def mean_return_of(data: Dataset, reference: Reference | None) -> dict[str, Any]:
    """What the episodes of the data return in the mean, to stand beside scores."""
    mean = float(data.returns().double().mean())
    normalized = None if reference is None else reference.normalized(mean)
    return {"return": mean, "normalized_return": normalized, "episodes": len(data.lengths)}


def _warn_of_native_actions(task: ScoredTask, env: JointEnv, name: str) -> None:
    """Warn of data all of whose actions lie within narrower bounds than [-1, 1] which the environment has.

    They are likely in its own units, and everything that learns from them is scored in others.
    """
    bounds = getattr(env, "action_bounds", ())
    known = {"action_scale", "action_bounds", "versions"} & task.about.keys()
    if not bounds or known or not isinstance(task, Task) or task.data.spec.discrete:
        return
    actions = task.data.actions
    for agent, (low, high) in enumerate(bounds):
        if not ((low >= -1).all() and (high <= 1).all() and ((low > -1) | (high < 1)).any()):
            return
        own = actions[:, agent, : low.size]
        if (own.amin(0).cpu().numpy() < low).any() or (own.amax(0).cpu().numpy() > high).any():
            return
    low, high = bounds[0]
    print(
        f"warning: all actions of {task.id} lie within the bounds that {name} has itself, {low.min():g} and "
        f"{high.max():g}, which -1 and 1 stand for here: if they are in its own units, bring them to [-1, 1] first "
        "(--action-scale divides them).",
        file=sys.stderr,
    )
