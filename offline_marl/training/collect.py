"""A policy in a simulator becomes a recording; the scripted data sets of the catalogue are made here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from offline_marl.core.seeding import derive
from offline_marl.datasets.base import Recording, join
from offline_marl.datasets.catalog import Entry
from offline_marl.datasets.files import save_data
from offline_marl.environments.base import ScriptedExpert, Simulator, environments
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


def make_scripted(entry: Entry, path: Path) -> None:
    """Make a scripted set of the catalogue and write it to `path`, whole or not at all."""
    recipe = entry.recipe
    environment = environments.get(entry.scenario)
    simulator = environment.simulator(COPIES)
    share = recipe.episodes // len(recipe.experts)
    try:
        total = share * len(recipe.experts)
        with progress_bar(total, f"making {entry.name}", "episode", leave=False) as bar:
            halves = [
                record(
                    simulator,
                    environment.scripted(name),
                    [derive(recipe.seed, name, number) % 2**31 for number in range(share)],
                    recipe.noise,
                    bar,
                )
                for name in recipe.experts
            ]
        versions = simulator.versions()
    finally:
        simulator.close()
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
    }
    save_data(path, join(halves, described).check())


def _record_together(
    simulator: Simulator, expert: ScriptedExpert, seeds: Sequence[int], noise: Sequence[float]
) -> Recording:
    shape = (simulator.max_steps, simulator.action_dim)
    generators = [np.random.default_rng(derive(seed, "noise")) for seed in seeds]
    shaken = np.stack([g.choice(noise) * g.standard_normal(shape) for g in generators], axis=1).astype(np.float32)
    states = [simulator.reset(seeds)]
    steps: list[tuple[Any, ...]] = []
    running = [np.ones(len(seeds), dtype=bool)]
    while running[-1].any():
        actions = np.clip(expert.act(states[-1]) + shaken[len(steps)], -1, 1)
        outcome = simulator.step(actions)
        states.append(outcome.state)
        steps.append((actions, outcome.rewards, outcome.terminations, outcome.truncations))
        running.append(running[-1] & ~(outcome.terminations | outcome.truncations))
    alive = np.stack(running[:-1], axis=1)
    lengths = torch.from_numpy(alive.sum(1))
    seen = np.concatenate([np.ones((len(seeds), 1), dtype=bool), alive], axis=1)
    state = torch.from_numpy(np.stack(states, axis=1)[seen])
    done = (torch.from_numpy(np.stack(column, axis=1)[alive]) for column in zip(*steps, strict=True))
    actions, rewards, terminations, truncations = done
    return Recording(state, actions, rewards, terminations, truncations, lengths)
