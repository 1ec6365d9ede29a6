"""The assignment of behaviours, seeds and noise levels to the episodes of a collection, drawn from its seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offline_marl.collection.config import CollectConfig
from offline_marl.core.config import ConfigError
from offline_marl.core.names import split_share
from offline_marl.core.seeding import derive

NOBODY = -1
"""The deviator of an episode in which nobody deviates."""
RANDOM = "random"
"""The behaviour of uniform actions; no noise is added to them."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The behaviour, seed, noise level and deviating agent of each episode: one entry per episode, but for names."""

    names: tuple[str, ...]
    """Behaviours, as `find_behaviour` knows them."""
    who: tuple[int, ...]
    """Position in `names`."""
    seeds: tuple[int, ...]
    """Below 2**31."""
    levels: tuple[float, ...]
    """Of the noise."""
    deviators: tuple[int, ...]
    """The agent that follows `deviate` instead, or `NOBODY`."""
    deviate: str | None = None
    """The behaviour that deviators follow."""


def read_shares(given: Sequence[str], flag: str = "--who") -> dict[str, float]:
    """Names and numbers of `NAME=NUMBER`; a name alone has 1.

    Raises:
        ConfigError: A number is none or not above 0, or a name stands twice.
    """
    named: dict[str, float] = {}
    for entry in given:
        name, number = split_share(entry)
        share = "1" if number is None else number
        try:
            weight = float(share)
        except ValueError:
            raise ConfigError(f"The share '{share}' of {name} is no number.") from None
        if not weight > 0 or not math.isfinite(weight):
            raise ConfigError(f"The share of {name} is {share}: it should be above 0.")
        if name in named:
            raise ConfigError(f"{name} is named twice in {flag}.")
        named[name] = weight
    return named


def whole_counts(shares: Sequence[float], episodes: int) -> list[int]:
    """Whole episodes closest to the shares: the largest remainders are rounded up."""
    exact = [episodes * share / sum(shares) for share in shares]
    counts = [math.floor(value) for value in exact]
    order = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: episodes - sum(counts)]:
        counts[i] += 1
    return counts


def make_assignment(config: CollectConfig, shares: dict[str, float], agents: int) -> Assignment:
    """Draw the assignment of a collection.

    Args:
        config: Its settings.
        shares: Weights of the behaviours' names.
        agents: How many there are; counts only where one of them deviates.
    """
    seeds = _seeds(config)
    who = _who(config, whole_counts(list(shares.values()), config.episodes))
    names = tuple(shares)
    deviators = _deviators(config, seeds, agents)
    levels = tuple(_levels(config, names, who, deviators))
    return Assignment(names, tuple(who), tuple(seeds), levels, deviators, config.deviate)


def even_assignment(names: Sequence[str], seeds: Sequence[int]) -> Assignment:
    """Assign every behaviour to the same starts, one after the other, without noise."""
    who = [behaviour for behaviour in range(len(names)) for _ in seeds]
    whole = len(who)
    return Assignment(tuple(names), tuple(who), tuple(seeds) * len(names), (0.0,) * whole, (NOBODY,) * whole)


def _who(config: CollectConfig, counts: Sequence[int]) -> list[int]:
    """Shuffled, so that the first episodes are a mixture too."""
    draw = np.random.default_rng(derive(config.seed, "who"))
    return [int(behaviour) for behaviour in draw.permutation(np.repeat(np.arange(len(counts)), counts))]


def _seeds(config: CollectConfig) -> list[int]:
    seeds: dict[int, None] = {}
    number = 0
    while len(seeds) < config.episodes:
        seeds[derive(config.seed, "collect", number) % 2**31] = None
        number += 1
    return list(seeds)


def _levels(config: CollectConfig, names: Sequence[str], who: Sequence[int], deviators: Sequence[int]) -> list[float]:
    """Of each episode; none where all who act are random."""
    draws = np.random.default_rng(derive(config.seed, "levels")).choice(list(config.noise) or [0.0], len(who))
    noisy = [
        names[behaviour] != RANDOM or (deviator != NOBODY and config.deviate != RANDOM)
        for behaviour, deviator in zip(who, deviators, strict=True)
    ]
    return [float(level) if takes else 0.0 for level, takes in zip(draws, noisy, strict=True)]


def _deviators(config: CollectConfig, seeds: Sequence[int], agents: int) -> tuple[int, ...]:
    """Which episodes is drawn for all at once, so that they are as many as asked for; the agent is each one's own."""
    if config.deviate is None:
        return (NOBODY,) * len(seeds)
    order = np.random.default_rng(derive(config.seed, "deviate")).permutation(len(seeds))
    chosen = set(order[: round(config.deviate_share * len(seeds))].tolist())
    return tuple(derive(s, "deviator") % agents if number in chosen else NOBODY for number, s in enumerate(seeds))
