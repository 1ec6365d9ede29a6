"""Names of data sets: where each comes from, what made it, and its reference scores.

The scripted sets are made on this machine on first use, published ones are fetched; importing this imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from offline_marl.core.config import suggest
from offline_marl.core.errors import BadInputError
from offline_marl.core.reference import Reference

SUFFIX = ".safetensors"
"""Ending of files in this library's layout."""


class UnknownDatasetError(BadInputError, LookupError):
    """A name that the catalogue does not hold; the message lists those it does."""


@dataclass(frozen=True)
class Recipe:
    """Recipe of a scripted set: whose episodes, how many, how noisy, from which seed."""

    experts: tuple[str, ...]
    episodes: int
    noise: tuple[float, ...]
    """Each episode draws one of these: the standard deviation of the noise on its actions or, where actions are
    choices, the chance that an agent makes any choice instead."""
    seed: int


@dataclass(frozen=True)
class Entry:
    """One name of the catalogue."""

    name: str
    scenario: str
    """Key of the environment that made it and that scores on it are measured in."""
    summary: str
    reference: Reference
    recipe: Recipe | None = None
    """How to make it; None where it is fetched."""
    places: tuple[str, ...] = ()
    """Where a published set may be, asked in turn."""
    licence: str = "Apache-2.0"

    @property
    def size(self) -> str:
        """How much there is, for lists."""
        return "1M transitions" if self.recipe is None else f"{self.recipe.episodes:,} episodes"


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


def _published(kind: str, path: str, summary: str) -> Entry:
    name = f"reacher-{kind}-v0"
    places = (f"hf://pbarde1/moma-ppo/{name}/{path}", f"hf://models/pbarde1/moma-ppo/{name}/{path}")
    return Entry(name, "reacher", summary, REACHER, places=places, licence="see the card of pbarde1/moma-ppo")


_TRAINED = (
    "mujoco_ppo_4/No1_eb3c07e-285dd16_ma-ppo_reacher-dataset-v0_2x1_full_grid_mujoco_ppo_4/experiment1/seed{}/"
    "generated_datasets/eval_seed_10101_n_1000000_ma-ppo_model.pt/dataset.pkl"
)


COORDINATION = Reference(
    random=2 / 3,
    expert=6.0,
    note=(
        "Exact: random is the expected return of uniform choices, 6 steps x 3 conventions x (1/3)^3; expert is the "
        "optimum, agreement at each of the 6 steps."
    ),
)
RENDEZVOUS = Reference(
    random=-0.15916911,
    expert=6.385,
    note=(
        "Exact: random is the expected return of uniform actions (sums of uniform steps have the Irwin-Hall "
        "distribution); expert is the optimum, in closed form, averaged over starts: the scripted experts, who walk at "
        "full speed to the middle of their post, return 6.305 without noise."
    ),
)


def _coordination(kind: str, experts: tuple[str, ...], summary: str) -> Entry:
    recipe = Recipe(experts, episodes=2_000, noise=(0.1, 0.3), seed=20_231)
    return Entry(f"coordination-{kind}-v0", "coordination", summary, COORDINATION, recipe)


def _rendezvous(kind: str, experts: tuple[str, ...], summary: str) -> Entry:
    recipe = Recipe(experts, episodes=2_000, noise=(0.1, 0.3), seed=20_231)
    return Entry(f"rendezvous-{kind}-v0", "rendezvous", summary, RENDEZVOUS, recipe)


CATALOG: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        _reacher("clockwise", ("clockwise",), "one convention: the elbow always bends clockwise"),
        _reacher("counterclockwise", ("counterclockwise",), "the other convention"),
        _reacher("mix", ("clockwise", "counterclockwise"), "half of each: two conventions that do not mix"),
        _published("expert-C", _TRAINED.format(2), "published: a team of PPO agents, one convention"),
        _published("expert-D", _TRAINED.format(1), "published: another team, the other convention"),
        _published(
            "expert-mix",
            "mix_reacher-expert-C-v0_reacher-expert-D-v0.pt",
            "published: the first half of each of the two",
        ),
        _coordination("single", ("blue",), "three agents always choose blue of three colours, with slips"),
        _coordination("mix", ("red", "blue"), "half of the episodes all red, half all blue: who differs earns nothing"),
        _rendezvous("left", ("left",), "two agents on a line meet at the left post"),
        _rendezvous("mix", ("left", "right"), "half of each post: who goes to the other one meets nobody"),
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
