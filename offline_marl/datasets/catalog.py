"""Names of data sets: where each comes from, what made it, and its reference scores.

The scripted sets are made on this machine on first use; importing this imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from offline_marl.core.config import suggest
from offline_marl.core.errors import BadInputError

SUFFIX = ".safetensors"
"""Ending of files in this library's layout."""


class UnknownDatasetError(BadInputError, LookupError):
    """A name that the catalogue does not hold; the message lists those it does."""


@dataclass(frozen=True)
class Reference:
    """Returns that normalised ones are measured against: 0 is `random`, 100 is `expert`."""

    random: float
    expert: float
    note: str = ""

    def normalized(self, value: float) -> float:
        """100 (x - random) / (expert - random)."""
        return 100.0 * (value - self.random) / (self.expert - self.random)


@dataclass(frozen=True)
class Recipe:
    """How a scripted set is made: whose episodes, how many, how noisy, from which seed."""

    experts: tuple[str, ...]
    episodes: int
    noise: tuple[float, ...]
    """Each episode draws one of these standard deviations for the noise on its actions."""
    seed: int


@dataclass(frozen=True)
class Entry:
    """One name of the catalogue."""

    name: str
    scenario: str
    """Key of the environment that made it and that scores on it are measured in."""
    summary: str
    reference: Reference
    recipe: Recipe


REACHER = Reference(
    random=-11.144625,
    expert=-4.2370844,
    note=(
        "Published for the older Reacher (MOMA-PPO's code, mujoco-py), not measured on Reacher-v5; there, over 500 "
        "episodes, the scripted expert without noise returns -4.77, zero torques -11.8 and uniform torques -43.2."
    ),
)


def _reacher(kind: str, experts: tuple[str, ...], summary: str) -> Entry:
    recipe = Recipe(experts, episodes=2_000, noise=(0.05, 0.15, 0.4), seed=20_231)
    return Entry(f"reacher-scripted-{kind}-v0", "reacher", summary, REACHER, recipe)


CATALOG: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        _reacher("clockwise", ("clockwise",), "one convention: the elbow always bends clockwise"),
        _reacher("counterclockwise", ("counterclockwise",), "the other convention"),
        _reacher("mix", ("clockwise", "counterclockwise"), "half of each: two conventions that do not mix"),
    )
}


def find(name: str) -> Entry:
    """The catalogue's entry of this name.

    Raises:
        UnknownDatasetError: There is none; the message says which there are.
    """
    if name not in CATALOG:
        raise UnknownDatasetError(f"Unknown data set '{name}': {suggest(name, CATALOG)}.")
    return CATALOG[name]


def home() -> Path:
    """Folder of data made or fetched on first use: `OFFLINE_MARL_HOME`, else the platform's cache folder."""
    chosen = os.environ.get("OFFLINE_MARL_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("offline_marl", appauthor=False))


def path_of(name: str) -> Path:
    """Where the set of this name is kept."""
    return home() / "datasets" / f"{name}{SUFFIX}"
