"""`collect`: episodes of experts, runs and chance, by shares, into one file that says who acted in which.

Chunks are kept beside the file until it is whole: a collection that was killed goes on where it stood, and its file is
equal bit for bit to that of one that was not, whatever the number of copies.
"""

from __future__ import annotations

import fcntl
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offline_marl.core.config import ConfigError
from offline_marl.core.seeding import derive
from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset, Recording, join
from offline_marl.datasets.catalog import CATALOG, SUFFIX
from offline_marl.datasets.files import load_data, save_data
from offline_marl.environments.base import Environment, Seen, environments
from offline_marl.environments.pettingzoo import environment_of
from offline_marl.training.actors import Actor, find_actor
from offline_marl.training.collect import Tape
from offline_marl.training.config import CollectConfig
from offline_marl.training.folder import write_json
from offline_marl.training.progress import progress_bar
from offline_marl.training.stage import Stage

CHUNK = 64
"""Episodes of a chunk."""


def collect(config: CollectConfig) -> Path:
    """Record what `config` says; goes on where an earlier call with the same settings was stopped.

    Returns:
        The file.

    Raises:
        ConfigError: A setting contradicts another one.
        DataError: The file exists, or beside it lie chunks of another collection.
        RegistryError: The environment or an expert is unknown.
        RunFolderError: A run cannot be read.
    """
    out = Path(config.out)
    if out.suffix != SUFFIX:
        raise ConfigError(f"--out {out} should end in {SUFFIX}.")
    if out.exists():
        raise DataError(f"{out} exists already: choose another --out.")
    torch.set_num_threads(1)  # more could change the last digit of what runs do
    kind = _environment(config)
    stage = Stage(config.environment, kind, min(config.copies, CHUNK, config.episodes))
    try:
        named = _shares(config.who or kind.experts or ("random",))
        actors = [find_actor(name, stage) for name in named]
        counts = _counts(list(named.values()), config.episodes)
        recipe = _recipe(config, stage, actors, counts)
        parts = out.with_name(f"{out.name}.parts")
        parts.mkdir(parents=True, exist_ok=True)
        with (parts / "lock").open("w") as lock:
            _hold(lock, parts)
            _keep_recipe(parts / "recipe.json", recipe)
            data = _record(config, stage, actors, recipe, parts)
            save_data(out, replace(data, metadata=_described(config, recipe, out)).check())
        shutil.rmtree(parts)
    finally:
        stage.close()
    return out


def _environment(config: CollectConfig) -> type[Environment]:
    name = config.environment
    if name in environments.names() or not (":" in name or "." in name):
        if config.settings or config.max_steps:
            raise ConfigError("--settings and --max-steps are for an environment by its import path.")
        return environments.get(name)
    return environment_of(name, config.settings, config.max_steps)


def _shares(who: Sequence[str]) -> dict[str, float]:
    named: dict[str, float] = {}
    for each in who:
        name, equals, share = each.rpartition("=")
        name, share = (name, share) if equals else (each, "1")
        try:
            weight = float(share)
        except ValueError:
            raise ConfigError(f"The share '{share}' of {name} is no number.") from None
        if not weight > 0 or not math.isfinite(weight):
            raise ConfigError(f"The share of {name} is {share}: it should be above 0.")
        if name in named:
            raise ConfigError(f"{name} is named twice in --who.")
        named[name] = weight
    return named


def _counts(shares: Sequence[float], episodes: int) -> list[int]:
    """Whole episodes closest to the shares: the largest remainders are rounded up."""
    exact = [episodes * share / sum(shares) for share in shares]
    counts = [math.floor(value) for value in exact]
    order = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: episodes - sum(counts)]:
        counts[i] += 1
    return counts


def _recipe(config: CollectConfig, stage: Stage, actors: Sequence[Actor], counts: Sequence[int]) -> dict[str, Any]:
    said = [{**actor.about(), "episodes": count} for actor, count in zip(actors, counts, strict=True)]
    versions = {**stage.versions, "offline-marl": metadata.version("offline-marl")}
    if any(each["kind"] == "run" for each in said):
        versions["torch"] = torch.__version__
    plain = config.model_dump(mode="json", include={"environment", "settings", "max_steps", "noise", "seed"})
    recipe: dict[str, Any] = json.loads(json.dumps({**plain, "actors": said, "versions": versions}))
    return recipe


def _hold(lock: Any, parts: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"Another process is collecting into {parts}.") from None


def _keep_recipe(path: Path, recipe: Mapping[str, Any]) -> None:
    if not path.exists():
        write_json(path, recipe)
        return
    try:
        then = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        then = {}
    changed = [name for name in recipe if not isinstance(then, dict) or then.get(name) != recipe[name]]
    if changed:
        raise DataError(
            f"{path.parent} holds chunks of another collection (other {' and '.join(changed)}): "
            "delete it, or choose another --out."
        )


def _record(
    config: CollectConfig, stage: Stage, actors: Sequence[Actor], recipe: Mapping[str, Any], parts: Path
) -> Recording | Dataset:
    who, seeds, levels = _who(recipe), _seeds(config), _levels(recipe)
    found: list[Any] = []
    with progress_bar(config.episodes, f"collecting {config.environment}", "episode") as bar:
        for first in range(0, config.episodes, CHUNK):
            path = parts / f"{first:09d}{SUFFIX}"
            part = _kept(path)
            numbers = range(first, min(first + CHUNK, config.episodes))
            if part is None:
                rounds = [numbers[i : i + stage.copies] for i in range(0, len(numbers), stage.copies)]
                part = join([_together(stage, actors, each, who, seeds, levels) for each in rounds], {})
                save_data(path, part)
            found.append(replace(part, metadata={}))
            bar.update(len(numbers))
    whole: Recording | Dataset = join(found, {})
    return whole


def _kept(path: Path) -> Any:
    try:
        return load_data(path) if path.exists() else None
    except DataError:
        return None  # recorded again


def _together(
    stage: Stage,
    actors: Sequence[Actor],
    numbers: Sequence[int],
    who: Sequence[int],
    seeds: Sequence[int],
    levels: Sequence[float],
) -> Any:
    own = {a: np.array([i for i, n in enumerate(numbers) if who[n] == a]) for a in sorted({who[n] for n in numbers})}
    acts = {
        a: actors[a].begin([numbers[i] for i in rows], [seeds[numbers[i]] for i in rows]) for a, rows in own.items()
    }
    shaken = {
        a: stage.disturb([seeds[numbers[i]] for i in rows], [levels[numbers[i]] for i in rows])
        for a, rows in own.items()
        if actors[a].shaken
    }
    seen = stage.reset([seeds[number] for number in numbers])
    tape = Tape(len(numbers), **stage.shown(seen))
    while tape.running[-1].any():
        step, chosen = len(tape.done), list[tuple[Any, Any]]()
        for a, rows in own.items():
            view = Seen(seen.obs[rows], _rows(seen.state, rows), _rows(seen.avail_actions, rows))
            actions = acts[a](view, step)
            chosen.append((rows, shaken[a](actions, view, step) if a in shaken else actions))
        whole = np.zeros((len(numbers), *chosen[0][1].shape[1:]), chosen[0][1].dtype)
        for rows, actions in chosen:
            whole[rows] = actions
        seen, done, ended = stage.step(whole)
        tape.add(done, ended, **stage.shown(seen))
    return stage.recorded(tape.unwound())


def _rows(shown: Any, rows: Any) -> Any:
    return None if shown is None else shown[rows]


def _who(recipe: Mapping[str, Any]) -> list[int]:
    """The actor of each episode, shuffled, so that the first episodes are a mixture too."""
    counts = [actor["episodes"] for actor in recipe["actors"]]
    shuffled = np.random.default_rng(derive(recipe["seed"], "who")).permutation(
        np.repeat(np.arange(len(counts)), counts)
    )
    return [int(actor) for actor in shuffled]


def _seeds(config: CollectConfig) -> list[int]:
    seeds: dict[int, None] = {}
    number = 0
    while len(seeds) < config.episodes:
        seeds[derive(config.seed, "collect", number) % 2**31] = None
        number += 1
    return list(seeds)


def _levels(recipe: Mapping[str, Any]) -> list[float]:
    """The noise of each episode; chance has none."""
    who = _who(recipe)
    draws = np.random.default_rng(derive(recipe["seed"], "levels")).choice(recipe["noise"] or [0.0], len(who))
    chance = [actor["kind"] == "random" for actor in recipe["actors"]]
    return [0.0 if chance[actor] else float(level) for level, actor in zip(draws, who, strict=True)]


def _described(config: CollectConfig, recipe: Mapping[str, Any], out: Path) -> dict[str, Any]:
    known = [entry.reference for entry in CATALOG.values() if entry.scenario == config.environment]
    reference = {"reference": vars(known[0])} if known else {}
    said = ", ".join(f"{actor['episodes']} of {actor['name']}" for actor in recipe["actors"])
    return {
        "name": out.stem,
        "scenario": config.environment,
        "how": f"collected episodes: {said}, shuffled",
        "actors": recipe["actors"],
        "who": _who(recipe),
        "action_noise": list(config.noise),
        "noise_levels": _levels(recipe),
        "seed": config.seed,
        "settings": dict(config.settings),
        "versions": recipe["versions"],
        **reference,
    }
