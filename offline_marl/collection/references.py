"""Reference scores where none are known: what chance and the actors of a collection return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.collection.assignment import CHANCE, NOBODY, Cast, even_cast
from offline_marl.collection.chunks import chunks_of, record_missing
from offline_marl.collection.config import CollectConfig
from offline_marl.collection.recorder import Crew, Work, returns_of
from offline_marl.core.config import ConfigError
from offline_marl.core.reference import Reference
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.catalog import CATALOG
from offline_marl.environments.episodes import episode_seeds
from offline_marl.environments.scores import Score, summarize


def measure(config: CollectConfig, names: Sequence[str], folder: Path) -> list[Score]:
    """Scores of actors, all on the same starts and without noise; what is measured is kept in the folder.

    Args:
        config: Names the environment, the seed of the starts and how many there are.
        names: The actors.
        folder: Chunks of returns are kept here, by position in `names`.
    """
    seeds = episode_seeds(config.seed, config.score_episodes)
    crew = Crew(config, names, None, len(seeds))
    try:
        work = Work(config, even_cast(names, seeds), folder, crew.about(), returns=True)
        # By actor: a start may stand only once among the episodes that run side by side.
        each = [chunks_of(len(seeds), actor * len(seeds)) for actor in range(len(names))]
        folder.mkdir(parents=True, exist_ok=True)
        every = [numbers for chunks in each for numbers in chunks]
        record_missing(work, every, crew, config.workers, f"scoring in {config.environment}")
    finally:
        crew.close()
    return [summarize(np.array([value for numbers in chunks for value in work.kept(numbers)])) for chunks in each]


def interval(score: Score) -> dict[str, float]:
    """A score for the metadata."""
    return {"return": score.mean, "low": score.low, "high": score.high, "episodes": len(score.returns)}


def given_reference(config: CollectConfig) -> Reference | None:
    """The reference scores that the settings name.

    Raises:
        ConfigError: They name no better expert than chance.
    """
    if config.reference is None:
        return None
    random, expert = config.reference
    if not expert > random:
        raise ConfigError(f"--reference {random:g},{expert:g} should be random,expert, the expert above random play.")
    return Reference(random, expert, "Given when the data was collected.")


def known_reference(config: CollectConfig) -> Reference | None:
    """Reference scores that need no measuring: given, or those of the catalogue's sets of this environment."""
    as_it_is = not config.settings and config.max_steps is None
    known = [entry.reference for entry in CATALOG.values() if as_it_is and entry.scenario == config.environment]
    return given_reference(config) or next(iter(known), None)


def measured_reference(
    config: CollectConfig, cast: Cast, data: Recording | Dataset, actors: Sequence[Mapping[str, Any]], folder: Path
) -> dict[str, Any]:
    """What the metadata say where no reference is known: chance's return, and a reference if somebody beat it.

    Args:
        config: Settings of the collection.
        cast: Who acted.
        data: What was collected.
        actors: What was written down of them.
        folder: Where the measured returns are kept.
    """
    if not config.score_episodes:
        return {}
    random = measure(config, [CHANCE], folder)[0]
    said: dict[str, Any] = {"random_return": random.mean, "random_interval": [random.low, random.high]}
    best = _best_actor(cast, returns_of(data).numpy())
    if best is None or best[1] <= random.mean:
        return said
    actor, mean, count = best
    note = (
        f"Measured: random is the mean of {len(random.returns)} episodes of uniform play, 95 % interval "
        f"[{random.low:.4g}, {random.high:.4g}]. No expert is known: expert is the mean of {actors[actor]['name']}, "
        f"the best actor of this collection, over {count} episodes, their noise included."
    )
    return {**said, "reference": vars(Reference(random.mean, mean, note))}


def _best_actor(cast: Cast, returns: npt.NDArray[Any]) -> tuple[int, float, int] | None:
    """Position, mean and episodes of the actor with the best mean where nobody deviated; chance is none."""
    who, alone = np.array(cast.who), np.array(cast.deviators) == NOBODY
    means = []
    for actor, name in enumerate(cast.names):
        own = returns[(who == actor) & alone].astype(np.float64)
        if name != CHANCE and len(own):
            means.append((float(own.mean()), -actor, len(own)))
    if not means:
        return None
    mean, position, count = max(means)
    return -position, mean, count
