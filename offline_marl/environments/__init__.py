"""Simulators, many copies side by side, seen and moved by several agents."""

from typing import Any

from offline_marl.core.registry import Registry

registry: Registry[Any] = Registry(
    "environment",
    __name__,
    leaves_out=frozenset({"split", "clocked", "pettingzoo", "spaces", "drawing", "particles", "prey", "workers"}),
    families={
        "mamujoco": {
            "ant": "Four-legged ant that runs, Gymnasium's Ant-v5 without contact forces: 4x2, t4x2, 2x4, 2x4d.",
            "halfcheetah": "Two-legged cheetah in a plane that runs, Gymnasium's HalfCheetah-v5: 2x3, 6x1.",
            "hopper": "One-legged hopper in a plane, Gymnasium's Hopper-v5: 3x1.",
            "swimmer": "Three links that swim in a plane, Gymnasium's Swimmer-v5: 2x1.",
            "walker2d": "Two-legged walker in a plane, Gymnasium's Walker2d-v5: 2x3, 6x1.",
        },
        "mpe": {
            "simple-spread": "MPE, choices: three agents cover three landmarks without bumping into each other.",
            "simple-tag": "MPE, choices: three slow hunters against one fast prey, which is an agent too.",
            "simple-tag-prey": "MPE, choices: the three hunters of simple-tag alone; the prey is part of the task.",
            "simple-reference": "MPE, choices: two agents, each told by the other where to go.",
            "simple-adversary": "MPE, choices: two agents hide from an adversary which landmark is theirs.",
            "simple-speaker-listener": "MPE, choices: one speaks and cannot move, one moves and cannot see where to.",
            "simple-spread-continuous": "MPE, continuous actions: as simple-spread.",
            "simple-tag-continuous": "MPE, continuous actions: as simple-tag.",
            "simple-tag-prey-continuous": "MPE, continuous actions: as simple-tag-prey.",
            "simple-reference-continuous": "MPE, continuous actions: as simple-reference.",
            "simple-adversary-continuous": "MPE, continuous actions: as simple-adversary.",
            "simple-speaker-listener-continuous": "MPE, continuous actions: as simple-speaker-listener.",
        },
    },
)
