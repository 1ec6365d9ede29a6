"""Stands in for the Python of SMAX: serves a battle whose numbers are worked by hand.

Two units, six choices: four ways, stop, shoot. An enemy of three lives loses one a shot. A unit may shoot from its
second step on; the second unit dies in step 2. In the scenario `lost` both do. Its clock ends it after 5 steps.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import numpy as np

STOP, SHOOT = 4, 5


class Battle:
    """What `smax_server.World` is, without jaxmarl."""

    def __init__(self, scenario: str, settings: dict[str, Any]) -> None:
        if scenario == "unknown":
            raise KeyError(scenario)
        self.scenario = scenario

    def describe(self) -> dict[str, Any]:
        print("what is printed harms no message")
        sizes = {"agents": 2, "obs": 3, "choices": 6, "state": 2, "max_steps": 5}
        return {**sizes, "versions": {"jaxmarl": "0.0"}}

    def reset(self, seeds: list[int]) -> dict[str, Any]:
        self.seeds, self.lives, self.time = np.array(seeds), np.full(len(seeds), 3), 0
        self.done = np.full((len(seeds), 2), STOP)
        return self.seen()

    def step(self, actions: Any) -> dict[str, Any]:
        if self.scenario == "dies":
            os._exit(3)
        self.time += 1
        self.done = actions
        before = self.lives
        self.lives = np.maximum(before - (actions == SHOOT).sum(1), 0)
        lost = np.full(len(actions), self.scenario == "lost" and self.time >= 2)
        told = {"rewards": (before - self.lives).astype(np.float32), "won": (self.lives == 0) & ~lost}
        told |= {"over": lost | (self.lives == 0), "done": lost | (self.lives == 0) | (self.time >= 5)}
        return {**self.seen(), **told}

    def seen(self) -> dict[str, Any]:
        rows = len(self.seeds)
        alive = np.array([True, self.time < 2])
        avail = np.zeros((rows, 2, 6), bool)
        avail[:, :, STOP] = True
        avail[:, alive] = True
        avail[:, :, SHOOT] &= self.time >= 1
        obs = np.stack([np.broadcast_to(self.seeds[:, None], (rows, 2)), np.full((rows, 2), self.time), self.done], -1)
        state = np.stack([self.lives, np.full(rows, self.time)], -1)
        return {"obs": (obs * alive[:, None]).astype(np.float32), "avail": avail, "state": state.astype(np.float32)}


def main() -> None:
    found = importlib.util.spec_from_file_location("smax_server", sys.argv[1])
    assert found is not None and found.loader is not None
    server = importlib.util.module_from_spec(found)
    found.loader.exec_module(server)
    server.World = Battle
    del sys.argv[1]
    server.main()


if __name__ == "__main__":
    main()
