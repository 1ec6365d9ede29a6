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

from offline_marl.core.partition import SCENARIOS
from offline_marl.core.seeding import derive
from offline_marl.core.types import Spec
from offline_marl.datasets.base import Dataset, Recording, join
from offline_marl.datasets.catalog import Entry, Recipe
from offline_marl.datasets.files import save_data
from offline_marl.datasets.statistics import reward_kind
from offline_marl.environments.base import JointEnv, ScriptedExpert, Seen, Simulator, TeamActions, environments
from offline_marl.training.progress import progress_bar

COPIES = 100


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
    parts = []
    for first in range(0, len(seeds), simulator.copies):
        chunk = seeds[first : first + simulator.copies]
        parts.append(_record_together(simulator, expert, chunk, noise))
        if bar is not None:
            bar.update(len(chunk))
    return join(parts, {})


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
    parts = []
    for first in range(0, len(seeds), env.copies):
        chunk = seeds[first : first + env.copies]
        parts.append(_record_team_together(env, expert, chunk, noise))
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


def _record_together(
    simulator: Simulator, expert: ScriptedExpert, seeds: Sequence[int], noise: Sequence[float]
) -> Recording:
    shaken = _gaussian(seeds, noise, (simulator.max_steps, simulator.action_dim))
    state = simulator.reset(seeds)
    tape = Tape(len(seeds), state=state)
    while tape.running[-1].any():
        actions = np.clip(expert.act(state) + shaken[:, len(tape.done)], -1, 1)
        outcome = simulator.step(actions)
        state, ends = outcome.state, {"terminations": outcome.terminations, "truncations": outcome.truncations}
        ended = outcome.terminations | outcome.truncations
        tape.add({"actions": actions, "rewards": outcome.rewards, **ends}, ended, state=state)
    return Recording(**tape.unwound())


def _record_team_together(
    env: JointEnv, expert: ScriptedExpert, seeds: Sequence[int], noise: Sequence[float]
) -> Dataset:
    disturb = (_slips if env.spec.discrete else _shakes)(env.spec, env.max_steps, seeds, noise)
    seen = env.reset(seeds)
    tape = Tape(len(seeds), **_shown(seen))
    while tape.running[-1].any():
        actions = disturb(expert.act(seen.obs), seen, len(tape.done))
        seen, rewards, *flags = env.step(actions)
        ends = {
            name: np.repeat(flag[:, None], env.spec.n_agents, axis=1) for name, flag in zip(ENDS, flags, strict=True)
        }
        tape.add({"actions": actions, "rewards": rewards, **ends}, flags[0] | flags[1], **_shown(seen))
    return Dataset(**tape.unwound(), spec=env.spec)


ENDS = ("terminations", "truncations")
Disturb = Callable[[TeamActions, Seen, int], TeamActions]
"""The expert's actions, what was seen and the step -> what is done."""


def _shown(seen: Seen) -> dict[str, Any]:
    return {"obs": seen.obs, "state": seen.state, "avail_actions": seen.avail_actions}


def _shakes(spec: Spec, steps: int, seeds: Sequence[int], noise: Sequence[float]) -> Disturb:
    shaken = _gaussian(seeds, noise, (steps, spec.n_agents, spec.act_dim)) * spec.present("act").numpy()
    return lambda actions, seen, step: np.clip(actions + shaken[:, step], -1, 1)


def _slips(spec: Spec, steps: int, seeds: Sequence[int], noise: Sequence[float]) -> Disturb:
    generators = [np.random.default_rng(derive(seed, "noise")) for seed in seeds]
    slips = np.stack([g.random((steps, spec.n_agents)) < g.choice(noise) for g in generators])
    # The largest of uniform draws over the choices that can be made is any of them.
    lots = np.stack([g.random((steps, spec.n_agents, spec.act_dim)) for g in generators])

    def disturb(actions: TeamActions, seen: Seen, step: int) -> TeamActions:
        can = spec.present("act").numpy() if seen.avail_actions is None else seen.avail_actions
        return np.where(slips[:, step], np.where(can, lots[:, step], -1.0).argmax(-1), actions)

    return disturb


def _gaussian(seeds: Sequence[int], noise: Sequence[float], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    generators = [np.random.default_rng(derive(seed, "noise")) for seed in seeds]
    return np.stack([g.choice(noise) * g.standard_normal(shape) for g in generators]).astype(np.float32)
