"""Particle worlds of MPE (the package mpe2): five tasks, and one of their hunters alone (see `prey.py`).

Each with choices and with continuous actions.

Continuous actions are those of mpe2, one number each for standing still, left, right, down and up (and for what is
said), stretched from [-1, 1] to its [0, 1]: data of older forks, with a force of two numbers, does not fit.
"""

from __future__ import annotations

from typing import Any

from offline_marl.environments.base import environments
from offline_marl.environments.pettingzoo import environment_of

STEPS = 25
MODULES = {
    "simple-spread": "simple_spread_v3",
    "simple-tag": "simple_tag_v3",
    "simple-reference": "simple_reference_v3",
    "simple-adversary": "simple_adversary_v3",
    "simple-speaker-listener": "simple_speaker_listener_v4",
}


def _enter(name: str, path: str, **settings: Any) -> None:
    kind = environment_of(path, {"max_cycles": STEPS, **settings}, STEPS, name)
    kind.__module__ = __name__
    environments.register(name)(kind)


PATHS = {name: f"mpe2.{module}" for name, module in MODULES.items()}
PATHS["simple-tag-prey"] = "offline_marl.environments.prey"

for _name, _path in PATHS.items():
    _enter(_name, _path, continuous_actions=False)
    _enter(f"{_name}-continuous", _path, continuous_actions=True)
