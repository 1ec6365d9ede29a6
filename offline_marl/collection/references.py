"""Reference scores where none are known: returns of uniform actions and of the behaviours of a collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.collection.assignment import NOBODY, RANDOM, Assignment, even_assignment
from offline_marl.collection.chunks import chunks_of, record_missing
from offline_marl.collection.config import CollectConfig
from offline_marl.collection.recorder import Recorder, RecordingPlan, returns_of
from offline_marl.core.config import ConfigError
from offline_marl.core.reference import Reference
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.catalog import CATALOG
from offline_marl.environments.episodes import episode_seeds
from offline_marl.environments.scores import Score, summarize


def measure(config: CollectConfig, names: Sequence[str], folder: Path) -> list[Score]:
    """Score behaviours, all on the same starts and without noise; what is measured is stored in the folder.

    Args:
        config: Names the environment, the seed of the starts and how many there are.
        names: The behaviours.
        folder: Chunks of returns are stored here, by position in `names`.
    """
    seeds = episode_seeds(config.seed, config.score_episodes)
    recorder = Recorder(config, names, None, len(seeds))
    try:
        plan = RecordingPlan(config, even_assignment(names, seeds), folder, recorder.describe(), returns_only=True)
        # By behaviour: a start may stand only once among the episodes that run side by side.
        chunks = [chunks_of(len(seeds), place * len(seeds)) for place in range(len(names))]
        folder.mkdir(parents=True, exist_ok=True)
        every = [numbers for ranges in chunks for numbers in ranges]
        record_missing(plan, every, recorder, config.workers, f"scoring in {config.environment}")
    finally:
        recorder.close()
    return [summarize(np.array([value for numbers in ranges for value in plan.stored(numbers)])) for ranges in chunks]


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
    config: CollectConfig,
    assignment: Assignment,
    data: Recording | Dataset,
    actors: Sequence[Mapping[str, Any]],
    folder: Path,
) -> dict[str, Any]:
    """Measure random play, and a reference if a behaviour beat it, for the metadata.

    Args:
        config: Settings of the collection.
        assignment: Which behaviour acted in which episode.
        data: What was collected.
        actors: What the metadata say of the behaviours.
        folder: Where the measured returns are stored.
    """
    if not config.score_episodes:
        return {}
    random = measure(config, [RANDOM], folder)[0]
    measured: dict[str, Any] = {"random_return": random.mean, "random_interval": [random.low, random.high]}
    best = _best_behaviour(assignment, returns_of(data).numpy())
    if best is None or best[1] <= random.mean:
        return measured
    place, mean, count = best
    note = (
        f"Measured: random is the mean of {len(random.returns)} episodes of uniform play, 95 % interval "
        f"[{random.low:.4g}, {random.high:.4g}]. No expert is known: expert is the mean of {actors[place]['name']}, "
        f"the best actor of this collection, over {count} episodes, their noise included."
    )
    return {**measured, "reference": vars(Reference(random.mean, mean, note))}


def _best_behaviour(assignment: Assignment, returns: npt.NDArray[Any]) -> tuple[int, float, int] | None:
    """Place, mean and episodes of the behaviour with the best mean where nobody deviated; random play is none."""
    who, alone = np.array(assignment.who), np.array(assignment.deviators) == NOBODY
    means = []
    for place, name in enumerate(assignment.names):
        scores = returns[(who == place) & alone].astype(np.float64)
        if name != RANDOM and len(scores):
            means.append((float(scores.mean()), -place, len(scores)))
    if not means:
        return None
    mean, position, count = max(means)
    return -position, mean, count
