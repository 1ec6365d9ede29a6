"""Particle worlds of MPE (the package mpe2): five tasks, and one of their hunters alone (see `prey.py`).

Each with choices and with continuous actions.

Continuous actions are those of mpe2, one number each for standing still, left, right, down and up (and for what is
said), stretched from [-1, 1] to its [0, 1]: data of older forks, with a force of two numbers, does not fit.
"""

from __future__ import annotations

from offline_marl.core.permissions import ImportPath
from offline_marl.environments.base import Environment, environments
from offline_marl.environments.pettingzoo import environment_of

STEPS = 25
MODULES = {
    "simple-spread": "mpe2.simple_spread_v3",
    "simple-tag": "mpe2.simple_tag_v3",
    "simple-tag-prey": "offline_marl.environments.prey",
    "simple-reference": "mpe2.simple_reference_v3",
    "simple-adversary": "mpe2.simple_adversary_v3",
    "simple-speaker-listener": "mpe2.simple_speaker_listener_v4",
}


def _particles(task: str, continuous: bool = False) -> type[Environment]:
    """The task with one kind of actions, under the name that it is registered by."""
    name = f"{task}-continuous" if continuous else task
    made = environment_of(
        ImportPath(MODULES[task]), {"max_cycles": STEPS, "continuous_actions": continuous}, STEPS, name
    )
    made.__module__ = __name__
    return made


environments.register(
    "simple-spread", "MPE, choices: three agents cover three landmarks without bumping into each other."
)(_particles("simple-spread"))
environments.register("simple-tag", "MPE, choices: three slow hunters against one fast prey, which is an agent too.")(
    _particles("simple-tag")
)
environments.register(
    "simple-tag-prey", "MPE, choices: the three hunters of simple-tag alone; the prey is part of the task."
)(_particles("simple-tag-prey"))
environments.register("simple-reference", "MPE, choices: two agents, each told by the other where to go.")(
    _particles("simple-reference")
)
environments.register("simple-adversary", "MPE, choices: two agents hide from an adversary which landmark is theirs.")(
    _particles("simple-adversary")
)
environments.register(
    "simple-speaker-listener", "MPE, choices: one speaks and cannot move, one moves and cannot see where to."
)(_particles("simple-speaker-listener"))
environments.register("simple-spread-continuous", "MPE, continuous actions: as simple-spread.")(
    _particles("simple-spread", continuous=True)
)
environments.register("simple-tag-continuous", "MPE, continuous actions: as simple-tag.")(
    _particles("simple-tag", continuous=True)
)
environments.register("simple-tag-prey-continuous", "MPE, continuous actions: as simple-tag-prey.")(
    _particles("simple-tag-prey", continuous=True)
)
environments.register("simple-reference-continuous", "MPE, continuous actions: as simple-reference.")(
    _particles("simple-reference", continuous=True)
)
environments.register("simple-adversary-continuous", "MPE, continuous actions: as simple-adversary.")(
    _particles("simple-adversary", continuous=True)
)
environments.register("simple-speaker-listener-continuous", "MPE, continuous actions: as simple-speaker-listener.")(
    _particles("simple-speaker-listener", continuous=True)
)
