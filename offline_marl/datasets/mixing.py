"""Mixtures: a recipe says which sets, how many episodes of each, and which of them by their returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from offline_marl.core.config import Config
from offline_marl.core.fields import Count, Seed, Share
from offline_marl.core.seeding import derive
from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.episode_index import episode_sums
from offline_marl.datasets.episodes import join_episodes, select_episodes

Load = Callable[[str], Recording | Dataset]


class Part(Config):
    """The share of one set in a mixture."""

    data: str
    """Name of the catalogue, file, folder or place on the hub."""
    episodes: Count | None = None
    """How many, drawn without replacement; all of them unless said."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Instead of `episodes`: this share of those that `returns` admits, one at least."""
    returns: tuple[Share, Share] = (0.0, 1.0)
    """Only episodes whose return lies between these quantiles of the set's returns, both included."""

    @model_validator(mode="after")
    def _one_number(self) -> Part:
        if self.episodes is not None and self.share is not None:
            raise ValueError("A part says 'episodes' or 'share', not both")
        if self.returns[0] > self.returns[1]:
            raise ValueError(f"The quantiles {list(self.returns)} of 'returns' should not fall")
        return self


class MixRecipe(Config):
    """The recipe of a mixture."""

    parts: Annotated[tuple[Part, ...], Field(min_length=1)]
    """The sets, in order."""
    name: str = "mixture"
    """What the mixture is called."""
    seed: Seed = 0
    """Decides which episodes are drawn, and their order."""
    shuffle: bool = True
    """Whether episodes of all parts are shuffled; else the parts follow one another."""


@dataclass(frozen=True)
class Mixture:
    """A mixture, with warnings for its maker."""

    data: Recording | Dataset
    warnings: tuple[str, ...]
    """One sentence each: parts recorded with other versions, or under other licences."""


def mix(recipe: MixRecipe, load: Load, tell: Callable[[str], None] = lambda _: None) -> Mixture:
    """Draw the episodes of every part and put them together.

    Equal recipes of equal sets make equal mixtures, bit for bit.

    Args:
        recipe: See there.
        load: From the name of a set to the set.
        tell: Called with the name of each part once it is drawn.

    Raises:
        DataError: A part has too few episodes, or parts are of different teams, environments or widths.
    """
    drawn, entries, first = list[Any](), list[dict[str, Any]](), None
    for number, part in enumerate(recipe.parts):
        data: Any = load(part.data)
        first = first or (part.data, data)
        _refuse_others(*first, part.data, data)
        chosen = _draw(data, part, number, recipe.seed)
        entries.append(_told(data, part, len(chosen)))
        taken = select_episodes(data, chosen)
        origin = {"origin_parts": [number] * len(chosen), "origin_episodes": chosen.tolist()}
        drawn.append(replace(taken, metadata={**taken.metadata, **origin}))
        tell(part.data)
    metadata, warnings = _described(recipe, entries, [part.metadata for part in drawn])
    joined = join_episodes(drawn, [entry["name"] for entry in entries], metadata)
    if recipe.shuffle:
        order = torch.randperm(len(joined.lengths), generator=_generator(recipe.seed, "order"))
        joined = select_episodes(joined, order)
    return Mixture(joined.check(), warnings)


def _generator(seed: int, *names: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(seed, "mix", *names))


def _refuse_others(first_name: str, first: Any, name: str, data: Any) -> None:
    if type(first) is not type(data):
        body, team = (first_name, name) if isinstance(first, Recording) else (name, first_name)
        raise DataError(f"{body} is of one body and {team} is split among agents: they cannot be mixed.")
    for key in ("scenario", "conf", "view", "settings", "max_steps"):
        # Settings may be none, or an empty table.
        one, other = (dataset.metadata.get(key) or None for dataset in (first, data))
        if one != other:
            raise DataError(f"{first_name} and {name} cannot be mixed: their {key} is {one} and {other}.")
    if isinstance(first, Dataset) and first.spec != data.spec:
        raise DataError(f"{first_name} and {name} cannot be mixed: they are of different teams.")


def _draw(data: Any, part: Part, number: int, seed: int) -> Tensor:
    """The chosen episodes, in the order of the set."""
    returns = data.returns() if isinstance(data, Dataset) else episode_sums(data.rewards, data.lengths)
    low, high = torch.quantile(returns, torch.tensor(part.returns, dtype=returns.dtype), interpolation="nearest")
    fit = ((returns >= low) & (returns <= high)).nonzero().flatten()
    count = len(fit) if part.share is None else max(1, round(part.share * len(fit)))
    count = part.episodes or count
    if count > len(fit):
        asked = "" if part.returns == (0.0, 1.0) else f" between the quantiles {list(part.returns)} of its returns"
        raise DataError(f"{part.data} has {len(fit)} episodes{asked}, the recipe asks for {count}.")
    lots = torch.randperm(len(fit), generator=_generator(seed, "part", number))
    chosen: Tensor = fit[lots[:count].sort().values]
    return chosen


def _told(data: Any, part: Part, episodes: int) -> dict[str, Any]:
    """What the mixture remembers of a part; of a file its name alone, nobody needs its folder."""
    metadata = data.metadata
    name, licence, versions = (metadata.get(key) for key in ("name", "licence", "versions"))
    named = part.data if "://" in part.data else Path(part.data).name
    return {
        "name": name if isinstance(name, str) else named,
        "data": named,
        "episodes": episodes,
        "of": len(data.lengths),
        "returns": list(part.returns),
        "sha256": metadata.get("sha256"),
        "licence": licence if isinstance(licence, str) else None,
        "versions": {str(package): str(version) for package, version in versions.items()}
        if isinstance(versions, Mapping)
        else None,
    }


KEPT = (
    "scenario",
    "conf",
    "view",
    "settings",
    "max_steps",
    "reference",
    "reward",
    "deviate",
    "episodes_end",
    "action_noise",
    "format",
)
"""Metadata that the mixture has where all parts say the same."""


def _described(
    recipe: MixRecipe, entries: Sequence[Mapping[str, Any]], abouts: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    plain = recipe.model_dump(mode="json")
    for part, known in zip(plain["parts"], entries, strict=True):
        part["data"] = known["data"]
    shares = ", ".join(f"{part['episodes']} of {part['name']}" for part in entries)
    first = abouts[0]
    same = {
        key: first[key] for key in KEPT if key in first and all(metadata.get(key) == first[key] for metadata in abouts)
    }
    licences = list(dict.fromkeys(part["licence"] for part in entries))
    description = {
        "name": recipe.name,
        **same,
        "how": f"a mixture of episodes: {shares}{', shuffled' if recipe.shuffle else ''}",
        "seed": recipe.seed,
        "recipe": plain,
        "parts": list(entries),
    }
    warnings = []
    if None not in licences:
        description["licence"] = " AND ".join(licences)
    if len(licences) > 1:
        listed = ", ".join(licence or "unknown" for licence in licences)
        warnings.append(f"The parts have different licences ({listed}): the mixture is under all of them.")
    if "reference" not in same and any("reference" in metadata for metadata in abouts):
        warnings.append("The parts have different reference scores: the mixture has none.")
    versions, differing = _versions([part["versions"] or {} for part in entries])
    if versions:
        description["versions"] = versions
    for package in differing:
        warnings.append(f"The parts were recorded with different versions of {package}: {versions[package]}.")
    return description, tuple(warnings)


def _versions(given: Sequence[Mapping[str, str]]) -> tuple[dict[str, str], list[str]]:
    """The versions of every package in any part, and the packages of which there is more than one."""
    every = {
        name: list(dict.fromkeys(versions.get(name, "unknown") for versions in given))
        for versions in given
        for name in versions
    }
    differing = [name for name, versions in every.items() if len(versions) > 1]
    return {name: ", ".join(versions) for name, versions in every.items()}, differing
