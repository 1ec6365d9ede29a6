"""Collection of a data set: episodes of experts, runs and uniform actions, by shares, in one file.

Chunks are stored beside the file until it is whole: a collection that was killed goes on where it stood. The file is
equal bit for bit to that of an uninterrupted one, whatever the number of copies and of processes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from offline_marl.collection.assignment import make_assignment, read_shares, whole_counts
from offline_marl.collection.chunks import chunks_of, holding, record_missing
from offline_marl.collection.config import CollectConfig
from offline_marl.collection.recorder import Recorder, RecordingPlan, environment
from offline_marl.collection.references import given_reference, known_reference, measured_reference
from offline_marl.core.config import ConfigError
from offline_marl.core.permissions import ImportPath
from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.catalog import SUFFIX
from offline_marl.datasets.episodes import join
from offline_marl.datasets.files import save_data
from offline_marl.datasets.statistics import reward_kind
from offline_marl.runs.loading import opponents_of, with_actors
from offline_marl.runs.places import resolved_settings

PLAIN = {"environment", "settings", "max_steps", "noise", "seed"}
"""Settings that decide what is recorded, beside behaviours and episodes."""


def collect(config: CollectConfig, known_metadata: Mapping[str, Any] | None = None) -> Path:
    """Record what `config` says; goes on where an earlier call with the same settings was stopped.

    Args:
        config: The settings; those of tiers are not heeded here.
        known_metadata: Metadata that is known beforehand; with a `reference` among it none is measured.

    Returns:
        The file.

    Raises:
        ConfigError: A setting contradicts another one.
        DataError: The file exists, or beside it lie chunks of another collection.
        RegistryError: The environment or an expert is unknown.
        RunFolderError: A run cannot be read.
        WorkerError: A worker died.
    """
    out = Path(config.out)
    _refuse(config, out)
    # Whoever learns from the file finds the runs that acted from any folder.
    config = config.model_copy(update={"settings": resolved_settings(config.settings)})
    torch.set_num_threads(1)  # more could change the last digit of what runs do
    shares = read_shares(config.who or environment(config).experts or ("random",))
    recorder = Recorder(config, list(shares), config.deviate, config.episodes)
    try:
        _refuse_no_chance(config, recorder)
        recipe = _recipe(config, recorder, whole_counts(list(shares.values()), config.episodes))
        assignment, parts = make_assignment(config, shares, recorder.task.agents), out.with_name(f"{out.name}.parts")
        with holding(parts, recipe):
            plan = RecordingPlan(config, assignment, parts, recorder.describe(), recorder.conf)
            chunks = chunks_of(config.episodes)
            record_missing(plan, chunks, recorder, config.workers, f"collecting {config.environment}")
            data: Any = join([replace(plan.whole(numbers), metadata={}) for numbers in chunks], {})
            save_data(out, replace(data, metadata=_described(plan, recipe, data, known_metadata or {})).check())
        shutil.rmtree(parts)
    finally:
        recorder.close()
    return out


def _refuse(config: CollectConfig, out: Path) -> None:
    given_reference(config)
    if out.suffix != SUFFIX:
        raise ConfigError(f"--out {out} should end in {SUFFIX}.")
    if out.exists():
        raise DataError(f"{out} exists already: choose another --out.")
    for name in ("deviate_share", "conf"):
        if config.deviate is None and name in config.model_fields_set:
            raise ConfigError(f"--{name.replace('_', '-')} needs --deviate NAME, whom a deviating agent follows.")


def _refuse_no_chance(config: CollectConfig, recorder: Recorder) -> None:
    spec, most = recorder.task.spec, max(config.noise, default=0.0)
    if spec is not None and spec.discrete and most > 1:
        raise ConfigError(f"--noise {most:g} is the chance of any choice in {config.environment}: from 0 to 1.")


def _recipe(config: CollectConfig, recorder: Recorder, counts: list[int]) -> dict[str, Any]:
    """All that decides what is recorded."""
    behaviours = recorder.describe()
    actors = [{**behaviour, "episodes": count} for behaviour, count in zip(behaviours, counts, strict=False)]
    versions = {**recorder.task.versions, "offline-marl": metadata.version("offline-marl")}
    if any(behaviour["kind"] in ("run", "tier") for behaviour in behaviours):
        versions["torch"] = torch.__version__
    recipe = {**config.model_dump(mode="json", include=PLAIN), "actors": actors, "versions": versions}
    if opponents := opponents_of(with_actors(config.settings, ImportPath)):
        recipe["opponents"] = opponents
    if recorder.deviating is not None:
        recipe["deviate"] = {**behaviours[-1], "share": config.deviate_share, "conf": recorder.conf}
    plain: dict[str, Any] = json.loads(json.dumps(recipe))
    return plain


def _described(
    plan: RecordingPlan, recipe: Mapping[str, Any], data: Recording | Dataset, known_metadata: Mapping[str, Any]
) -> dict[str, Any]:
    config, assignment = plan.config, plan.assignment
    shares = ", ".join(f"{actor['episodes']} of {actor['name']}" for actor in recipe["actors"])
    description: dict[str, Any] = {
        "name": Path(config.out).stem,
        "scenario": config.environment,
        "how": f"collected episodes: {shares}, shuffled",
        "actors": recipe["actors"],
        "who": list(assignment.who),
        "action_noise": list(config.noise),
        "noise_levels": list(assignment.levels),
        "seed": config.seed,
        "seeds": list(assignment.seeds),
        "settings": dict(config.settings),
        **({} if config.max_steps is None else {"max_steps": config.max_steps}),
        "reward": reward_kind(data),
        "versions": recipe["versions"],
    }
    if "opponents" in recipe:
        description["opponents"] = recipe["opponents"]
    if "deviate" in recipe:
        description |= {"deviate": recipe["deviate"], "deviators": list(assignment.deviators)}
        description["how"] += f"; in some of them one agent followed {recipe['deviate']['name']} instead"
    if "reference" not in known_metadata:
        known = known_reference(config)
        actors, scores = recipe["actors"], plan.folder / "random"
        measured = {} if known else measured_reference(config, assignment, data, actors, scores)
        description |= {"reference": vars(known)} if known else measured
    return {**description, **known_metadata}
