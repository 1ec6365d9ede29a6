"""Recordings of scripted experts with noise, and the scripted data sets of the catalogue made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from offline_marl.collection.recordable import Recordable
from offline_marl.core.partition import SCENARIOS
from offline_marl.core.progress import progress_bar
from offline_marl.core.seeding import derive
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.catalog import Entry, Recipe
from offline_marl.datasets.episodes import join
from offline_marl.datasets.files import save_data
from offline_marl.datasets.statistics import reward_kind
from offline_marl.environments.base import JointEnv, ScriptedExpert, Seen, Simulator, TeamActions, environments
from offline_marl.environments.episodes import Memoryless

COPIES = 100
"""Simulators that run side by side when a set of the catalogue is made."""


def record(
    simulator: Simulator,
    expert: ScriptedExpert,
    seeds: Sequence[int],
    noise: Sequence[float],
    bar: tqdm[Any] | None = None,
) -> Recording:
    """Record one episode per seed, with Gaussian noise on the actions.

    Each episode draws the deviation of its noise from `noise`, and all its noise, from its own seed:
    the recording does not depend on how many copies run side by side.

    Args:
        simulator: Runs the episodes.
        expert: Acts on the whole state.
        seeds: One per episode, below 2**31.
        noise: Standard deviations to choose from.
        bar: Advanced by the episodes as they end.
    """
    recording: Recording = _record(Recordable.of_body(simulator), expert, seeds, noise, bar)
    return recording


def record_team(
    env: JointEnv,
    expert: ScriptedExpert,
    seeds: Sequence[int],
    noise: Sequence[float],
    bar: tqdm[Any] | None = None,
) -> Dataset:
    """Record one episode per seed of a task made for a team, as `record` does.

    Where actions are choices, the episode's draw from `noise` is the chance that an agent makes any choice instead.
    """
    data: Dataset = _record(Recordable.of_team(env), expert, seeds, noise, bar)
    return data


def _record(
    task: Recordable, expert: ScriptedExpert, seeds: Sequence[int], noise: Sequence[float], bar: tqdm[Any] | None
) -> Any:
    noisy = _with_slips if task.spec is not None and task.spec.discrete else _with_gaussian_noise
    parts = []
    for first in range(0, len(seeds), task.copies):
        chunk = seeds[first : first + task.copies]
        parts.append(task.record(chunk, noisy(task, expert, chunk, noise)))
        if bar is not None:
            bar.update(len(chunk))
    return join(parts, {})


def make_scripted(entry: Entry, path: Path) -> None:
    """Make a scripted set of the catalogue and write it to `path`, whole or not at all."""
    recipe = _recipe(entry)
    share = recipe.episodes // len(recipe.experts)
    total = share * len(recipe.experts)
    seeds = {name: [derive(recipe.seed, name, number) % 2**31 for number in range(share)] for name in recipe.experts}
    with progress_bar(total, f"making {entry.name}", "episode", leave=False) as bar:
        data, versions = (_bodies if entry.scenario in SCENARIOS else _teams)(entry, seeds, bar)
    metadata_of_set = {
        "name": entry.name,
        "scenario": entry.scenario,
        "how": f"{share} episodes of each scripted expert in turn: {', '.join(recipe.experts)}",
        "action_noise": list(recipe.noise),
        "seed": recipe.seed,
        "versions": {**versions, "offline-marl": metadata.version("offline-marl")},
        "reference": {
            "random": entry.reference.random,
            "expert": entry.reference.expert,
            "note": entry.reference.note,
        },
        "licence": "Apache-2.0",
        **({"reward": reward_kind(data)} if isinstance(data, Dataset) else {}),
    }
    save_data(path, replace(data, metadata=metadata_of_set).check())


def _recipe(entry: Entry) -> Recipe:
    if entry.recipe is None:
        raise ValueError(f"{entry.name} is not made here, it is fetched.")
    return entry.recipe


Seeds = Mapping[str, Sequence[int]]
"""Those of each expert's episodes."""


def _bodies(entry: Entry, seeds: Seeds, bar: tqdm[Any]) -> tuple[Recording, dict[str, str]]:
    environment, noise = environments.get(entry.scenario), _recipe(entry).noise
    simulator = environment.simulator(COPIES)
    try:
        parts = [record(simulator, environment.scripted(name), numbers, noise, bar) for name, numbers in seeds.items()]
        return join(parts, {}), simulator.versions()
    finally:
        simulator.close()


def _teams(entry: Entry, seeds: Seeds, bar: tqdm[Any]) -> tuple[Dataset, dict[str, str]]:
    environment, noise = environments.get(entry.scenario), _recipe(entry).noise
    env = environment.make(None, max(map(len, seeds.values())))
    try:
        parts = [record_team(env, environment.scripted(name), numbers, noise, bar) for name, numbers in seeds.items()]
        return join(parts, {}), {}
    finally:
        env.close()


def _with_gaussian_noise(
    task: Recordable, expert: ScriptedExpert, seeds: Sequence[int], noise: Sequence[float]
) -> Memoryless:
    """The expert's actions plus N(0, level^2) noise; each episode draws its level, and then the noise."""
    gaussian = _gaussian(seeds, noise, (task.max_steps, *task.action_shape))
    if task.spec is not None:
        gaussian = gaussian * task.spec.present("act").numpy()
    return Memoryless(lambda seen, step: np.clip(expert.act(_read(task, seen)) + gaussian[:, step], -1, 1))


def _with_slips(task: Recordable, expert: ScriptedExpert, seeds: Sequence[int], noise: Sequence[float]) -> Memoryless:
    """The expert with slips to any choice; each episode draws when they may come, how likely they are, and whereto."""
    generators = [np.random.default_rng(derive(seed, "noise")) for seed in seeds]
    slips = np.stack([g.random((task.max_steps, task.agents)) < g.choice(noise) for g in generators])
    lots = np.stack([g.random((task.max_steps, *task.action_shape)) for g in generators])

    def act(seen: Seen, step: int) -> TeamActions:
        return np.where(slips[:, step], task.uniform(lots[:, step], seen), expert.act(_read(task, seen)))

    return Memoryless(act)


def _read(task: Recordable, seen: Seen) -> Any:
    return seen.obs if seen.state is None or not task.body else seen.state


def _gaussian(seeds: Sequence[int], noise: Sequence[float], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    generators = [np.random.default_rng(derive(seed, "noise")) for seed in seeds]
    return np.stack([g.choice(noise) * g.standard_normal(shape) for g in generators]).astype(np.float32)
