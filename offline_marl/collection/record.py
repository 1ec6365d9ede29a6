"""A policy in an environment becomes data; the scripted data sets of the catalogue are made here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from offline_marl.collection.recordable import Stage
from offline_marl.core.partition import SCENARIOS
from offline_marl.core.progress import progress_bar
from offline_marl.core.seeding import derive
from offline_marl.datasets.base import Dataset, Recording, join
from offline_marl.datasets.catalog import Entry, Recipe
from offline_marl.datasets.files import save_data
from offline_marl.datasets.statistics import reward_kind
from offline_marl.environments.base import JointEnv, ScriptedExpert, Seen, Simulator, TeamActions, environments

COPIES = 100
Act = Callable[[Seen, int], TeamActions]
"""What the episodes show and the step -> joint actions on a body, actions of all agents in a team."""


def record(
    simulator: Simulator,
    expert: ScriptedExpert,
    seeds: Sequence[int],
    noise: Sequence[float],
    bar: tqdm[Any] | None = None,
) -> Recording:
    """One episode per seed, with Gaussian noise on the actions.

    Each episode draws the deviation of its noise from `noise`, and all its noise, from its own seed:
    the recording does not depend on how many copies run side by side.

    Args:
        simulator: Runs the episodes.
        expert: Acts on the whole state.
        seeds: One per episode, below 2**31.
        noise: Standard deviations to choose from.
        bar: Advanced by the episodes as they end.
    """
    recording: Recording = _record(Stage.of_body(simulator), expert, seeds, noise, bar)
    return recording


def record_team(
    env: JointEnv,
    expert: ScriptedExpert,
    seeds: Sequence[int],
    noise: Sequence[float],
    bar: tqdm[Any] | None = None,
) -> Dataset:
    """One episode per seed of a task made for a team, as `record` does.

    Where actions are choices, the episode's draw from `noise` is the chance that an agent makes any choice instead.
    """
    data: Dataset = _record(Stage.of_team(env), expert, seeds, noise, bar)
    return data


def _record(
    stage: Stage, expert: ScriptedExpert, seeds: Sequence[int], noise: Sequence[float], bar: tqdm[Any] | None
) -> Any:
    disturb = _slips if stage.spec is not None and stage.spec.discrete else _shakes
    parts = []
    for first in range(0, len(seeds), stage.copies):
        chunk = seeds[first : first + stage.copies]
        parts.append(perform(stage, chunk, disturb(stage, expert, chunk, noise)))
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
    described = {
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
    save_data(path, replace(data, metadata=described).check())


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
        parts = [record(simulator, environment.scripted(name), own, noise, bar) for name, own in seeds.items()]
        return join(parts, {}), simulator.versions()
    finally:
        simulator.close()


def _teams(entry: Entry, seeds: Seeds, bar: tqdm[Any]) -> tuple[Dataset, dict[str, str]]:
    environment, noise = environments.get(entry.scenario), _recipe(entry).noise
    env = environment.make(None, max(map(len, seeds.values())))
    try:
        parts = [record_team(env, environment.scripted(name), own, noise, bar) for name, own in seeds.items()]
        return join(parts, {}), {}
    finally:
        env.close()


class Tape:
    """What episodes that run side by side show and do, unwound into one after another."""

    def __init__(self, episodes: int, **shown: Any) -> None:
        self.shown, self.done = [shown], list[dict[str, Any]]()
        self.running = [np.ones(episodes, dtype=bool)]

    def add(self, done: Mapping[str, Any], ended: npt.NDArray[np.bool_], **shown: Any) -> None:
        """What was done in a step, which episodes it ended, and what was shown after it."""
        self.done.append(dict(done))
        self.shown.append(shown)
        self.running.append(self.running[-1] & ~ended)

    def unwound(self) -> dict[str, Any]:
        """The flat tensors of a recording or data set, `lengths` among them."""
        alive = np.stack(self.running[:-1], axis=1)
        seen = np.concatenate([np.ones((len(alive), 1), dtype=bool), alive], axis=1)
        tensors: dict[str, Any] = {"lengths": torch.from_numpy(alive.sum(1))}
        for frames, rows in ((self.shown, seen), (self.done, alive)):
            for name, first in frames[0].items():
                if first is not None:
                    tensors[name] = torch.from_numpy(np.stack([frame[name] for frame in frames], axis=1)[rows])
        return tensors


def perform(stage: Stage, seeds: Sequence[int], act: Act) -> Any:
    """Episodes side by side, one per seed, as a recording or data set."""
    seen = stage.reset(seeds)
    tape = Tape(len(seeds), **stage.shown(seen))
    while tape.running[-1].any():
        seen, done, ended = stage.step(act(seen, len(tape.done)))
        tape.add(done, ended, **stage.shown(seen))
    return stage.recorded(tape.unwound())


def _shakes(stage: Stage, expert: ScriptedExpert, seeds: Sequence[int], noise: Sequence[float]) -> Act:
    """The expert with Gaussian noise; each episode draws its deviation, and then the noise."""
    shaken = _gaussian(seeds, noise, (stage.steps, *stage.wide))
    if stage.spec is not None:
        shaken = shaken * stage.spec.present("act").numpy()
    return lambda seen, step: np.clip(expert.act(_read(stage, seen)) + shaken[:, step], -1, 1)


def _slips(stage: Stage, expert: ScriptedExpert, seeds: Sequence[int], noise: Sequence[float]) -> Act:
    """The expert with slips to any choice; each episode draws when they may come, how likely they are, and whereto."""
    generators = [np.random.default_rng(derive(seed, "noise")) for seed in seeds]
    slips = np.stack([g.random((stage.steps, stage.agents)) < g.choice(noise) for g in generators])
    lots = np.stack([g.random((stage.steps, *stage.wide)) for g in generators])

    def act(seen: Seen, step: int) -> TeamActions:
        return np.where(slips[:, step], stage.uniform(lots[:, step], seen), expert.act(_read(stage, seen)))

    return act


def _read(stage: Stage, seen: Seen) -> Any:
    return seen.obs if seen.state is None or not stage.body else seen.state


def _gaussian(seeds: Sequence[int], noise: Sequence[float], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    generators = [np.random.default_rng(derive(seed, "noise")) for seed in seeds]
    return np.stack([g.choice(noise) * g.standard_normal(shape) for g in generators]).astype(np.float32)
