"""Settings that ask for more than a machine has, and metadata that ask for a world that nobody can wait for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from arena import WORK, Attack
from worlds import saved, world

HUGE = ("1000000000", "1000000000000000", "9" * 30, "1e400", "nan", "-1")
LISTS = ('["a"]', "[1000000000]", "[1000000000,1000000000]", "[60000,60000]", "[]", "[0]")
SETTINGS: dict[str, tuple[str, ...]] = {
    "hidden": LISTS,
    "batch_size": HUGE,
    "window": HUGE,
    "frame_stack": HUGE,
    "steps": HUGE[2:],
    "eval_episodes": HUGE[2:],
    "threads": HUGE,
    "seed": HUGE[2:],
    "log_every": HUGE[2:],
    "memory": HUGE[3:],
    "gamma": HUGE,
    "lr": HUGE[3:],
}
LEARNERS = ("bc", "iql", "vdn", "omiga")
WORLDS: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "a hundred thousand agents": ("simple-spread", {"N": 100_000}, None),
    "a googol of agents": ("simple-spread", {"N": 10**100}, None),
    "minus one agent": ("simple-spread", {"N": -1}, None),
    "half an agent": ("simple-spread", {"N": 0.5}, None),
    "no number of agents": ("simple-spread", {"N": "many"}, None),
    "a thousand agents": ("simple-spread", {"N": 1_000}, None),
    "many obstacles": ("simple-tag", {"num_obstacles": 10**6}, None),
    "endless episodes": ("simple-spread", {"max_cycles": 10**12}, None),
    "endless episodes by their length": ("simple-spread", {}, 10**12),
    "a nest": ("simple-spread", {"N": [[[[3]]]]}, None),
    "many settings": ("simple-spread", {str(i): i for i in range(5_000)}, None),
    "frames without end": ("reacher", {"frame_skip": 10**9}, None),
    "code": ("os:system", {}, None),
    "an actor that is code": ("simple-tag-prey", {"prey": "os:system"}, None),
    "no such setting": ("simple-spread", {"nothing": 1}, None),
}


def of_world(
    scenario: str, settings: Mapping[str, Any], max_steps: int | None, command: str, folder: Path
) -> list[str]:
    about = {"scenario": scenario, "settings": dict(settings), "max_steps": max_steps}
    data = replace(world("discrete", 4), metadata={name: value for name, value in about.items() if value is not None})
    saved(folder, data, "x.safetensors")
    if command == "info":
        return ["data", "info", "x.safetensors"]
    return ["train", "bc", "--dataset", "x.safetensors", "--steps", "1", "--out", WORK, "--final-episodes", "1"]


def by_flag(scenario: str, settings: Mapping[str, Any], folder: Path) -> list[str]:
    words = ["train", "ma-ppo", "--environment", scenario, "--env-settings", json.dumps(settings)]
    return [*words, "--steps", "1", "--out", WORK]


def of_setting(learner: str, name: str, value: str, folder: Path) -> list[str]:
    saved(folder, world("continuous" if learner == "iql" else "discrete", 4), "x.safetensors")
    words = ["train", learner, "--dataset", "x.safetensors", "--out", WORK, "--final-episodes", "1"]
    steps = [] if name == "steps" else ["--steps", "1"]
    return [*words, *steps, f"--{name.replace('_', '-')}", value]


def attacks(count: int, seed: int = 22) -> Iterator[Attack]:
    """Each world by two commands and by flags, and each value of each setting; some are harmless."""
    for name, (scenario, settings, most) in WORLDS.items():
        for command in ("info", "train"):
            made = partial(of_world, scenario, settings, most, command)
            yield _attack("metadata that ask for a world", f"{name} by {command}", made)
        if most is None and ":" not in scenario:
            yield _attack("settings of a world", name, partial(by_flag, scenario, settings))
    for number, (name, values) in enumerate(SETTINGS.items()):
        for value in values:
            learner = LEARNERS[number % len(LEARNERS)] if name != "window" else "bc"
            yield _attack("absurd settings", f"{learner} {name} = {value}", partial(of_setting, learner, name, value))


def _attack(kind: str, name: str, make: Any) -> Attack:
    return Attack(kind, name, make, may_pass=True, seconds=60.0)
