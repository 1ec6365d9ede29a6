"""Particle worlds of MPE (the package mpe2): nine tasks, and Tag of its hunters alone (see `prey.py`).

Each with choices and with continuous actions. Where there are two sides, the adversaries are the first agents, and one
side can be scored against chance (see `opponents.py`).

Continuous actions are those of mpe2, one number each for standing still, left, right, down and up (and for what is
said), stretched from [-1, 1] to its [0, 1]: data of older forks, with a force of two numbers, does not fit.
"""

from __future__ import annotations

from offline_marl.core.permissions import ImportPath
from offline_marl.environments.base import Environment, environments
from offline_marl.environments.parallel.entry import environment_of

STEPS = 25
MOST = 200
"""Agents, landmarks and obstacles that a task may be made with, each: what a step costs grows with their square."""
MODULES = {
    "simple-spread": "mpe2.simple_spread_v3",
    "simple-tag": "offline_marl.environments.opponents:simple_tag",
    "simple-tag-prey": "offline_marl.environments.prey",
    "simple-reference": "mpe2.simple_reference_v3",
    "simple-adversary": "offline_marl.environments.opponents:simple_adversary",
    "simple-speaker-listener": "mpe2.simple_speaker_listener_v4",
    "simple": "mpe2.simple_v3",
    "simple-crypto": "offline_marl.environments.opponents:simple_crypto",
    "simple-push": "offline_marl.environments.opponents:simple_push",
    "simple-world-comm": "offline_marl.environments.opponents:simple_world_comm",
}


def _particles(task: str, continuous: bool = False) -> type[Environment]:
    """The task with one kind of actions, under the name that it is registered by."""
    name = f"{task}-continuous" if continuous else task
    made = environment_of(
        ImportPath(MODULES[task]),
        {"max_cycles": STEPS, "continuous_actions": continuous},
        STEPS,
        name,
        MOST,
        scored_by="random_side",
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
environments.register("simple", "MPE, choices: one agent goes to a landmark.")(_particles("simple"))
environments.register("simple-crypto", "MPE, choices: two share a key and a message, an adversary listens in.")(
    _particles("simple-crypto")
)
environments.register("simple-push", "MPE, choices: an adversary keeps an agent from a landmark that it cannot tell.")(
    _particles("simple-push")
)
environments.register(
    "simple-world-comm", "MPE, choices: four hunters, of whom one sees all and speaks, two prey, food and forests."
)(_particles("simple-world-comm"))
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
environments.register("simple-continuous", "MPE, continuous actions: as simple.")(_particles("simple", continuous=True))
environments.register("simple-crypto-continuous", "MPE, continuous actions: as simple-crypto.")(
    _particles("simple-crypto", continuous=True)
)
environments.register("simple-push-continuous", "MPE, continuous actions: as simple-push.")(
    _particles("simple-push", continuous=True)
)
environments.register("simple-world-comm-continuous", "MPE, continuous actions: as simple-world-comm.")(
    _particles("simple-world-comm", continuous=True)
)
