"""Tasks of runs without data: an environment by its name, and uniform play in it in place of a data set.

Uniform play of the first `UNIFORM_STEPS` steps gives the statistics that standardise observations, and the return of
random play. It is kept in the run folder; the statistics go with every checkpoint, inside the networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from offline_marl.collection.recordable import Recordable, uniform_actions
from offline_marl.core.config import Config, ConfigError, build
from offline_marl.core.fields import CountOrZero
from offline_marl.core.partition import SCENARIOS, Partition, confs, partition
from offline_marl.core.permissions import Permit, names_code
from offline_marl.core.reference import Reference
from offline_marl.core.seeding import derive
from offline_marl.core.small_files import read_table
from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.catalog import CATALOG, SUFFIX
from offline_marl.datasets.episodes import join
from offline_marl.datasets.files import load_data
from offline_marl.datasets.metadata import mistake
from offline_marl.environments.base import Environment, JointEnv, Seen, TeamActions, environments
from offline_marl.environments.best_response import against
from offline_marl.environments.episodes import Memoryless
from offline_marl.environments.guarded import Guarded, build_in_time
from offline_marl.environments.parallel.entry import environment_of
from offline_marl.runs.config import RunConfig, names_actors
from offline_marl.runs.folder import RunFolder, RunFolderError
from offline_marl.runs.loading import load, opponents_of, with_actors
from offline_marl.runs.permissions import permit_of
from offline_marl.runs.pins import version_of
from offline_marl.tasks.data_tasks import Task

UNIFORM = f"uniform{SUFFIX}"
"""Name, inside the run folder, of the uniform play."""
UNIFORM_STEPS = 5_000
"""Steps of it, up to the end of the last episode."""
COPIES = 50
BEST_RESPONSE = "best-response"
"""Name of the task of one agent of a run, whose other agents are frozen."""


class BestResponseSettings(Config):
    """Settings of the environment `best-response`."""

    frozen: str
    """Folder of the run whose agents act."""
    agent: CountOrZero
    """The agent that is free."""
    step: CountOrZero | None = None
    """Of the checkpoint that acts; without it the newest."""


@dataclass(frozen=True, slots=True)
class EnvironmentTask:
    """An environment, the partition of its body among agents, and reference scores."""

    name: str
    kind: type[Environment]
    partition: Partition | None
    reference: Reference | None
    opponents: Mapping[str, str] = field(default_factory=dict)
    """Versions of policies of other runs that act in it, by what they are."""

    def make(self, copies: int) -> JointEnv:
        """The environment in many copies."""
        return build_in_time(lambda: self.kind.make(self.partition, copies), self.name)


def find_environment_task(
    name: str, settings: Mapping[str, Any] | None = None, max_steps: int | None = None, *, permit: Permit
) -> EnvironmentTask:
    """Find the task of an environment's name: `reacher_2x1_full`, `simple-spread`, `package.module:function`.

    Args:
        name: The name.
        settings: What the environment is made with; the path of an actor among them needs permission, too.
        max_steps: Length of its episodes.
        permit: Turns an import path into one that may be imported: `ImportPath` where the user wrote it just now, else
            `permit_of` the folder whose files hold it.

    Raises:
        ForbiddenImportError: A file asks for code that nobody named.
        RegistryError: There is no environment of this name; the answer lists all.
        PartitionError: The conf or the view is unknown.
        DataError: A body comes without conf and view, or it takes no such settings.
    """
    if name == BEST_RESPONSE:
        return _best_response_task(settings or {}, max_steps)
    settings = with_actors(settings or {}, permit)
    opponents = opponents_of(settings)
    if names_code(name):
        return EnvironmentTask(name, environment_of(permit(name), settings, max_steps), None, None, opponents)
    # A task of a family may have underscores that are no conf and no view.
    body, *share = [name] if "/" in name else name.split("_", 2)
    kind = environments.get(body)
    if share and body not in SCENARIOS:
        raise DataError(f"{body} is made for a team: leave _{'_'.join(share)} away.")
    if body in SCENARIOS and len(share) != 2:
        raise ConfigError(
            f"{name} does not say who moves and sees what: --environment BODY_CONF_VIEW, "
            f"such as {body}_{confs(body)[0]}_full."
        )
    shares = partition(body, share[0], share[1]) if share else None
    plain = not settings and max_steps is None
    known = [entry.reference for entry in CATALOG.values() if plain and entry.scenario == body]
    return EnvironmentTask(name, kind.told(settings, max_steps), shares, known[0] if known else None, opponents)


def _best_response_task(settings: Mapping[str, Any], max_steps: int | None) -> EnvironmentTask:
    given: BestResponseSettings = build(BestResponseSettings, dict(settings))
    if max_steps is not None:
        raise ConfigError(f"{BEST_RESPONSE} is as long as the task of its run: leave --max-steps away.")
    folder = RunFolder(given.frozen)
    config, policy = folder.config(), load(given.frozen, given.step)
    opponents = {frozen_policy_of(given.frozen): version_of(policy)}
    if config.environment is not None:
        permit = permit_of(folder.path)
        team = find_environment_task(config.environment, config.env_settings, config.max_steps, permit=permit)
        kind, shares, opponents = team.kind, team.partition, {**team.opponents, **opponents}
    else:
        kind, shares = _recorded_environment(folder)
    return EnvironmentTask(BEST_RESPONSE, against(kind, shares, policy, given.agent), None, None, opponents)


def frozen_policy_of(run: str) -> str:
    """Name under which a run in `best-response` pins the policy of this run folder."""
    return f"frozen policy of the run {run}"


def _recorded_environment(folder: RunFolder) -> tuple[type[Environment], Partition | None]:
    """The environment that a run's data came from, by its `task.json`."""
    try:
        about = read_table(folder.task_file)
        scenario, conf, view = (about.get(name) for name in ("scenario", "conf", "view"))
        settings, most = about.get("settings") or {}, about.get("max_steps")
    except (OSError, ValueError):
        raise RunFolderError(f"{folder.task_file} is missing or damaged: it says where the run's agents act.") from None
    wrong = mistake({"scenario": scenario, "conf": conf, "view": view, "settings": settings, "max_steps": most})
    if wrong is not None:
        raise RunFolderError(f"{folder.task_file} was damaged or edited: {wrong}")
    if not isinstance(scenario, str) or not environments.knows(scenario) or names_actors(settings):
        raise DataError(f"No environment is known in which the agents of {folder.path} act.")
    shares = None if conf is None else partition(scenario, str(conf), str(view))
    return environments.get(scenario).told(settings, most), shares


def open_environment_task(config: RunConfig, folder: Path | None = None, *, permit: Permit) -> Task:
    """Open the task of a run without data.

    Args:
        config: Names an environment.
        folder: Uniform play is read from here if it is here.
        permit: See `find_environment_task`.

    Raises:
        BadInputError: Of a kind that says why there is no such environment, or why it cannot be played.
    """
    task = find_environment_task(str(config.environment), config.env_settings, config.max_steps, permit=permit)
    kept = None if folder is None else folder / UNIFORM
    data = (
        load_data(kept)
        if kept is not None and kept.exists()
        else play_uniformly(task, UNIFORM_STEPS, config.environment_timeout)
    )
    if not isinstance(data, Dataset):
        raise DataError(f"{kept} is not what uniform play leaves: delete it, and it is played again.")
    returned = data.metadata.get("random_return")
    return Task(
        task.name,
        data,
        task.partition,
        task.reference,
        named_environment=task.kind,
        random_return=returned,
        opponents=task.opponents,
        recorded=False,
    )


def play_uniformly(task: EnvironmentTask, steps: int, seconds: float = 0.0) -> Dataset:
    """Record episodes of uniform actions; the same whenever they are played.

    Args:
        task: Where.
        steps: How many at least.
        seconds: Longest time of one step of all copies; 0 for any.

    Raises:
        EnvironmentFailedError: The environment died, or took too long.
    """
    env = Guarded(task.make(COPIES), task.name, seconds)
    try:
        rounds: list[Dataset] = []
        while (played := sum(map(len, rounds))) < steps:
            lacking = -(-(steps - played) // env.max_steps)
            first = sum(len(part.lengths) for part in rounds)
            rounds.append(_play_together(env, range(first, first + min(lacking, COPIES))))
        data = join(rounds, {})
        description = {
            "name": task.name,
            "scenario": task.name.partition("_")[0] if task.partition else task.name,
            "how": f"uniform play of {len(data):,} steps",
            "random_return": float(data.returns().mean()),
            "versions": {**versions_of(env), "offline-marl": metadata.version("offline-marl")},
        }
        return replace(data, metadata=description).check()
    finally:
        env.close()


def versions_of(env: JointEnv) -> dict[str, str]:
    """Versions that an environment tells; none where it is silent, as a plugin's may be."""
    return env.versions() if hasattr(env, "versions") else {}


def _play_together(env: JointEnv, numbers: range) -> Dataset:
    seeds = [derive(0, "uniform", number) % 2**31 for number in numbers]
    draws = [np.random.default_rng(seed) for seed in seeds]

    def act(seen: Seen, step: int) -> TeamActions:
        lots = np.stack([draw.random((env.spec.n_agents, env.spec.act_dim), np.float32) for draw in draws])
        return uniform_actions(env.spec, lots, seen)

    data: Dataset = Recordable.of_team(env).record(seeds, Memoryless(act))
    return data
