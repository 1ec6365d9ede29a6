"""Tiers of quality: checkpoints of one run, picked by their scores between random play and the best of them."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from offline_marl.collection.assignment import RANDOM
from offline_marl.collection.chunks import holding
from offline_marl.collection.collect import collect
from offline_marl.collection.config import CollectConfig
from offline_marl.collection.references import given_reference, interval, measure
from offline_marl.core.config import ConfigError
from offline_marl.core.files import DamagedFileError
from offline_marl.core.reference import Reference
from offline_marl.core.seeding import derive
from offline_marl.core.types import DataError
from offline_marl.datasets.catalog import SUFFIX
from offline_marl.datasets.files import load_data
from offline_marl.environments.scores import Score
from offline_marl.runs import checkpoint
from offline_marl.runs.folder import RunFolder, RunFolderError

BEST = "best"
"""In place of a fraction: the best checkpoint, whatever it returns."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A checkpoint picked for its score, and the file of its episodes."""

    name: str
    step: int
    score: Score
    fraction: float
    """Of the way from random to expert."""
    path: Path
    """What was recorded of it."""

    def __str__(self) -> str:
        return f"{self.path}: step {self.step}, {self.score.raw}, {self.fraction:.2f} of the way from random to expert"


def collect_tiers(config: CollectConfig) -> list[Tier]:
    """Score all checkpoints of a run, pick one for each tier, record a file of each.

    Goes on where an earlier call with the same settings was stopped.

    Raises:
        ConfigError: A setting contradicts another one.
        DataError: A file exists, or no checkpoint stands where a tier should.
        RunFolderError: The run or a checkpoint cannot be read.
    """
    wanted, out = read_fractions(config.tier_fractions), Path(config.out)
    _refuse(config, out)
    torch.set_num_threads(1)
    run, folder = RunFolder(config.tiers or ""), out.with_name(f"{out.name}.tiers")
    recipe = _recipe(config, run)
    files = {name: out.with_name(f"{out.name}-{name}{SUFFIX}") for name in wanted}
    if not (folder / "recipe.json").exists():
        for path in files.values():
            if path.exists():
                raise DataError(f"{path} exists already: choose another --out.")
    with holding(folder, recipe):
        scores, reference = _scores(config, run, recipe["steps"], folder / "scores")
        tiers = _pick(config, wanted, scores, reference, files)
        for tier in tiers:
            description = _told(tier, wanted[tier.name], run, reference, config)
            if not tier.path.exists():
                collect(_settings_of(tier, config, run), description)
            elif load_data(tier.path).metadata.get("tier") != description["tier"]:
                raise DataError(f"{tier.path} exists already, and is of another tier: choose another --out.")
    shutil.rmtree(folder)
    return tiers


def read_fractions(given: Sequence[str]) -> dict[str, float | None]:
    """Tiers and their fractions, None for the best, of `NAME=FRACTION`.

    Raises:
        ConfigError: A fraction is neither a number nor `best`, a name stands twice or cannot be part of a file's.
    """
    fractions: dict[str, float | None] = {}
    for entry in given:
        name, _, text = entry.rpartition("=")
        if not name or "/" in name or name in fractions:
            raise ConfigError(f"'{entry}' of --tier-fractions should be NAME=FRACTION, each name once: poor=0.25.")
        try:
            fractions[name] = None if text == BEST else float(text)
            if not math.isfinite(fractions[name] or 0.0):
                raise ValueError
        except ValueError:
            raise ConfigError(f"The fraction '{text}' of tier {name} is neither a number nor '{BEST}'.") from None
    if not fractions:
        raise ConfigError("--tier-fractions names no tier: poor=0.25,expert=best.")
    return fractions


def _refuse(config: CollectConfig, out: Path) -> None:
    given_reference(config)
    if config.who:
        raise ConfigError("--tiers says who acts, checkpoints of its run: leave --who away.")
    if out.suffix == SUFFIX:
        raise ConfigError(f"--out of --tiers is how its files' names begin: --out {out.with_suffix('')}.")
    if not config.score_episodes:
        raise ConfigError("--tiers needs --score-episodes above 0: checkpoints are picked by their scores.")


def _recipe(config: CollectConfig, run: RunFolder) -> dict[str, Any]:
    """All that decides scores and what is recorded: the settings, the run and its checkpoints."""
    settings, steps = run.config().model_dump(mode="json"), []
    for step, _ in reversed(checkpoint.found(run.checkpoints)):
        try:
            checkpoint.read(run.checkpoints, step)
            steps.append(step)
        except DamagedFileError as error:
            print(f"warning: {error} It is left out.", file=sys.stderr)
    if not steps:
        raise RunFolderError(f"{run.path} holds no checkpoint that can be read.")
    # Fractions can be changed once the scores are known.
    out = {"out", "workers", "copies", "tiers", "tier_fractions", "tier_tolerance"}
    plain: dict[str, Any] = json.loads(json.dumps(config.model_dump(mode="json", exclude=out)))
    return {**plain, "run": settings, "steps": steps}


def _scores(
    config: CollectConfig, run: RunFolder, steps: Sequence[int], folder: Path
) -> tuple[dict[int, Score], Reference]:
    """Scores by step, and the reference: given, or chance and the best checkpoint."""
    given = given_reference(config)
    names = [*(f"{run.path}@{step}" for step in steps), *(() if given else (RANDOM,))]
    measured = measure(config, names, folder)
    scores = dict(zip(steps, measured, strict=False))
    if given is not None:
        return scores, given
    best, random = _best(scores), measured[-1]
    if scores[best].mean <= random.mean:
        raise DataError(
            f"{run.path} has learned nothing that tiers could be made of: its best checkpoint, step {best}, returns "
            f"{scores[best].mean:.4g}, uniform play {random.mean:.4g}."
        )
    note = (
        f"Measured on the same {len(random.returns)} starts: random is uniform play, 95 % interval [{random.low:.4g}, "
        f"{random.high:.4g}]; expert is step {best} of {run.path.resolve().name}, its best checkpoint, "
        f"[{scores[best].low:.4g}, {scores[best].high:.4g}]."
    )
    return scores, Reference(random.mean, scores[best].mean, note)


def _best(scores: Mapping[int, Score]) -> int:
    return max(scores, key=lambda step: (scores[step].mean, -step))


def _pick(
    config: CollectConfig,
    wanted: Mapping[str, float | None],
    scores: Mapping[int, Score],
    reference: Reference,
    files: Mapping[str, Path],
) -> list[Tier]:
    stand = {step: reference.normalized(score.mean) / 100 for step, score in scores.items()}
    picked = {}
    for name, fraction in wanted.items():
        nearest = _best(scores) if fraction is None else min(stand, key=lambda s: (abs(stand[s] - fraction), s))
        if fraction is not None and abs(stand[nearest] - fraction) > config.tier_tolerance:
            raise DataError(
                f"No checkpoint of {config.tiers} is near enough to tier '{name}', {fraction:g} of the way from random "
                f"({reference.random:.4g}) to expert ({reference.expert:.4g}): the nearest, step {nearest}, stands at "
                f"{stand[nearest]:.2f}; train with a smaller --checkpoint-every and --keep-checkpoints 0, or change "
                "--tier-fractions or --tier-tolerance."
            )
        picked[name] = nearest
    return [Tier(name, step, scores[step], stand[step], files[name]) for name, step in picked.items()]


def _settings_of(tier: Tier, config: CollectConfig, run: RunFolder) -> CollectConfig:
    changed = {
        "who": (f"{run.path}@{tier.step}",),
        "out": tier.path,
        # Of its own, so that no two tiers share their starts.
        "seed": derive(config.seed, "tier", tier.name) % 2**31,
        "tiers": None,
    }
    return config.model_copy(update=changed)


def _told(
    tier: Tier, wanted: float | None, run: RunFolder, reference: Reference, config: CollectConfig
) -> dict[str, Any]:
    description = {
        "name": tier.name,
        "run": run.path.resolve().name,
        "step": tier.step,
        "wanted": BEST if wanted is None else wanted,
        "fraction": tier.fraction,
        **interval(tier.score),
        "seed": config.seed,
    }
    return {"tier": description, "reference": vars(reference)}
