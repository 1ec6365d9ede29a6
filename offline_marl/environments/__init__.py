"""Simulators, many copies side by side, seen and moved by several agents."""

from typing import Any

from offline_marl.core.registry import Registry

registry: Registry[Any] = Registry(
    "environment",
    __name__,
    leaves_out=frozenset({"split", "clocked"}),
    families={
        "mamujoco": {
            "ant": "Four-legged ant that runs, Gymnasium's Ant-v5 without contact forces: 4x2, t4x2, 2x4, 2x4d.",
            "halfcheetah": "Two-legged cheetah in a plane that runs, Gymnasium's HalfCheetah-v5: 2x3, 6x1.",
            "hopper": "One-legged hopper in a plane, Gymnasium's Hopper-v5: 3x1.",
            "swimmer": "Three links that swim in a plane, Gymnasium's Swimmer-v5: 2x1.",
            "walker2d": "Two-legged walker in a plane, Gymnasium's Walker2d-v5: 2x3, 6x1.",
        },
    },
)
